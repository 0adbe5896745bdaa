"""The dataset card: README.md of a prepared dataset, with licence, splits, counts, repairs and how to use it.

In our words and as far as known when this was written: the publisher's page decides, not this table.

Everything in it comes from the folder's own documents, so the same clips have the same card, byte for byte.
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
from raymix.data.prepared import PreparedDataset
from raymix.data.records import ManifestRow
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic

OWN_SPLITS = "Ours: by a seeded hash of the group (the video, or the speaker), so that a group is in one split only."

YOUTUBE_LICENCE = "The videos are YouTube's users', who keep their rights; a list gives none on them."


@dataclass(frozen=True)
class PublisherInfo:
    """What a card says of a dataset beyond its numbers."""

    title: str
    licence: str
    splits: str = OWN_SPLITS


PUBLISHERS = {
    "demo": PublisherInfo("raymix's demo", "Made by raymix itself, pictures and sounds: no rights of others."),
    "folder": PublisherInfo(
        "A folder of videos",
        "Unknown: these are your own videos, or somebody's whom you can ask. raymix neither knows nor checks.",
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
    """What is known of a dataset; of one that is not in the table, that nothing is."""
    return PUBLISHERS[name] if name in PUBLISHERS else PublisherInfo(name, "Unknown to raymix: ask its publisher.")


CARD_FILE, SCENES_FILE = "README.md", "scenes/scenes.json"

REASONS = 12  # lines of the table of drop-outs

NUMBER = re.compile(r"\d+(?:\.\d+)?")

FILES = ("splits", "regions", "annotations")  # of which the settings keep hashes

UNSAID = ("name", "splits", "val", "test", "seed")  # settings that have a section of their own


@dataclass(frozen=True)
class CardSection:
    """A heading, sentences, and a table (its first row are the columns) or commands below."""

    title: str
    text: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    commands: tuple[str, ...] = ()


def write_dataset_card(directory: str) -> None:
    """Write the card of a prepared dataset anew, after something came to its folder; ValueError where it is none."""
    filesystem, path = resolve_uri(directory)
    write_atomic(
        filesystem,
        f"{path}/{CARD_FILE}",
        sections_to_markdown(
            card_sections(prepared.read_prepared_dataset(directory), read_scene_lists(directory))
        ).encode(),
    )


def read_scene_lists(directory: str) -> list[dict[str, Any]]:
    """What is known of the lists of scenes in the folder (`raymix.data.preparation.scene_lists`), [] where there are none."""
    filesystem, path = resolve_uri(directory)
    try:
        return list(json.loads(read_bytes(filesystem, f"{path}/{SCENES_FILE}")))
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{directory}/{SCENES_FILE} cannot be read ({error}); delete it, and make the scenes again"
        ) from None


def card_sections(of: PreparedDataset, scenes: Sequence[dict[str, Any]] = ()) -> list[CardSection]:
    """The card as headings, sentences and tables."""
    name = str(of.facts["settings"]["name"])
    known = publisher_info(name)
    made = f"{known.title}: clips with sound, made by `python -m raymix.prepare dataset={name}`."
    return [
        CardSection(f"{name}: {sum(split['clips'] for split in of.facts['splits'].values())} clips", (made,)),
        _counts(of),
        _classes(of),
        _fates(of.entries),
        _repairs(of.entries),
        _making(of),
        _splits(of, known.splits),
        _leaks(of),
        _scenes(scenes),
        CardSection("Licence", (known.licence, "raymix claims no right in these clips and passes none on.")),
        _use(of, name),
    ]


def sections_to_markdown(sections: Sequence[CardSection]) -> str:
    """The sections as Markdown."""
    return "\n".join(line for place, each in enumerate(sections) for line in _lines(each, "#" if not place else "##"))


def _lines(section: CardSection, level: str) -> Iterator[str]:
    yield from (f"{level} {section.title}", "")
    for sentence in section.text:
        yield from (sentence, "")
    for place, row in enumerate(section.table):
        yield f"| {' | '.join(_cell(text) for text in row)} |"
        if not place:
            yield f"|{'---|' * len(row)}"
    if section.table:
        yield ""
    if section.commands:
        yield from (*(f"    {command}" for command in section.commands), "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _length(seconds: float) -> str:
    """A duration in the largest unit of which there is at least one, with three digits or more."""
    for unit, of in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= of or unit == "s":
            count = seconds / of
            return f"{count:.{max(0, 3 - len(str(int(count))))}f} {unit}"
    raise AssertionError


def _counts(of: PreparedDataset) -> CardSection:
    each_s, rows = float(of.facts["settings"]["clip_seconds"]), []
    total = [0, 0.0, 0, 0.0]
    for split, found in of.facts["splits"].items():
        seen_s = sum(entry.duration_s for entry in of.entries if entry.split == split and entry.clips)
        counts = [found["clips"], found["clips"] * each_s, found["videos"], seen_s]
        total = [before + now for before, now in zip(total, counts, strict=True)]
        boxes = str(found["with_regions"]) if "with_regions" in found else "?"
        rows.append((split, str(counts[0]), _length(counts[1]), boxes, str(counts[2]), _length(counts[3])))
    known = all("with_regions" in found for found in of.facts["splits"].values())
    boxes = str(sum(found["with_regions"] for found in of.facts["splits"].values())) if known else "?"
    rows.append(("all", str(total[0]), _length(total[1]), boxes, str(total[2]), _length(total[3])))
    columns = ("split", "clips", "length of clips", "clips with regions", "files with clips", "length of these files")
    return CardSection("Counts", table=(columns, *rows))


def _classes(of: PreparedDataset) -> CardSection:
    if not of.facts["classes"]:
        return CardSection("Classes", ("None: the clips carry no class names.",))
    splits = {split: found["labels"] for split, found in of.facts["splits"].items() if "labels" in found}
    rows = []
    for name in of.facts["classes"]:
        counts = [Counter(labels)[name] for labels in splits.values()]
        rows.append((name, *map(str, counts), str(of.facts["labels"][name])))
    told = (
        f"{len(rows)}; clips that carry each name (a clip may carry several). Self-supervised systems never read them."
    )
    return CardSection("Classes", (told,), (("class", *splits, "all"), *rows))


def _fates(entries: Sequence[ManifestRow]) -> CardSection:
    """What became of every listed id: by status and reason; reasons that differ in numbers only are one row."""
    alike = defaultdict[tuple[str, str], list[ManifestRow]](list)
    for entry in entries:
        alike[entry.status, NUMBER.sub("0", entry.reason)].append(entry)
    ordered = sorted(alike.items(), key=lambda item: (item[0][0] != "ok", -len(item[1]), item[0]))
    rows = [
        (status, _ranges([each.reason for each in of]) or "-", str(len(of)), of[0].id or of[0].file)
        for (status, _), of in ordered[:REASONS]
    ]
    statuses = Counter(entry.status for entry in entries).most_common()
    told = [f"{len(entries)} ids: {', '.join(f'{count} {status}' for status, count in statuses)}."]
    if len(ordered) > REASONS:
        rest = sum(len(of) for _, of in ordered[REASONS:])
        told.append(f"The table has the most frequent reasons; {rest} more ids have {len(ordered) - REASONS} others.")
    told.append("`manifest.parquet` has a row for each.")
    return CardSection(
        "What became of every id", (" ".join(told),), (("status", "reason", "ids", "for instance"), *rows)
    )


def _ranges(reasons: Sequence[str]) -> str:
    """Reasons that differ in numbers only as one: each number, or from the smallest to the largest."""
    numbers = iter(list(zip(*(NUMBER.findall(reason) for reason in reasons), strict=True)))

    def spread(_: re.Match[str]) -> str:
        found = sorted(set(next(numbers)), key=float)
        return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"

    return NUMBER.sub(spread, reasons[0])


def _repairs(entries: Sequence[ManifestRow]) -> CardSection:
    mended = [entry for entry in entries if entry.repairs]
    if not mended:
        return CardSection("Repairs", ("None: no annotation had to be mended.",))
    told = f"{sum(entry.repairs for entry in mended)} in the annotations of {len(mended)} ids; the first of them:"
    rows = [(entry.id or entry.file, str(entry.repairs), entry.reason or "-") for entry in mended[:REASONS]]
    return CardSection("Repairs", (told,), (("id", "repairs", "what was done"), *rows))


def _making(of: PreparedDataset) -> CardSection:
    settings = {key: value for key, value in of.facts["settings"].items() if key not in UNSAID}
    rows = [(f"dataset.{key}", "-" if value in (None, "") else str(value)) for key, value in settings.items()]
    frames, bins = of.facts["stft_shape"]
    told = (
        f"Preprocessing `{of.facts['preprocessing']}` (a hash of schema and settings; each shard carries it). Frames are "
        f"JPEG; sound is mono at 16 kHz, stored as a complex STFT of {frames} x {bins} in half precision."
    )
    return CardSection("How the clips were made", (told,), (("setting", "value"), *rows))


def _splits(of: PreparedDataset, how: str) -> CardSection:
    settings = of.facts["settings"]
    if given := settings.get("splits"):
        return CardSection("Splits", (f"By the lists of the one who prepared the clips, whose hash is `{given}`.",))
    drawn = f"Seed {settings['seed']}; shares: val {settings['val']:g}, test {settings['test']:g} of what is drawn."
    return CardSection("Splits", (how, drawn))


def _leaks(of: PreparedDataset) -> CardSection:
    checked = "Checked between splits: videos, groups (speakers), and files with the same size, beginning and end."
    if "leaks" not in of.facts:
        return CardSection("Leaks", ("These clips are of a raymix that noted no checks.",))
    if of.facts["leaks"]:
        return CardSection("Leaks", (checked, f"**{of.facts['leaks']} found and allowed** (`leaks.csv` has them all)."))
    leaked = sum(entry.status == "leaked" for entry in of.entries)
    left = f" {leaked} ids were left out since another list has them." if leaked else ""
    return CardSection("Leaks", (checked, f"None found.{left}"))


def _scenes(scenes: Sequence[dict[str, Any]]) -> CardSection:
    if not scenes:
        return CardSection(
            "Scenes for evaluation", ("No fixed lists here; `layouts=` of `raymix.prepare` writes some.",)
        )
    columns = ("list", "layout", "sources", "split", "scenes", "missing", "hash")
    rows = [(f"`scenes/{each['file']}`", *(str(each[name] or 0) for name in columns[1:])) for each in scenes]
    told = (
        "Fixed lists for `python -m raymix.evaluate pair_list=`; the hash is of a list's content. Of a published list the "
        "scenes without their clips are missing here, and named in a file beside it."
    )
    return CardSection("Scenes for evaluation", (told,), (columns, *rows))


def _use(of: PreparedDataset, name: str) -> CardSection:
    words = [f"dataset={name}", *_differing(of, name), "dataset.prepared=DIR"]
    same = " ".join(word if re.search(r"=\[", word) else shlex.quote(word) for word in words)
    return CardSection(
        "How to use it",
        (
            "`DIR` is this folder; a `FILE` is the one that the clips were prepared with. Without a GPU the search has small "
            "sizes (`recipe=small`); `cluster=one_gpu` brings the paper's.",
        ),
        commands=(
            "python -m raymix.prepare inspect=DIR",
            f"python -m raymix.prepare {same} layouts=[single,hconcat,grid2x2]",
            f"python -m raymix.tune {same} study.name=mine",
            "python -m raymix.evaluate study=mine pair_list=DIR/scenes/NAME.parquet",
        ),
    )


def _differing(of: PreparedDataset, name: str) -> Iterator[str]:
    """The settings that these clips do not have from the dataset's own YAML, as words of a command line."""
    file = package_data_folder("configs") / "dataset" / f"{name}.yaml"
    usual: dict[str, Any] = asdict(DatasetConfig())
    if file.exists():
        from_file: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        usual |= {str(key): value for key, value in from_file.items()}
    for key, value in {"root": of.facts["root"], **of.facts["settings"]}.items():
        computed = isinstance(usual[key], str) and "${" in usual[key] if key in usual else True
        if not computed and value != usual[key] and key != "name":
            yield f"dataset.{key}={'FILE' if key in FILES else 'null' if value is None else value}"
