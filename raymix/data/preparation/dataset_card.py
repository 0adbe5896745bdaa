"""The dataset card: README.md of a prepared dataset, with licence, splits, counts, repairs and how to use it.

Everything in it comes from the documents of the folder, so the same clips have the same card, byte for byte. Licences are
summarised as known when this was written; the publisher's page is authoritative.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import OmegaConf

from raymix.config import DatasetConfig, package_data_folder
from raymix.data import prepared
from raymix.data.media import ManifestRow
from raymix.data.prepared import CARD_FILE, SCENES_FILE, PreparedDataset
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic

OWN_SPLITS = "Ours: by a seeded hash of the group (the video, or the speaker), so that a group is in one split only."

YOUTUBE_LICENCE = "The videos are YouTube's users', who keep their rights; a list gives none on them."


@dataclass(frozen=True)
class PublisherInfo:
    """Title, licence and splits of a dataset, as its publisher describes them."""

    title: str
    licence: str
    splits: str = OWN_SPLITS


PUBLISHERS = {
    "demo": PublisherInfo("raymix's demo", "Made by raymix itself, pictures and sounds: no rights of others."),
    "folder": PublisherInfo(
        "A folder of videos",
        "Unknown: raymix does not know the rights of your videos.",
    ),
    "music": PublisherInfo(
        "MUSIC (Zhao et al. 2018), with the boxes of DSOL (Hu et al. 2020)",
        f"The lists of videos came without a licence; the boxes lie in a repository under MIT. {YOUTUBE_LICENCE}",
        "By the published lists where they name a video; the rest by a seeded hash of the video.",
    ),
    "vggsound_instruments": PublisherInfo(
        "VGGSound-Instruments (Hu et al. 2022), a part of VGGSound (Chen et al. 2020)",
        f"VGGSound's lists are under CC BY 4.0; the masks came without a licence of their own. {YOUTUBE_LICENCE}",
        "By the published lists; what they leave open by a seeded hash of the video.",
    ),
    "vggss": PublisherInfo(
        "VGG-SS (Chen et al. 2021), boxes on VGGSound's test videos",
        f"VGGSound's lists are under CC BY 4.0; the boxes lie in a repository under Apache-2.0. {YOUTUBE_LICENCE}",
        "By the published lists; what they leave open by a seeded hash of the video.",
    ),
    "voxceleb2": PublisherInfo(
        "VoxCeleb2 (Chung et al. 2018)",
        f"The publisher named CC BY 4.0, and asks for care with persons' faces and voices. {YOUTUBE_LICENCE}",
        "By the published lists of speakers; what they leave open by a seeded hash of the speaker.",
    ),
    "flickr_soundnet": PublisherInfo(
        "Flickr-SoundNet, with the boxes of Senocak et al. 2018",
        "The publisher of the boxes allows research only; the videos are of Flickr's users, each under a licence of its own.",
        "By the published lists; what they leave open by a seeded hash of the video.",
    ),
}


def publisher_info(name: str) -> PublisherInfo:
    """Return what is known of a dataset; for one without an entry the licence is unknown."""
    return PUBLISHERS[name] if name in PUBLISHERS else PublisherInfo(name, "Unknown to raymix: ask its publisher.")


MAX_TABLE_ROWS = 12  # of reasons and of repairs

NUMBER = re.compile(r"\d+(?:\.\d+)?")

FILE_SETTINGS = ("splits", "regions", "annotations")  # recorded by the hash of the file

SETTINGS_ELSEWHERE = ("name", "splits", "val", "test", "seed")  # in other sections than the settings' table


@dataclass(frozen=True)
class CardSection:
    """A heading, sentences, and below them a table (its first row is the header) or commands."""

    title: str
    text: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    commands: tuple[str, ...] = ()


def write_dataset_card(directory: str) -> None:
    """Write the card of a prepared dataset again, for instance after scene lists were added.

    Raises:
        ValueError: the folder is no prepared dataset.
    """
    filesystem, path = resolve_uri(directory)
    write_atomic(
        filesystem,
        f"{path}/{CARD_FILE}",
        sections_to_markdown(
            card_sections(prepared.read_prepared_dataset(directory), read_scene_lists(directory))
        ).encode(),
    )


def read_scene_lists(directory: str) -> list[dict[str, Any]]:
    """Return the entries of `scenes.json` of a prepared dataset, [] where there are no scene lists.

    Raises:
        ValueError: the file cannot be read.
    """
    filesystem, path = resolve_uri(directory)
    try:
        return list(json.loads(read_bytes(filesystem, f"{path}/{SCENES_FILE}")))
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{directory}/{SCENES_FILE} cannot be read ({error}); delete it, and make the scenes again"
        ) from None


def card_sections(dataset: PreparedDataset, scenes: Sequence[dict[str, Any]] = ()) -> list[CardSection]:
    """Return the sections of the card; `scenes` are the entries of `scenes.json`."""
    name = str(dataset.description["settings"]["name"])
    info = publisher_info(name)
    summary = f"{info.title}: clips with sound, made by `python -m raymix.prepare dataset={name}`."
    return [
        CardSection(
            f"{name}: {sum(split['clips'] for split in dataset.description['splits'].values())} clips", (summary,)
        ),
        _counts(dataset),
        _classes(dataset),
        _statuses(dataset.manifest),
        _repairs(dataset.manifest),
        _settings(dataset),
        _splits(dataset, info.splits),
        _leaks(dataset),
        _scenes(scenes),
        CardSection("Licence", (info.licence, "raymix claims no right in these clips and passes none on.")),
        _usage(dataset, name),
    ]


def sections_to_markdown(sections: Sequence[CardSection]) -> str:
    """Return the sections as Markdown."""
    return "\n".join(line for index, each in enumerate(sections) for line in _lines(each, "##" if index else "#"))


def _lines(section: CardSection, level: str) -> Iterator[str]:
    yield from (f"{level} {section.title}", "")
    for sentence in section.text:
        yield from (sentence, "")
    for index, row in enumerate(section.table):
        yield f"| {' | '.join(_cell(text) for text in row)} |"
        if not index:
            yield f"|{'---|' * len(row)}"
    if section.table:
        yield ""
    if section.commands:
        yield from (*(f"    {command}" for command in section.commands), "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _length(seconds: float) -> str:
    """A duration in hours, minutes or seconds: the largest unit that gives at least 1, with three digits or more."""
    for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length or unit == "s":
            count = seconds / length
            return f"{count:.{max(0, 3 - len(str(int(count))))}f} {unit}"
    raise AssertionError


def _counts(dataset: PreparedDataset) -> CardSection:
    clip_s, rows = float(dataset.description["settings"]["clip_seconds"]), []
    total = [0, 0.0, 0, 0.0]
    for split, part in dataset.description["splits"].items():
        media_s = sum(entry.duration_s for entry in dataset.manifest if entry.split == split and entry.clips)
        counts = [part["clips"], part["clips"] * clip_s, part["videos"], media_s]
        total = [before + now for before, now in zip(total, counts, strict=True)]
        boxes = str(part["with_regions"]) if "with_regions" in part else "?"
        rows.append((split, str(counts[0]), _length(counts[1]), boxes, str(counts[2]), _length(counts[3])))
    known = all("with_regions" in part for part in dataset.description["splits"].values())
    boxes = str(sum(part["with_regions"] for part in dataset.description["splits"].values())) if known else "?"
    rows.append(("all", str(total[0]), _length(total[1]), boxes, str(total[2]), _length(total[3])))
    columns = ("split", "clips", "length of clips", "clips with regions", "files with clips", "length of these files")
    return CardSection("Counts", table=(columns, *rows))


def _classes(dataset: PreparedDataset) -> CardSection:
    if not dataset.description["classes"]:
        return CardSection("Classes", ("None: the clips carry no class names.",))
    splits = {split: part["labels"] for split, part in dataset.description["splits"].items() if "labels" in part}
    rows = []
    for name in dataset.description["classes"]:
        counts = [Counter(labels)[name] for labels in splits.values()]
        rows.append((name, *map(str, counts), str(dataset.description["labels"][name])))
    text = (
        f"{len(rows)}; clips that carry each name (a clip may carry several). Self-supervised systems never read them."
    )
    return CardSection("Classes", (text,), (("class", *splits, "all"), *rows))


def _statuses(entries: Sequence[ManifestRow]) -> CardSection:
    """Ids by status and reason; reasons that differ only in numbers are one row."""
    alike = defaultdict[tuple[str, str], list[ManifestRow]](list)
    for entry in entries:
        alike[entry.status, NUMBER.sub("0", entry.reason)].append(entry)
    ordered = sorted(alike.items(), key=lambda item: (item[0][0] != "ok", -len(item[1]), item[0]))
    rows = [
        (status, _ranges([each.reason for each in of]) or "-", str(len(of)), of[0].id or of[0].file)
        for (status, _), of in ordered[:MAX_TABLE_ROWS]
    ]
    statuses = Counter(entry.status for entry in entries).most_common()
    text = [f"{len(entries)} ids: {', '.join(f'{count} {status}' for status, count in statuses)}."]
    if len(ordered) > MAX_TABLE_ROWS:
        rest = sum(len(of) for _, of in ordered[MAX_TABLE_ROWS:])
        text.append(
            f"The table has the most frequent reasons; {rest} more ids have {len(ordered) - MAX_TABLE_ROWS} others."
        )
    text.append("`manifest.parquet` has a row for each.")
    return CardSection("Status of every id", (" ".join(text),), (("status", "reason", "ids", "example"), *rows))


def _ranges(reasons: Sequence[str]) -> str:
    """One text for reasons that differ only in numbers: each number becomes its range."""
    numbers = iter(list(zip(*(NUMBER.findall(reason) for reason in reasons), strict=True)))

    def as_range(_: re.Match[str]) -> str:
        values = sorted(set(next(numbers)), key=float)
        return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"

    return NUMBER.sub(as_range, reasons[0])


def _repairs(entries: Sequence[ManifestRow]) -> CardSection:
    repaired = [entry for entry in entries if entry.repairs]
    if not repaired:
        return CardSection("Repairs", ("None: no annotation had to be repaired.",))
    text = f"{sum(entry.repairs for entry in repaired)} in the annotations of {len(repaired)} ids; the first of them:"
    rows = [(entry.id or entry.file, str(entry.repairs), entry.reason or "-") for entry in repaired[:MAX_TABLE_ROWS]]
    return CardSection("Repairs", (text,), (("id", "repairs", "what was done"), *rows))


def _settings(dataset: PreparedDataset) -> CardSection:
    settings = {key: value for key, value in dataset.description["settings"].items() if key not in SETTINGS_ELSEWHERE}
    rows = [(f"dataset.{key}", "-" if value in (None, "") else str(value)) for key, value in settings.items()]
    frames, bins = dataset.description["stft_shape"]
    text = (
        f"Preprocessing `{dataset.description['preprocessing']}` (a hash of schema and settings; each shard carries it). Frames are "
        f"JPEG; sound is mono at 16 kHz, stored as a complex STFT of {frames} x {bins} in half precision."
    )
    return CardSection("How the clips were made", (text,), (("setting", "value"), *rows))


def _splits(dataset: PreparedDataset, how: str) -> CardSection:
    settings = dataset.description["settings"]
    if given := settings.get("splits"):
        return CardSection(
            "Splits", (f"By a split file of the person who prepared the clips, whose hash is `{given}`.",)
        )
    drawn = f"Seed {settings['seed']}; shares: val {settings['val']:g}, test {settings['test']:g} of what is drawn."
    return CardSection("Splits", (how, drawn))


def _leaks(dataset: PreparedDataset) -> CardSection:
    checked = "Checked between splits: videos, groups (speakers), and files with the same size, beginning and end."
    if "leaks" not in dataset.description:
        return CardSection("Leaks", ("These clips were prepared by a version of raymix that recorded no checks.",))
    if dataset.description["leaks"]:
        return CardSection(
            "Leaks", (checked, f"**{dataset.description['leaks']} found and allowed** (`leaks.csv` has them all).")
        )
    leaked = sum(entry.status == "leaked" for entry in dataset.manifest)
    left = f" {leaked} ids were left out since another list has them." if leaked else ""
    return CardSection("Leaks", (checked, f"None found.{left}"))


def _scenes(scenes: Sequence[dict[str, Any]]) -> CardSection:
    if not scenes:
        return CardSection(
            "Scenes for evaluation", ("No fixed lists here; `layouts=` of `raymix.prepare` writes some.",)
        )
    columns = ("list", "layout", "sources", "split", "scenes", "missing", "hash")
    rows = [(f"`scenes/{each['file']}`", *(str(each[name] or 0) for name in columns[1:])) for each in scenes]
    text = (
        "Fixed lists for `python -m raymix.evaluate pair_list=`; the hash is of a list's content. Of a published list the "
        "scenes without their clips are missing here, and named in a file beside it."
    )
    return CardSection("Scenes for evaluation", (text,), (columns, *rows))


def _usage(dataset: PreparedDataset, name: str) -> CardSection:
    words = [f"dataset={name}", *_changed_settings(dataset, name), "dataset.prepared=DIR"]
    arguments = " ".join(word if re.search(r"=\[", word) else shlex.quote(word) for word in words)
    return CardSection(
        "How to use it",
        (
            "`DIR` is this folder; a `FILE` is the one that the clips were prepared with. Without a GPU the search has small "
            "sizes (`recipe=small`); `cluster=one_gpu` brings the paper's.",
        ),
        commands=(
            "python -m raymix.prepare inspect=DIR",
            f"python -m raymix.prepare {arguments} layouts=[single,hconcat,grid2x2]",
            f"python -m raymix.tune {arguments} study.name=mine",
            "python -m raymix.evaluate study=mine pair_list=DIR/scenes/NAME.parquet",
        ),
    )


def _changed_settings(dataset: PreparedDataset, name: str) -> Iterator[str]:
    """The settings that differ from the YAML file of the dataset, as words of a command line."""
    file = package_data_folder("configs") / "dataset" / f"{name}.yaml"
    defaults: dict[str, Any] = asdict(DatasetConfig())
    if file.exists():
        from_file: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        defaults |= {str(key): value for key, value in from_file.items()}
    for key, value in {"root": dataset.description["root"], **dataset.description["settings"]}.items():
        computed = isinstance(defaults[key], str) and "${" in defaults[key] if key in defaults else True
        if not computed and value != defaults[key] and key != "name":
            yield f"dataset.{key}={'FILE' if key in FILE_SETTINGS else 'null' if value is None else value}"
