"""Pair lists: drawn from a seed, written and read, and a one-line error for a wrong row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymix.data.layouts import LAYOUTS
from raymix.data.pair_lists import MIDDLE_S, PairList, PairListOrigin, make_pair_list, read_pair_list, write_pair_list
from raymix.data.records import ClipTable
from raymix.data.scenes import compose_listed_scenes
from tests.support.synthetic_clips import make_clips

HEAD = "scene_id,layout,place,clip_id,sounding,gain"
GOOD = [
    "s1,hconcat,0,clip000,true,1",
    "s1,hconcat,1,clip002,true,0.5",
    "s0,hconcat,1,clip004,1,",
    "s0,hconcat,0,clip002,1,",
]


@pytest.fixture(scope="module")
def clips() -> ClipTable:
    found = make_clips()
    found.start_s = np.arange(24) % 2 * 2.0  # two clips of 2 s each in a video
    found.duration_s = np.full(24, 2.0)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def written(*rows: str, head: str = HEAD, name: str = "mine.csv") -> str:
        path = tmp_path / name
        path.write_text("\n".join([head, *rows]) + "\n")
        return str(path)

    return written


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each != "natural"])
def test_the_same_seed_gives_the_same_list_for_any_order_of_clips(clips: ClipTable, layout: str) -> None:
    pairs = make_pair_list(clips, layout=layout, count=8, seed=5)
    shuffled = clips.take(np.random.default_rng(1).permutation(len(clips)))
    again = make_pair_list(shuffled, layout=layout, count=8, seed=5)
    assert again == pairs and again.hash == pairs.hash and pairs.id == f"{layout}-5"
    assert make_pair_list(clips, layout=layout, count=8, seed=6).hash != pairs.hash
    assert {sum(panel.sounding for panel in panels) for panels in pairs.scenes} == {LAYOUTS[layout][2]}


def test_a_golden_list(clips: ClipTable) -> None:
    pairs = make_pair_list(clips, layout="hconcat", count=2, seed=5)
    assert [[panel.clip_id for panel in panels] for panels in pairs.scenes] == [
        ["clip016", "clip015"],
        ["clip003", "clip004"],
    ]
    assert (pairs.hash, pairs.ids) == ("9c7d427e07b370c6", ["hconcat-5-00000", "hconcat-5-00001"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_written_list_is_read_back(clips: ClipTable, tmp_path: Path, ending: str) -> None:
    pairs = make_pair_list(clips, layout="grid2x2", count=5, seed=5)
    write_pair_list(pairs, f"{tmp_path}/mine.{ending}")
    again = read_pair_list(f"{tmp_path}/mine.{ending}")
    assert (again.id, again.layout, again.hash, len(again), again.ids) == ("mine", "grid2x2", pairs.hash, 5, pairs.ids)
    assert np.array_equal(again.locate_clips(clips), pairs.locate_clips(clips))
    assert [path.name for path in tmp_path.iterdir()] == [f"mine.{ending}"]


def test_a_hand_written_csv(clips: ClipTable, file: Callable[..., str]) -> None:
    pairs = read_pair_list(file(*GOOD))
    assert pairs.ids == ["s0", "s1"]  # in the order of their ids, wherever they stood
    assert [[(p.place, p.clip_id, p.gain) for p in panels] for panels in pairs.scenes] == [
        [(0, "clip002", 1.0), (1, "clip004", 1.0)],
        [(0, "clip000", 1.0), (1, "clip002", 0.5)],
    ]
    assert read_pair_list(file(*GOOD[2:], *GOOD[:2], name="other.csv")).hash == pairs.hash
    assert read_pair_list(file(GOOD[0], GOOD[1].replace("0.5", "0.4"))).hash != pairs.hash


def test_a_clip_is_found_by_video_and_time(clips: ClipTable, file: Callable[..., str]) -> None:
    head = "scene_id,layout,place,video,time_s"
    pairs = read_pair_list(file("a,vconcat,0,video003,0.7", "a,vconcat,1,video004,3.9", head=head))
    assert clips.clip_id[pairs.locate_clips(clips)].tolist() == [["clip006", "clip009"]]
    late = read_pair_list(file("a,single,0,video003,4.5", head=head))
    with pytest.raises(
        ValueError, match=r"pair list mine, row 1, scene 'a': no clip of .* holds 4.5 s; .*raymix.prepare"
    ):
        late.locate_clips(clips)
    timeless = read_pair_list(file("a,single,0,video003,", head=head))
    with pytest.raises(ValueError, match=r"row 1, scene 'a': video 'video003' has 2 clips; time_s must say which"):
        timeless.locate_clips(clips)
    twice = read_pair_list(file("a,hconcat,0,video003,0.5", "a,hconcat,1,video003,0.6", head=head))
    with pytest.raises(ValueError, match=r"row 2, scene 'a': clip 'clip006' is in this scene twice"):
        twice.locate_clips(clips)


def test_avgn_format(clips: ClipTable, file: Callable[..., str]) -> None:
    rows = ["video000,class0,video001.mp4,class1", 'video004,"guitar, bass",video002,class2']
    pairs = read_pair_list(file(*rows, head="file1,class1,file2,class2", name="avgn-duet.csv"))
    assert (pairs.id, pairs.layout) == ("avgn-duet", "hconcat")
    assert pairs.ids == ["avgn-duet-00001", "avgn-duet-00002"]
    assert [(p.video, p.label, p.time_s) for p in pairs.scenes[1]] == [
        ("video004", "guitar, bass", MIDDLE_S),
        ("video002", "class2", MIDDLE_S),
    ]
    long = clips.take(np.arange(len(clips)))
    long.start_s, long.duration_s = np.arange(24) % 2 * 4.0, np.full(24, 3.0)  # 0-3 s and 4-7 s
    scenes = compose_listed_scenes(long, pairs)
    assert scenes.videos == [("video000", "video001"), ("video004", "video002")]
    assert long.clip_id[pairs.locate_clips(long)].tolist() == [["clip001", "clip003"], ["clip009", "clip005"]]
    below = read_pair_list(file(*rows, head="file1,class1,file2,class2", name="avgn-duet.csv"), "vconcat")
    assert below.layout == "vconcat" and below.hash != pairs.hash
    with pytest.raises(ValueError, match=r"row 2: file1 is empty"):
        read_pair_list(file(rows[0], ",a,video000,b", head="file1,class1,file2,class2"))


WRONG = {
    "no column place; it has scene_id, layout": (["s1,hconcat,clip000"], "scene_id,layout,clip_id"),
    "no column clip_id, nor video; it has": (["s1,hconcat,0"], "scene_id,layout,place"),
    "a pair list without a row": ([], HEAD),
    "row 3: scene 's1' was there before, in row 1": ([GOOD[0], GOOD[2], GOOD[1], GOOD[3]], HEAD),
    "row 2: scene 's1' has place 0 already, in row 1": ([GOOD[0], GOOD[0].replace("000", "002")], HEAD),
    "row 2: scene 's1' has the clip of row 1 twice": ([GOOD[0], GOOD[1].replace("002", "000")], HEAD),
    "row 3: scene 's0' has 1 rows; hconcat needs places 0 to 1, each once": (GOOD[:3], HEAD),
    "row 1: scene_id='': must be the name of a scene": ([GOOD[0].replace("s1", "")], HEAD),
    "row 2: layout='vconcat': must be hconcat as in row 1": ([GOOD[0], GOOD[1].replace("hc", "vc")], HEAD),
    "row 1: place='one': must be a panel's number, from 0": ([GOOD[0].replace(",0,", ",one,")], HEAD),
    "row 2: neither clip_id nor video names a clip": ([GOOD[0], GOOD[1].replace("clip002", "")], HEAD),
    "row 1: sounding='maybe': must be true or false": ([GOOD[0].replace("true", "maybe")], HEAD),
    "row 2: gain='0': must be a factor above 0": ([GOOD[0], GOOD[1].replace("0.5", "0")], HEAD),
    "row 2: gain='loud': must be a factor above 0": ([GOOD[0], GOOD[1].replace("0.5", "loud")], HEAD),
    "row 4: scene 's0': 1 of its panels sound, in the first scene 2": (
        [*GOOD[:3], GOOD[3].replace(",1,", ",0,")],
        HEAD,
    ),
    "layout=hcat: must be one of": (["s1,hcat,0,clip000,true,1"], HEAD),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_row_is_named_in_one_line(file: Callable[..., str], said: str) -> None:
    rows, head = WRONG[said]
    with pytest.raises(ValueError) as caught:
        read_pair_list(file(*rows, head=head))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_clip_is_named(clips: ClipTable, file: Callable[..., str], tmp_path: Path) -> None:
    pairs = read_pair_list(file(*GOOD[:3], GOOD[3].replace("clip002", "clip0002")))
    with pytest.raises(
        ValueError, match=r"mine, row 4, scene 's0': no clip 'clip0002' among 24 \(did you mean 'clip00"
    ):
        pairs.locate_clips(clips)
    with pytest.raises(ValueError, match=r"row 1, scene 'a': no clip of video 'video03' \(did you mean"):
        read_pair_list(file("a,single,0,video03,1", head="scene_id,layout,place,video,time_s")).locate_clips(clips)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_pair_list(f"{tmp_path}/broken.parquet")
    pq.write_table(
        pa.table({"scene_id": ["a"], "layout": ["single"], "place": [0], "clip_id": ["clip000"]}), tmp_path / "p"
    )
    assert isinstance(read_pair_list(f"{tmp_path}/p"), PairList)
    with pytest.raises(ValueError, match=r"pair_list=.*nowhere.csv: no such file"):
        read_pair_list(f"{tmp_path}/nowhere.csv")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_list_names_its_original(file: Callable[..., str], tmp_path: Path, suffix: str) -> None:
    pairs = read_pair_list(file(*GOOD))
    assert pairs.origin is None
    made = replace(pairs, origin=PairListOrigin("published", "cafe", 5, 3))
    write_pair_list(made, f"{tmp_path}/mine.{suffix}")
    again = read_pair_list(f"{tmp_path}/mine.{suffix}")
    assert again.origin == made.origin and again.hash == pairs.hash  # which is of the content alone
    assert again.ids == pairs.ids
    assert again.origin.coverage_note(2) == "2 of 5 listed scenes, 3 without their clips"
    assert again.take(1).origin.coverage_note(1) == "1 of 5 listed scenes, 3 without their clips, 1 left out"
    assert PairListOrigin("published", "cafe", 2, 0).coverage_note(2) == ""
    write_pair_list(pairs, f"{tmp_path}/plain.{suffix}")
    assert read_pair_list(f"{tmp_path}/plain.{suffix}").origin is None


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (("many", "3"), "of_scenes='many', of_missing='3': must be numbers"),
        (("4", "3"), "of_scenes=4: must be at least its 2 scenes and the of_missing=3 others"),
        (("4", "-1"), "of_scenes=4: must be at least its 2 scenes and the of_missing=-1 others"),
    ],
)
def test_an_impossible_origin_is_refused(file: Callable[..., str], cells: tuple[str, str], said: str) -> None:
    rows = [f"{row},published,cafe,{','.join(cells)}" for row in GOOD]
    with pytest.raises(ValueError, match=said) as caught:
        read_pair_list(file(*rows, head=f"{HEAD},of_id,of_hash,of_scenes,of_missing"))
    assert "\n" not in str(caught.value)
