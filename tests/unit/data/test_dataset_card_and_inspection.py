"""Dataset card, inspection page, leaks between splits and scene lists of a prepared dataset."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raymix import prepare
from raymix.cli.commands import compose_config
from raymix.config import DatasetConfig, PrepareConfig
from raymix.data import pair_lists, prepared
from raymix.data.media import MediaSource
from raymix.data.preparation import dataset_card, pipeline, scene_lists, split_leaks
from raymix.data.preparation.dataset_card import PUBLISHERS
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.preparation.scene_lists import SceneListRequest
from raymix.data.scenes import compose_listed_scenes, compose_scenes
from raymix.reporting import contact_sheets, dataset_inspection
from raymix.runtime.storage import read_bytes, resolve_uri
from tests.support.make_videos import film

RED = (0.0, 0.0, 0.5, 0.5)  # the quarter of each film that is red


def quiet(_: str) -> None:
    pass


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    """Ten videos of two classes with boxes: silent ones, unusual names, a repaired annotation, a corrupt file."""
    root = tmp_path_factory.mktemp("boxed")
    regions = {}
    for number in range(8):
        name = f"{'guitar' if number % 2 else 'cello'}/{number}.mp4"
        film(root / "in" / name, 2.0 + number / 8, fps=25, level=0.1 + number / 100)
        regions[name] = [{"label": name.split("/")[0], "box": RED}]
    regions["cello/0.mp4"] += [{"label": "flute & <b>", "box": (0.6, 0.6, 0.9, 0.7), "sounding": False}]
    for number, name in enumerate(("cello/音 $x$_y.mp4", "guitar/duet.mp4")):
        film(root / "in" / name, 2.0, level=0.3 + number / 10)
        regions[name] = [{"label": "cello", "box": RED}, {"label": "guitar", "box": (0.5, 0.5, 1.0, 1.0)}]
    (root / "in" / "guitar" / "broken | 1.mp4").write_bytes(b"not a video")
    (root / "regions.json").write_text(json.dumps(regions))
    splits = "".join(
        f"{name},{'test' if number % 5 < 3 or number > 7 else 'train'}\n" for number, name in enumerate(regions)
    )
    (root / "splits.csv").write_text(f"file,split\n{splits}guitar/broken | 1.mp4,train\n")
    settings = DatasetConfig(
        name="folder",
        root=str(root / "in"),
        prepared=str(root / "out"),
        clip_seconds=1.0,
        stride_seconds=1.0,
        frame_size=48,
        classes="parent",
        regions=str(root / "regions.json"),
        splits=str(root / "splits.csv"),
    )
    prepare_dataset(settings, quiet)
    return settings


@pytest.fixture
def copy(boxed: DatasetConfig, tmp_path: Path) -> str:
    shutil.copytree(boxed.prepared, tmp_path / "copy")
    return str(tmp_path / "copy")


def test_card_counts(boxed: DatasetConfig) -> None:
    text = Path(boxed.prepared, "README.md").read_text()
    clips = {split: prepared.read_clips(boxed.prepared, split, 16, truth=True) for split in ("train", "test")}
    for split, found in clips.items():
        videos, length = len(set(found.video)), f"{len(found):.{2 - len(found) // 10}f} s"  # clips of one second
        assert f"| {split} | {len(found)} | {length} | {int(found.has_truth.sum())} | {videos} | " in text
        for name in ("cello", "guitar"):
            counts = {each: int((of.label == name).sum()) for each, of in clips.items()}
            assert f"| {name} | {counts['train']} | 0 | {counts['test']} | {sum(counts.values())} |" in text
    assert "11 ids: 10 ok, 1 corrupt." in text and r"| guitar/broken \| 1.mp4 |" in text
    facts = prepared.read_dataset_json(boxed.prepared)
    assert f"`{facts['preprocessing']}`" in text and "| dataset.clip_seconds | 1.0 |" in text
    assert "by a seeded hash" not in text and facts["settings"]["splits"] in text  # the splits are those of a list
    assert "None found." in text and facts["leaks"] == 0
    assert PUBLISHERS["folder"].licence in text
    assert boxed.prepared not in text  # so that the same clips elsewhere have the same card


def test_commands_of_the_card_use_the_same_clips(boxed: DatasetConfig) -> None:
    text = Path(boxed.prepared, "README.md").read_text()
    words = next(line for line in text.splitlines() if "layouts=" in line and line.startswith("    ")).split()[3:]
    files = {"dataset.regions": boxed.regions, "dataset.splits": boxed.splits}
    given = [f"{w.split('=')[0]}={files[w.split('=')[0]]}" if w.endswith("=FILE") else w for w in words]
    given = [word.replace("=DIR", f"={boxed.prepared}") for word in given]
    assert "dataset.clip_seconds=1.0" in given and f"dataset.root={boxed.root}" in given
    composed = compose_config("prepare", given, None, "/none")
    there = pipeline.find_prepared(composed.dataset)  # ValueError where they were prepared with other settings
    assert there is not None and composed.layouts == ["single", "hconcat", "grid2x2"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (7.5, "7.50 s"),
        (40, "40.0 s"),
        (90, "1.50 min"),
        (400, "6.67 min"),
        (3599, "60.0 min"),
        (3600, "1.00 h"),
        (450_000, "125 h"),
        (4_500_000, "1250 h"),
    ],
)
def test_durations_have_three_digits_and_a_suitable_unit(seconds: float, text: str) -> None:
    assert dataset_card._length(seconds) == text


def test_reasons_that_differ_in_numbers_are_merged_with_ranges() -> None:
    assert dataset_card._ranges(["every clip is below -60 dB"] * 3) == "every clip is below -60 dB"
    reasons = [f"video stops at {at} s of {of} s" for at, of in ((1.5, 9), (10.25, 9), (2, 30))]
    assert dataset_card._ranges(reasons) == "video stops at 1.5 to 10.25 s of 9 to 30 s"


def test_card_lists_repairs_and_merges_reasons(boxed: DatasetConfig) -> None:
    found = prepared.read_prepared_dataset(boxed.prepared)
    rows = [
        dataclasses.replace(found.manifest[0], id=f"v{n}", status="repaired", reason=f"box {n}.5 clipped", repairs=2)
        for n in range(30)
    ]
    odd = [dataclasses.replace(rows[0], id=f"w{n}", status="error", reason="x" * (n + 1), repairs=0) for n in range(20)]
    text = dataset_card.sections_to_markdown(
        dataset_card.card_sections(dataclasses.replace(found, manifest=(*rows, *odd)))
    )
    assert "| repaired | box 0.5 to 29.5 clipped | 30 | v0 |" in text and "60 in the annotations of 30 ids" in text
    assert "9 more ids have 9 others" in text and "50 ids: 30 repaired, 20 error." in text


def test_card_of_an_older_dataset(copy: str) -> None:
    folder = Path(copy)
    facts = json.loads((folder / "dataset.json").read_text())
    del facts["leaks"]
    for split in facts["splits"].values():
        del split["labels"], split["with_regions"]
    (folder / "dataset.json").write_text(json.dumps(facts))
    table = pq.read_table(folder / "manifest.parquet").drop_columns(["id", "group", "repairs", "media", "video"])
    pq.write_table(table, folder / "manifest.parquet")
    text = dataset_card.sections_to_markdown(dataset_card.card_sections(prepared.read_prepared_dataset(copy)))
    assert "recorded no checks" in text and "| cello | " in text
    assert dataset_inspection.inspect_dataset(copy, None, 1, 0, quiet)
    (folder / "manifest.parquet").unlink()
    with pytest.raises(ValueError, match=r"no manifest.parquet beside dataset.json"):
        prepared.read_prepared_dataset(copy)


class Page(html.parser.HTMLParser):
    """Collects the addresses that a browser would fetch, and the text that it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_a_page_of_contact_sheets(boxed: DatasetConfig, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in Path(boxed.prepared).glob("*.parquet")}
    lines: list[str] = []
    written = dataset_inspection.inspect_dataset(boxed.prepared, str(tmp_path / "look"), 3, 0, lines.append)
    page = Page((tmp_path / "look/index.html").read_text())
    assert sorted(page.fetched) == ["odd.png", "regions.png", "test.png", "train.png"]  # nothing from a net
    assert {Path(each).name for each in written} == {"index.html", *page.fetched}
    for name in page.fetched:
        image = np.asarray(Image.open(tmp_path / "look" / name).convert("RGB"))
        assert image.std() > 20 and min(image.shape[:2]) > 100
    assert "11 ids: 10 ok, 1 corrupt." in page.text and str(tmp_path / "look/index.html") in lines[-1]
    facts = prepared.read_dataset_json(boxed.prepared)
    for split in ("train", "test"):
        count = facts["splits"][split]["clips"]
        assert f"{split}: 3 of {count} clips by chance (seed 0)" in page.text
    assert "folder:cello/0.mp4:0" in page.text and "2 regions" in page.text  # an odd one
    again = dataset_inspection.inspect_dataset(boxed.prepared, str(tmp_path / "again"), 3, 0, quiet)
    assert all(Path(a).read_bytes() == Path(b).read_bytes() for a, b in zip(written, again, strict=True))
    assert {path.name: path.read_bytes() for path in Path(boxed.prepared).glob("*.parquet")} == before


def test_unusual_names_are_drawn(boxed: DatasetConfig, recwarn: pytest.WarningsRecorder) -> None:
    place = next(p for p in dataset_inspection._survey(boxed.prepared, "test").places if "音" in p.clip_id)
    shown = dataset_inspection._load(resolve_uri(boxed.prepared)[0], [(place, r"why $\\frac{")])[0]
    assert len(shown.regions) == 2 and "音" in shown.clip_id
    shown = dataclasses.replace(shown, labels=("音 $x$", r"$\\no"))
    assert contact_sheets.sheet_to_png(contact_sheets.draw_contact_sheet([shown] * 2, r"$\\nothing {"))[1:4] == b"PNG"
    assert not [each for each in recwarn if "Glyph" in str(each.message)]
    many = dataclasses.replace(
        shown, frames=shown.frames * 7, times_s=shown.times_s * 7, regions=({**shown.regions[0], "frame": 5},)
    )
    assert many.drawn == [0, 1, 2, 5]


def test_the_sheets_are_of_different_videos_and_the_seed_changes_them(boxed: DatasetConfig) -> None:
    survey = dataset_inspection._survey(boxed.prepared, "test")
    videos = {place.names for place in survey.places}
    drawn = [dataset_inspection._by_chance(survey.places, len(videos), np.random.default_rng(seed)) for seed in (0, 1)]
    assert all({place.names for place, _ in each} == videos for each in drawn)
    assert drawn[0] != drawn[1]
    assert survey.regions == sum(len(place.areas) for place in survey.places) == len(survey.areas)
    y, x = np.unravel_index(int(survey.map_YX.argmax()), survey.map_YX.shape)
    assert max(x, y) < dataset_inspection.DENSITY_GRID / 2  # boxes lie in the red quarter
    assert sorted(set(np.round(survey.areas, 3))) in ([0.03, 0.25], [0.25])


def test_unusual_clips_are_chosen_by_kind(boxed: DatasetConfig) -> None:
    found, places = prepared.read_prepared_dataset(boxed.prepared), []
    for split in ("train", "test"):
        places += dataset_inspection._survey(boxed.prepared, split).places
    entries = tuple(
        dataclasses.replace(each, repairs=1, status="repaired") if each.file == "guitar/3.mp4" else each
        for each in found.manifest
    )
    chosen = dataset_inspection._odd(dataclasses.replace(found, manifest=entries), places, 1)
    said = [(place.clip_id.split(":")[1], why) for place, why in chosen]
    assert said[0] == ("guitar/3.mp4", "repaired")
    assert said[1][1] == "2 regions" and len({name for name, _ in said}) == len(said) == 4
    assert said[2][1].startswith("smallest region") and said[3][1] == "largest region, 25.0%"


def test_a_box_is_drawn_where_it_is(boxed: DatasetConfig) -> None:
    """The outline surrounds the red quarter in the pixels of a sheet, and is absent without the region."""
    place = next(p for p in dataset_inspection._survey(boxed.prepared, "test").places if "guitar/1" in p.clip_id)
    shown = dataset_inspection._load(resolve_uri(boxed.prepared)[0], [(place, "")])[0]
    assert shown.regions[0]["box_xyxy"] == pytest.approx(RED)
    bare = dataclasses.replace(shown, regions=())
    pictures = [
        np.asarray(
            Image.open(io.BytesIO(contact_sheets.sheet_to_png(contact_sheets.draw_contact_sheet([each], "x")))).convert(
                "RGB"
            ),
            int,
        )
        for each in (shown, bare)
    ]
    rows, columns = np.nonzero(np.abs(pictures[0] - pictures[1]).sum(axis=2) > 60)
    red = (pictures[1][:300, :, 0] > 150) & (pictures[1][:300, :, 1:].max(axis=2) < 90)
    red_rows, red_columns = (np.nonzero(red.sum(axis=axis) > 20)[0] for axis in (1, 0))
    for drawn, seen in ((rows, red_rows), (columns, red_columns)):
        assert abs(int(drawn.min()) - int(seen.min())) <= 6 and abs(int(drawn.max()) - int(seen.max())) <= 6
    assert shown.mel_TM.shape == (201, 64) and shown.mel_TM.max() > -0.5


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nowhere", r"no prepared dataset \(no dataset.json\)"),
        ("", "prepared near it: .*copy"),
        ("copy/dataset.json", "is a file; name the folder"),
    ],
)
def test_a_wrong_folder_is_refused(copy: str, tmp_path: Path, word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        dataset_inspection.inspect_dataset(str(tmp_path / word), str(tmp_path / "look"), 4, 0, quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "look").exists()


def test_inspect_does_not_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", f"inspect={tmp_path}/nowhere", f"home={tmp_path}/home"])
    with pytest.raises(SystemExit) as stop:
        prepare.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "no prepared dataset" in said
    assert list(tmp_path.iterdir()) == []


def test_inspection_of_a_dataset_on_s3(copy: str, s3: str, tmp_path: Path) -> None:
    filesystem, path = resolve_uri(s3)
    for file in Path(copy).glob("*.*"):
        with filesystem.open_output_stream(f"{path}/{file.name}") as stream:
            stream.write(file.read_bytes())
    there = dataset_inspection.inspect_dataset(s3, None, 1, 0, quiet)
    here = dataset_inspection.inspect_dataset(copy, str(tmp_path / "here"), 1, 0, quiet)
    assert there[0] == f"{s3}/inspect/index.html"
    for file in here[1:]:
        assert Path(file).read_bytes() == read_bytes(filesystem, f"{path}/inspect/{Path(file).name}")
    scene_lists.write_scene_lists(s3, SceneListRequest(["hconcat"], count=4), quiet)
    assert pair_lists.read_pair_list(f"{s3}/scenes/test-hconcat-0-4.parquet").layout == "hconcat"


@pytest.mark.parametrize("layout", ["single", "hconcat", "hconcat3", "grid2x2", "natural"])
def test_a_scene_list_has_the_drawn_scenes(copy: str, layout: str) -> None:
    made = scene_lists.write_scene_lists(copy, SceneListRequest([layout], count=5, seed=3), quiet)[0]
    name, sources = scene_lists.parse_layout_id(layout)
    pairs = pair_lists.read_pair_list(f"{copy}/scenes/{made['file']}")
    clips = prepared.read_clips(copy, "test", 32, truth=True, sources=name == "natural")
    listed = compose_listed_scenes(clips, pairs, seconds=0.5)
    drawn = compose_scenes(clips, layout=name, sources=sources, count=5, seed=3, seconds=0.5)
    heard = drawn.panels_NS.shape[1]
    assert listed.ids == drawn.ids and (listed.panels_NS == drawn.panels_NS).all()
    assert [each[:heard] for each in listed.videos] == [each[:heard] for each in drawn.videos]
    assert (listed.mixture_NTF == drawn.mixture_NTF).all() and (listed.frames_N3YX == drawn.frames_N3YX).all()
    assert made["hash"] == pairs.hash and made["id"] == pairs.id == f"test-{layout}-3-5"
    assert made["scenes"] == len(drawn) and dataset_card.read_scene_lists(copy) == [made]
    told = f"| `scenes/test-{layout}-3-5.parquet` | {name} | {3 if '3' in layout else 1 if name == 'single' else 2} | test |"
    assert told in Path(copy, "README.md").read_text()


def test_scene_lists_are_reproducible_and_keep_others(copy: str) -> None:
    scene_lists.write_scene_lists(copy, SceneListRequest(["hconcat"], count=4), quiet)
    first = {path.name: path.read_bytes() for path in Path(copy, "scenes").iterdir()}
    scene_lists.write_scene_lists(copy, SceneListRequest(["single"], count=4), quiet)
    scene_lists.write_scene_lists(copy, SceneListRequest(["hconcat"], count=4), quiet)
    now = {path.name: path.read_bytes() for path in Path(copy, "scenes").iterdir()}
    assert set(now) == {*first, "test-single-0-4.parquet"}
    assert all(now[name] == data for name, data in first.items() if name != "scenes.json")
    assert [each["id"] for each in dataset_card.read_scene_lists(copy)] == ["test-hconcat-0-4", "test-single-0-4"]
    with pytest.raises(ValueError, match=r"layout=natural: none of 16 clips"):
        scene_lists.write_scene_lists(copy, SceneListRequest(["vconcat", "natural4"], count=4), quiet)
    assert {path.name: path.read_bytes() for path in Path(copy, "scenes").iterdir()} == now  # all of them, or none


def test_a_published_list_keeps_complete_scenes_and_names_the_others(copy: str, tmp_path: Path) -> None:
    test = sorted(set(prepared.read_video_ids(copy, "test")))
    rows = [(test[0], test[1]), (test[2], "gone"), (test[1], test[2])]
    file = tmp_path / "duets.csv"
    file.write_text(
        "scene_id,layout,place,video,time_s\n"
        + "".join(
            f"s{number},hconcat,{place},{name},0.5\n"
            for number, row in enumerate(rows)
            for place, name in enumerate(row)
        )
    )
    lines: list[str] = []
    made = scene_lists.write_scene_lists(copy, SceneListRequest(pair_lists=[str(file)]), lines.append)[0]
    assert (made["scenes"], made["missing"], made["of"]["scenes"]) == (2, 1, 3) and "1 without their clips" in lines[0]
    kept = pair_lists.read_pair_list(f"{copy}/scenes/test-duets.parquet")
    assert kept.ids == ["s0", "s2"] and kept.hash == made["hash"]
    given = pair_lists.read_pair_list(str(file))
    assert kept.origin == pair_lists.PairListOrigin("duets", given.hash, 3, 1)
    again = scene_lists.write_scene_lists(
        copy, SceneListRequest(pair_lists=[f"{copy}/scenes/test-duets.parquet"]), quiet
    )[0]
    assert (again["id"], again["scenes"], again["missing"]) == ("test-test-duets", 2, 1)  # still of the list of three
    assert again["of"] == {"id": "duets", "hash": given.hash, "scenes": 3}
    clips = prepared.read_clips(copy, "test", 32, truth=False)
    assert clips.video[kept.locate_clips(clips)].tolist() == [[test[0], test[1]], [test[1], test[2]]]
    gone = rows_of(Path(copy, "scenes/test-duets-missing.csv"))
    assert [each["scene_id"] for each in gone] == ["s1"] and "gone" in gone[0]["reason"]
    file.write_text("\n".join(file.read_text().splitlines()[:3]) + "\n")
    with pytest.raises(ValueError, match=r"holds the scenes .* give the list another name"):
        scene_lists.write_scene_lists(copy, SceneListRequest(pair_lists=[str(file)]), quiet)
    file.write_text("scene_id,layout,place,video\nx,hconcat,0,gone\nx,hconcat,1,away\n")
    with pytest.raises(ValueError, match="none of 1 scenes has its clips in split 'test'"):
        scene_lists.write_scene_lists(copy, SceneListRequest(pair_lists=[str(file)]), quiet)


def test_overwriting_the_clips_deletes_their_scene_lists(boxed: DatasetConfig, tmp_path: Path) -> None:
    settings = dataclasses.replace(boxed, prepared=str(tmp_path / "out"))
    prepare_dataset(settings, quiet)
    scene_lists.write_scene_lists(settings.prepared, SceneListRequest(["single"], count=4), quiet)
    other = dataclasses.replace(settings, clip_seconds=0.5, overwrite=True)
    prepare_dataset(other, quiet)
    assert not (tmp_path / "out/scenes").exists() and "No fixed lists here" in (tmp_path / "out/README.md").read_text()


def test_prepare_writes_lists_for_any_spelling_of_layouts(copy: str, boxed: DatasetConfig) -> None:
    made = compose_config("prepare", ["layouts=hconcat,single", "pair_lists=a.csv", "dataset=folder"], None, "/none")
    assert (made.layouts, made.pair_lists) == (["hconcat", "single"], ["a.csv"])
    settings = dataclasses.replace(boxed, prepared=copy)
    assert prepare.run_prepare(PrepareConfig(home="/none", dataset=settings, layouts=["grid2x2"], scenes=3)) == 0
    assert pair_lists.read_pair_list(f"{copy}/scenes/test-grid2x2-0-3.parquet").layout == "grid2x2"
    with pytest.raises(ValueError, match=r"layouts=hconcta: .*did you mean hconcat"):
        SceneListRequest(["hconcta"]).check()


def test_a_video_or_a_speaker_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    sources = [MediaSource(f"{n}.mp4", "train", id=f"i{n}", video=f"v{n}", group=f"g{n}") for n in range(4)]
    assert split_leaks.find_source_leaks(sources) == []
    sources += [
        dataclasses.replace(sources[0], id="other", split="test"),  # the same video and speaker: one leak
        dataclasses.replace(sources[1], id="new", video="new", split="val"),  # the same speaker
        dataclasses.replace(sources[2], split="test", refused=("leaked", "of another list")),
        dataclasses.replace(sources[3], split=""),
    ]
    found = split_leaks.find_source_leaks(sources)
    assert [str(each) for each in found] == [
        "video v0 in test and train",
        "group g0 in test and train",
        "group g1 in train and val",
    ]
    with pytest.raises(ValueError, match=r"in train and val; dataset.allow_leaks=true"):
        split_leaks.check_leaks_allowed(found, str(tmp_path / "out"), allow=False)
    assert not (tmp_path / "out").exists()  # the line shows them all
    split_leaks.check_leaks_allowed(found, str(tmp_path / "out"), allow=True)
    assert rows_of(tmp_path / "out/leaks.csv")[:2] == [
        {"kind": "video", "name": "v0", "split": "test", "id": "other"},
        {"kind": "video", "name": "v0", "split": "train", "id": "i0"},
    ]


def test_many_leaks_are_written_to_a_file_named_in_the_message(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a0.mp4", 1.0)
    lines = ["file,split"]
    for number in range(7):
        film(tmp_path / "in" / f"a{number}.mp4", 1.0 + number / 5)
        (tmp_path / "in" / f"b{number}.mp4").write_bytes((tmp_path / "in" / f"a{number}.mp4").read_bytes())
        lines += [f"a{number}.mp4,train", f"b{number}.mp4,test"]
    (tmp_path / "splits.csv").write_text("\n".join(lines) + "\n")
    settings = DatasetConfig(
        name="folder",
        root=str(tmp_path / "in"),
        prepared=str(tmp_path / "out"),
        clip_seconds=1.0,
        stride_seconds=1.0,
        frame_size=32,
        splits=str(tmp_path / "splits.csv"),
    )
    with pytest.raises(ValueError, match=r"and 2 more, all in .*/out/leaks.csv; dataset.allow_leaks=true") as caught:
        prepare_dataset(settings, quiet)
    assert str(caught.value).count("one file as") == 5 and not (tmp_path / "out/dataset.json").exists()
    rows = rows_of(tmp_path / "out/leaks.csv")
    assert len(rows) == 14 and {each["kind"] for each in rows} == {"file"}
    assert {(each["split"], each["id"]) for each in rows} >= {("train", "a6.mp4"), ("test", "b6.mp4")}
    prepare_dataset(dataclasses.replace(settings, allow_leaks=True), quiet)
    assert "**7 found and allowed**" in (tmp_path / "out/README.md").read_text()
    assert rows_of(tmp_path / "out/leaks.csv") == rows
    (tmp_path / "splits.csv").write_text("\n".join(lines).replace("test", "train") + "\n")
    prepare_dataset(dataclasses.replace(settings, overwrite=True), quiet)
    assert not (tmp_path / "out/leaks.csv").exists()
