"""`prepare_dataset`: bad files, interruption and resumption, the same bytes for any number of workers, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raymix.config import DatasetConfig
from raymix.data import prepared, records
from raymix.data.extraction import clips
from raymix.data.extraction.clips import extract_clips
from raymix.data.importers import folder as data_importers_folder
from raymix.data.importers import video_folder
from raymix.data.importers.registry import load_importer
from raymix.data.media import STATUSES
from raymix.data.preparation import pipeline, writer
from raymix.data.preparation.pipeline import NoUsableClips, PrepareReport, prepare_dataset, print_report
from tests.support.make_videos import film, turned
from tests.support.numbered_videos import Picture, Sounding, tones, write

ROOT = Path(records.__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test module may have left Ray running; these tests work in this process."""
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)


def settings(tmp_path: Path, **changes: Any) -> DatasetConfig:
    known = {
        "name": "folder",
        "root": str(tmp_path / "in"),
        "prepared": str(tmp_path / "out"),
        "clip_seconds": 1.0,
        "stride_seconds": 1.0,
        "frame_size": 32,
        "val": 0.0,
        "test": 0.0,
        "seed": 0,
        "allow_leaks": True,  # most films here are the same one
    }
    return DatasetConfig(**{**known, **changes})


def quiet(_: str) -> None:
    pass


def manifest(prepared: str) -> dict[str, dict[str, Any]]:
    return {row["file"]: row for row in pq.read_table(f"{prepared}/manifest.parquet").to_pylist()}


def content(prepared: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(prepared).iterdir())}


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good videos of many kinds and bad files of every kind."""
    root = tmp_path_factory.mktemp("trouble") / "in"
    film(root / "good" / "plain.mp4", 3.0)
    film(root / "good" / "mono 44.1.mp4", 3.0, rate=44_100)
    film(root / "good" / "surround.mkv", 3.0, rate=48_000, layout="5.1", fps=Fraction(30_000, 1001))
    film(root / "good" / "ntsc.MOV", 3.0, fps=Fraction(30_000, 1001), format="mov")
    turned(film(root / "good" / "telephone.mp4", 3.0))
    film(root / "Bücher & Töne" / "mein schönes видео 音.mp4", 3.0)
    film(root / "bad" / "mute.mp4", 3.0, codecs=("mpeg4", None))
    film(root / "bad" / "silence.mp4", 3.0, level=0.0)
    film(root / "bad" / "short.mp4", 0.3)
    whole = film(root / "bad" / "truncated.mp4", 3.0)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (root / "bad" / "zero.mp4").write_bytes(b"")
    (root / "bad" / "x.mp4").write_text("this is a text file\n" * 50)
    (root / "readme.txt").write_text("no video")
    return root


def test_bad_files_do_not_stop_preparation(tmp_path: Path, trouble: Path) -> None:
    lines: list[str] = []
    chosen = settings(tmp_path, root=str(trouble), classes="parent")
    report = prepare_dataset(chosen, lines.append)
    rows = manifest(chosen.prepared)
    assert {name: row["status"] for name, row in rows.items()} == {
        "good/plain.mp4": "ok",
        "good/mono 44.1.mp4": "ok",
        "good/surround.mkv": "ok",
        "good/ntsc.MOV": "ok",
        "good/telephone.mp4": "ok",
        "Bücher & Töne/mein schönes видео 音.mp4": "ok",
        "bad/mute.mp4": "no audio",
        "bad/silence.mp4": "silent",
        "bad/short.mp4": "too short",
        "bad/truncated.mp4": "corrupt",
        "bad/zero.mp4": "corrupt",
        "bad/x.mp4": "corrupt",
    }
    assert all(row["clips"] == (3 if row["status"] == "ok" else 0) for row in rows.values())
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    assert rows["bad/silence.mp4"]["silent_clips"] == 3 and rows["good/surround.mkv"]["channels"] == 6
    assert rows["good/mono 44.1.mp4"]["sample_rate"] == 44_100 and rows["good/ntsc.MOV"]["fps"] == pytest.approx(
        30_000 / 1001
    )
    assert (rows["good/telephone.mp4"]["width"], rows["good/telephone.mp4"]["height"]) == (48, 64)
    assert report.clips == {"train": 18, "val": 0, "test": 0} and report.statuses["ok"] == 6 and report.fresh
    found = prepared.read_clips(chosen.prepared, "train", 32, truth=False)
    assert (
        len(found) == 18
        and found.stft.shape == (18, 201, 81, 2)
        and (found.stft.astype(float).std(axis=(1, 2, 3)) > 0.01).all()
    )
    assert set(found.label) == {"good", "Bücher & Töne"} == set(report.classes)
    assert any("18 train" in line for line in lines) and set(report.statuses) <= set(STATUSES)


def test_a_second_run_returns_at_once_even_without_the_videos(tmp_path: Path) -> None:
    film(tmp_path / "in" / "x.mp4", 2.0)
    chosen = settings(tmp_path)
    first = prepare_dataset(chosen, quiet)
    film(tmp_path / "in" / "y.mp4", 2.0)
    lines: list[str] = []
    second = prepare_dataset(chosen, lines.append)
    assert not second.fresh and second.clips == first.clips == {"train": 2, "val": 0, "test": 0}
    assert len(lines) == 1 and "2 videos" in lines[0] and "1 were prepared" in lines[0]
    for name in ("x.mp4", "y.mp4"):
        (tmp_path / "in" / name).unlink()
    (tmp_path / "in").rmdir()
    assert not prepare_dataset(chosen, quiet).fresh


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    film(tmp_path / "in" / "x.mp4", 2.0)
    chosen = settings(tmp_path)
    prepare_dataset(chosen, quiet)
    with pytest.raises(ValueError, match=r"frame_size 32 there, 16 asked.*overwrite=true") as caught:
        prepare_dataset(dataclasses.replace(chosen, frame_size=16), quiet)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"root .*there, .*elsewhere asked"):
        prepare_dataset(dataclasses.replace(chosen, root=str(tmp_path / "elsewhere")), quiet)
    assert not prepare_dataset(dataclasses.replace(chosen, videos=100), quiet).fresh  # a setting of the demo alone
    again = prepare_dataset(dataclasses.replace(chosen, clip_seconds=0.5, stride_seconds=0.5, overwrite=True), quiet)
    assert again.fresh and again.clips["train"] == 4
    assert prepared.read_clips(chosen.prepared, "train", 16, truth=False).stft.shape == (4, 101, 81, 2)


def test_an_interrupted_preparation_resumes_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "UNIT_FILES", 2)
    for number in range(7):
        film(tmp_path / "in" / f"{number}.mp4", 2.0)
    one_go = settings(tmp_path, prepared=str(tmp_path / "one go"), val=0.3)
    prepare_dataset(one_go, quiet)
    chosen, honest, calls = settings(tmp_path, val=0.3), writer.write_unit_shards, []

    def stops(job: writer.PreparationJob, unit: writer.WorkUnit) -> dict[str, Any]:
        calls.append(unit.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(job, unit)

    monkeypatch.setattr(writer, "write_unit_shards", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(chosen, quiet)
    with pytest.raises(ValueError, match="no prepared dataset"):
        prepared.read_clips(chosen.prepared, "train", 16, truth=False)
    lines: list[str] = []
    prepare_dataset(chosen, lines.append)
    assert "4 of them done before" in lines[0]
    assert len(calls) == len(set(calls)) + 1 >= 5  # only the unit that was stopped is done again
    assert content(chosen.prepared) == content(one_go.prepared)
    more = {"dataset.json", "manifest.parquet", "README.md", "leaks.csv"}
    assert set(content(chosen.prepared)) == more | {f"{name}.parquet" for name in calls}


def test_rows_per_file_and_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_ROWS", 2)
    film(tmp_path / "in" / "x.mp4", 8.0)
    chosen = settings(tmp_path, rows_per_file=5)
    prepare_dataset(chosen, quiet)
    files = [name for name in content(chosen.prepared) if name.startswith("train")]
    assert sorted(files) == ["train-00000-1.parquet", "train-00000.parquet"]
    first = pq.ParquetFile(Path(chosen.prepared) / "train-00000.parquet")
    assert first.metadata.num_rows == 5 and first.metadata.num_row_groups == 3
    assert first.metadata.row_group(0).column(0).compression == "ZSTD"
    facts = json.loads((Path(chosen.prepared) / "dataset.json").read_text())
    assert first.schema_arrow.metadata[records.HASH_KEY].decode() == facts["preprocessing"]
    found = list(prepared.read_clips(chosen.prepared, "train", 16, truth=False).clip_id)
    assert sorted(found) == [f"folder:x.mp4:{1000 * start}" for start in range(8)] != found


def test_the_rows_of_a_shard_are_shuffled(tmp_path: Path) -> None:
    whole = film(tmp_path / "in" / "0.mp4", 6.0)
    for number in range(1, 6):
        (tmp_path / "in" / f"{number}.mp4").write_bytes(whole.read_bytes())
    chosen = settings(tmp_path, rows_per_file=18)
    prepare_dataset(chosen, quiet)
    found = prepared.read_clips(chosen.prepared, "train", 16, truth=False)
    assert len(set(found.clip_id)) == 36
    changes = int((found.video[1:] != found.video[:-1]).sum())
    assert changes >= 20  # 5 in the order of the files, 29 on average in a random one
    assert len(set(found.video[:18])) >= 5  # the first of the two files has clips of nearly all videos


def test_split_file_with_missing_and_unlisted_videos(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        film(tmp_path / "in" / name, 1.0)
    (tmp_path / "splits.csv").write_text("file,split\na.mp4,train\nb.mp4,test\ngone.mp4,test\n")
    chosen = settings(tmp_path, splits=str(tmp_path / "splits.csv"))
    report = prepare_dataset(chosen, quiet)
    assert report.clips == {"train": 1, "val": 0, "test": 1}
    assert {name: row["status"] for name, row in manifest(chosen.prepared).items()} == {
        "a.mp4": "ok",
        "b.mp4": "ok",
        "c.mp4": "unlisted",
        "gone.mp4": "missing",
    }
    (tmp_path / "splits.csv").write_text("file,split\na.mp4,train\n")
    with pytest.raises(ValueError, match="prepared with other settings"):
        prepare_dataset(chosen, quiet)


def test_broken_links_have_manifest_rows(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", 1.0)
    (tmp_path / "in" / "linked.mp4").symlink_to(film(tmp_path / "elsewhere" / "b.mp4", 2.0))
    (tmp_path / "in" / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "in" / "itself.mkv").symlink_to("itself.mkv")
    (tmp_path / "in" / "notes.txt").symlink_to("nowhere.txt")
    (tmp_path / "in" / ".hidden.mp4").symlink_to("nowhere.mp4")
    chosen, lines = settings(tmp_path), list[str]()
    report = prepare_dataset(chosen, quiet)
    assert report.statuses == {"ok": 2, "missing": 2} and report.clips["train"] == 3
    rows = manifest(chosen.prepared)
    assert {(rows[name]["status"], rows[name]["reason"]) for name in ("dangling.mp4", "itself.mkv")} == {
        ("missing", "link to nothing")
    }
    prepare_dataset(chosen, lines.append)
    assert lines == []  # no video came or went
    (tmp_path / "splits.csv").write_text("file,split\na.mp4,train\ndangling.mp4,test\ngone.mp4,test\n")
    listed = settings(tmp_path, splits=str(tmp_path / "splits.csv"), prepared=str(tmp_path / "listed"))
    prepare_dataset(listed, quiet)
    assert {name: row["reason"] for name, row in manifest(listed.prepared).items()} == {
        "a.mp4": "",
        "linked.mp4": "not in the split file",
        "dangling.mp4": "link to nothing",
        "itself.mkv": "not in the split file",
        "gone.mp4": "in the split file, not in the folder",
    }


def rows_of(prepared: str) -> dict[str, dict[str, Any]]:
    """All rows of all shards by clip id."""
    tables = [pq.read_table(path) for path in sorted(Path(prepared).glob("train-*.parquet"))]
    return {row["clip_id"]: row for table in tables for row in table.to_pylist()}


def test_unusual_media_do_not_change_the_rows_of_others(tmp_path: Path) -> None:
    """Videos that need special decoding, between usual ones: the rows of the usual ones are the same bytes."""
    for name in ("alone", "mixed"):
        film(tmp_path / name / "a.mp4", 2.0, codecs=("libx264", "aac"), layout="stereo")
        film(tmp_path / name / "z.mov", 2.0, codecs=("libx264", "pcm_s16le"))
    short, sound = Picture(frames=20), np.repeat(tones(2)[None], 10, 0)
    write(tmp_path / "mixed" / "b.mov", [short], [Sounding(sound[:8], "8 channels", "pcm_s24le")])
    write(tmp_path / "mixed" / "c.mkv", [short], [Sounding(sound, "10 channels")])
    write(tmp_path / "mixed" / "d.mov", [short], [Sounding(32768 * sound[:1], codec="pcm_f32le")])
    write(tmp_path / "mixed" / "e.mov", [short], [Sounding(np.full_like(sound[:1], np.nan), codec="pcm_f32le")])
    opposite = np.stack([sound[0], -sound[0]])
    write(tmp_path / "mixed" / "f.mp4", [short], [Sounding(opposite, "stereo", "aac")])
    unknown = write(tmp_path / "mixed" / "g.mov", [short], [Sounding(sound[:1])])
    unknown.write_bytes(unknown.read_bytes().replace(b"avc1", b"encv"))
    alone = settings(tmp_path, root=str(tmp_path / "alone"), prepared=str(tmp_path / "out alone"))
    mixed = settings(tmp_path, root=str(tmp_path / "mixed"), prepared=str(tmp_path / "out mixed"))
    prepare_dataset(alone, quiet)
    prepare_dataset(mixed, quiet, workers=2)
    found = rows_of(mixed.prepared)
    assert all(found[clip_id] == row for clip_id, row in rows_of(alone.prepared).items())
    rows = manifest(mixed.prepared)
    assert {name: (row["status"], row["clips"]) for name, row in rows.items()} == {
        **{name: ("ok", 2) for name in ("a.mp4", "z.mov", "b.mov", "c.mkv", "f.mp4")},
        "d.mov": ("repaired", 2),
        "e.mov": ("silent", 0),
        "g.mov": ("no video", 0),
    }
    before = manifest(alone.prepared)
    assert all(rows[name] == before[name] for name in before)
    for row in found.values():
        assert np.isfinite(np.frombuffer(row["stft"], np.float16)).all()


def test_an_unexpected_error_of_one_file_is_an_error_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "in" / name, 1.0)
    honest = clips.extract_clips

    def surprising(chosen: DatasetConfig, source: Any, entry: Any) -> Any:
        if source.path == "a.mp4":
            raise RuntimeError("something\nodd")
        return honest(chosen, source, entry)

    monkeypatch.setattr(data_importers_folder, "import_clips", surprising)
    prepare_dataset(settings(tmp_path), quiet)
    row = manifest(str(tmp_path / "out"))["a.mp4"]
    assert (row["status"], row["reason"], row["clips"]) == ("error", "RuntimeError: something odd", 0)


@pytest.mark.slow
def test_a_file_that_crashes_the_process_is_given_up(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "in" / name, 1.0)
    script = (
        "import os, sys\n"
        "from raymix.config import DatasetConfig as Dataset\n"
        "from raymix.data.importers import folder\n"
        "from raymix.data.preparation.pipeline import prepare_dataset as prepare\n"
        "honest = folder.import_clips\n"
        "folder.import_clips = lambda s, source, e: os._exit(9) if source.path == 'a.mp4' else honest(s, source, e)\n"
        f"prepare(Dataset(**{dataclasses.asdict(settings(tmp_path))!r}))\n"
    )
    codes = [subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT).returncode for _ in range(4)]
    assert codes == [9, 9, 9, 0]
    rows = manifest(str(tmp_path / "out"))
    assert rows["a.mp4"]["status"] == "error" and "ended the process 3 times" in rows["a.mp4"]["reason"]
    assert rows["b.mp4"]["clips"] == 1


def test_no_usable_clips_and_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        prepare_dataset(settings(tmp_path), quiet)
    with pytest.raises(ValueError, match="name the folder of your videos"):
        prepare_dataset(settings(tmp_path, root=""), quiet)
    (tmp_path / "in").mkdir()
    with pytest.raises(NoUsableClips, match="no video files"):
        prepare_dataset(settings(tmp_path), quiet)
    (tmp_path / "in" / "x.mp4").write_bytes(b"")
    with pytest.raises(NoUsableClips, match=r"none of 1 files gave a clip \(x.mp4: empty file\)"):
        prepare_dataset(settings(tmp_path), quiet)
    (tmp_path / "file").write_text("")
    film(tmp_path / "in" / "y.mp4", 1.0)
    with pytest.raises(ValueError, match="cannot be written"):
        prepare_dataset(settings(tmp_path, prepared=str(tmp_path / "file" / "out")), quiet)
    with pytest.raises(ValueError, match="did you mean folder"):
        prepare_dataset(settings(tmp_path, name="folders"), quiet)
    assert prepare_dataset(settings(tmp_path), quiet).clips["train"] == 1


def test_demo_dataset_is_prepared_like_a_folder(tmp_path: Path) -> None:
    chosen = settings(
        tmp_path,
        name="demo",
        videos=12,
        video_seconds=4.0,
        clip_seconds=2.0,
        stride_seconds=2.0,
        classes="parent",
        val=0.25,
        test=0.25,
        regions=str(tmp_path / "in" / "regions.json"),
        duets=0.25,
        size=48,
    )
    report = prepare_dataset(chosen, quiet)
    assert sum(report.clips.values()) == 24 and report.statuses == {"ok": 12}
    found = prepared.read_clips(chosen.prepared, "train", 32, truth=True)
    assert (
        found.has_truth is not None
        and found.has_truth.all()
        and set(found.label) <= {"bell", "drum", "flute", "strings"}
    )
    assert found.masks is not None and 0.08 < found.masks.mean() < 0.4
    videos = [set(prepared.read_clips(chosen.prepared, split, 16, truth=False).video) for split in records.SPLITS]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 12
    assert not prepare_dataset(chosen, quiet).fresh


@pytest.mark.slow
def test_exit_codes_of_the_prepare_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.mp4").write_text("no video")
    base = [sys.executable, "-m", "raymix.prepare", "dataset=folder"]
    env = {**os.environ, "RAYMIX_HOME": str(tmp_path / "home")}
    for root, code, words in ((tmp_path / "gone", 2, "no such folder"), (tmp_path / "in", 3, "none of 1 files")):
        done = subprocess.run([*base, f"dataset.root={root}"], capture_output=True, text=True, env=env, cwd=ROOT)
        assert done.returncode == code, done.stderr
        assert words in done.stderr and done.stderr.count("\n") == 1


RAY = """
import json, sys
import ray
from raymix.config.schema import DatasetConfig
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.preparation import writer
writer.UNIT_FILES = 3
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
prepare_dataset(DatasetConfig(**json.loads(sys.argv[1])))
"""


@pytest.mark.ray
def test_two_workers_write_the_same_bytes(tmp_path: Path, trouble: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "UNIT_FILES", 3)
    alone = settings(tmp_path, root=str(trouble), val=0.3, prepared=str(tmp_path / "alone"))
    prepare_dataset(alone, quiet)
    beside, lines = dataclasses.replace(alone, prepared=str(tmp_path / "crew")), list[str]()
    prepare_dataset(beside, lines.append, workers=2)
    assert content(alone.prepared) == content(beside.prepared)
    assert lines[0] == "prepare: 12 files" and any("12/12 files, 18 clips, 0 s left" in line for line in lines)
    over_ray = dataclasses.replace(alone, prepared=str(tmp_path / "ray"))
    done = subprocess.run(
        [sys.executable, "-c", RAY, json.dumps(dataclasses.asdict(over_ray))], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert content(alone.prepared) == content(over_ray.prepared)


DOOR = """
import resource, sys
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
    from raymix.prepare import main
    main()
"""


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_same_command_resumes(tmp_path: Path) -> None:
    whole = film(tmp_path / "in" / "0.mp4", 3.0)
    for number in range(1, 4):
        (tmp_path / "in" / f"{number}.mp4").write_bytes(whole.read_bytes())
    film(tmp_path / "in" / "long.mp4", 12.0)
    (tmp_path / "door.py").write_text(DOOR)  # no file may grow beyond so many bytes: a quota
    words = ["dataset=folder", f"dataset.root={tmp_path / 'in'}", f"dataset.prepared={tmp_path / 'out'}"]
    words += ["dataset.allow_leaks=true", "dataset.frame_size=32", "dataset.clip_seconds=1", "dataset.stride_seconds=1"]
    words += ["cluster.cpus=1", "dataset.val=0", "dataset.test=0"]
    words += ["dataset.seed=1"]  # one process reads the films in an order in which the long one is not the first
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAYMIX_HOME": str(tmp_path / "home")}

    def run(quota: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "door.py"), str(quota), *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)

    done = run(400_000)  # enough for three clips, not for twelve
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "no room left to write" in done.stderr and "run the same command again" in done.stderr
    assert not list((tmp_path / "out").glob("[!.]*")) and not list(tmp_path.rglob("*.tmp"))
    with pytest.raises(ValueError, match="no prepared dataset"):
        prepared.read_dataset_json(str(tmp_path / "out"))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    assert before  # what is read is kept
    done = run(100_000_000)
    assert done.returncode == 0 and not (tmp_path / "out" / ".parts").exists(), done.stderr
    assert prepared.read_dataset_json(str(tmp_path / "out"))["splits"]["train"]["clips"] == 24


def test_after_a_kill_only_the_current_source_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        film(tmp_path / "in" / f"{number}.mp4", 1.0 + number / 10)
    one_go, chosen = settings(tmp_path, prepared=str(tmp_path / "one go")), settings(tmp_path)
    prepare_dataset(one_go, quiet)
    script = (
        "import os, sys\n"
        "from raymix.config import DatasetConfig as Dataset\n"
        "from raymix.data.importers import folder\n"
        "from raymix.data.preparation.pipeline import prepare_dataset as prepare\n"
        "honest, seen = folder.import_clips, []\n"
        "def clips(s, source, e):\n"
        "    seen.append(source.path)\n"
        "    if len(seen) == 4: os.kill(os.getpid(), 9)\n"
        "    return honest(s, source, e)\n"
        "folder.import_clips = clips\n"
        f"prepare(Dataset(**{dataclasses.asdict(chosen)!r}))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT).returncode == -9
    assert not list((tmp_path / "out").glob("*.parquet")) and len(list(tmp_path.rglob("*.arrow"))) == 3
    read, honest = [], extract_clips

    def clips(chosen: DatasetConfig, source: Any, entry: Any) -> Any:
        read.append(source.path)
        return honest(chosen, source, entry)

    monkeypatch.setattr(data_importers_folder, "import_clips", clips)
    prepare_dataset(chosen, quiet)
    assert len(read) == 3 and content(chosen.prepared) == content(one_go.prepared)


def test_a_split_file_with_one_file_in_two_splits_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(tmp_path / "in" / "a.mp4", 1.0)
    (tmp_path / "in" / "b.mp4").write_bytes((tmp_path / "in" / "a.mp4").read_bytes())
    film(tmp_path / "in" / "c.mp4", 1.5)
    (tmp_path / "splits.csv").write_text("file,split\na.mp4,train\nb.mp4,test\nc.mp4,test\n")
    chosen = settings(tmp_path, splits=str(tmp_path / "splits.csv"), allow_leaks=False)
    with monkeypatch.context() as patch:
        patch.setattr(data_importers_folder, "import_clips", lambda *of: pytest.fail("a video was read"))
        with pytest.raises(ValueError, match=r"one file as b.mp4 \(test\), a.mp4 \(train\); dataset.allow_leaks=true"):
            prepare_dataset(chosen, quiet)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert prepare_dataset(dataclasses.replace(chosen, allow_leaks=True), quiet).clips == {
        "train": 1,
        "val": 0,
        "test": 2,
    }
    assert prepared.read_dataset_json(chosen.prepared)["leaks"] == 1


@pytest.mark.parametrize("listed", [False, True])
def test_one_of_several_identical_files_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    names = [f"{folder}/{n}.mp4" for folder in ("cello", "flute") for n in range(6)]
    film(tmp_path / "in" / names[0], 1.0)
    for name in names[1:]:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes((tmp_path / "in" / names[0]).read_bytes())
    film(tmp_path / "in" / "flute/other.mp4", 2.0)
    (tmp_path / "splits.csv").write_text("file,split\n" + "".join(f"{n},test\n" for n in (*names, "flute/other.mp4")))
    read, honest = list[str](), extract_clips

    def clips(chosen: DatasetConfig, source: Any, entry: Any) -> Any:
        read.append(source.path)
        return honest(chosen, source, entry)

    monkeypatch.setattr(data_importers_folder, "import_clips", clips)
    given = {"splits": str(tmp_path / "splits.csv")} if listed else {"val": 0.3, "test": 0.3}
    chosen, lines = settings(tmp_path, allow_leaks=False, classes="parent", **given), list[str]()
    report = prepare_dataset(chosen, lines.append)
    assert sorted(read) == ["cello/0.mp4", "flute/other.mp4"] and sum(report.clips.values()) == 3
    rows = manifest(chosen.prepared)
    assert report.statuses == {"ok": 2, "duplicate": 11} or report.statuses == {"duplicate": 11, "ok": 2}
    for name in names[1:]:
        row = rows[name]
        assert (row["status"], row["split"], row["clips"]) == ("duplicate", "", 0)
        assert row["reason"] == "same content as cello/0.mp4, which is used"
    (own,) = [s for s in report.clips if s == rows["cello/0.mp4"]["split"]]
    labels = [
        row["labels"]
        for path in Path(chosen.prepared).glob(f"{own}-*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert ["cello", "flute"] in labels  # it was in both folders
    assert "11 duplicate" in " ".join(lines)
    again = prepare_dataset(dataclasses.replace(chosen, overwrite=True, allow_leaks=True), quiet)
    assert sum(again.clips.values()) == 14 and "duplicate" not in again.statuses


def test_a_copy_with_regions_is_the_one_that_is_used(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", 1.0)
    (tmp_path / "in" / "b.mp4").write_bytes((tmp_path / "in" / "a.mp4").read_bytes())
    (tmp_path / "regions.json").write_text(json.dumps({"b.mp4": {"box": [0, 0, 1, 1]}}))
    chosen = settings(tmp_path, allow_leaks=False, regions=str(tmp_path / "regions.json"))
    found = {source.path: source for source in data_importers_folder.list_sources(chosen)}
    assert found["a.mp4"].refused == ("duplicate", "same content as b.mp4, which is used")
    assert found["b.mp4"].refused is None and found["b.mp4"].split == "train"


def test_files_that_differ_in_the_middle_are_both_used_in_one_split(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(8):
        content = bytearray(5 << 20)
        content[(2 << 20) + number] = 1
        (tmp_path / "in" / f"{number}.mp4").write_bytes(bytes(content))
    found = data_importers_folder.list_sources(settings(tmp_path, allow_leaks=False, val=0.3, test=0.3))
    assert len({source.split for source in found}) == 1 and not any(source.refused for source in found)
    said = [source.repairs for source in found if source.path != "0.mp4"]
    assert set(said) == {("in one split with 0.mp4, which has the same size, beginning and end",)}
    assert (
        len({source.split for source in data_importers_folder.list_sources(settings(tmp_path, val=0.3, test=0.3))}) > 1
    )


def test_folders_that_could_be_classes_are_reported_at_the_end(tmp_path: Path) -> None:
    for name in ("bell/a.mp4", "drum/loud/b.mp4"):
        film(tmp_path / "in" / name, 1.0)
    lines: list[str] = []
    prepare_dataset(settings(tmp_path), lines.append)
    how = "dataset.classes=parent dataset.overwrite=true"
    assert lines[-1] == (
        "prepare: all videos lie in folders (bell, loud); to use the folders' names as classes, prepare again with "
        + how
    )
    lines.clear()
    prepare_dataset(settings(tmp_path, classes="parent", overwrite=True), lines.append)
    assert not any("to use the folders'" in line for line in lines)
    assert video_folder.describe_class_folders(settings(tmp_path), ["bell/a.mp4", "b.mp4"]) == ""
    assert video_folder.describe_class_folders(settings(tmp_path), ["bell/a.mp4", "bell/b.mp4"]) == ""
    four = video_folder.describe_class_folders(settings(tmp_path), [f"{name}/x.mp4" for name in "dcba"])
    assert four.startswith("all videos lie in folders (a, b, c, ...); to use")


def test_a_non_finite_sound_is_a_manifest_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "in" / name, 1.0)
    honest = clips.extract_clips

    def loud(chosen: DatasetConfig, source: Any, entry: Any) -> Any:
        for one in honest(chosen, source, entry):
            yield dataclasses.replace(one, wave=one.wave * np.float32(1e7)) if source.path == "a.mp4" else one

    monkeypatch.setattr(data_importers_folder, "import_clips", loud)
    assert prepare_dataset(settings(tmp_path), quiet).clips["train"] == 1
    row = manifest(str(tmp_path / "out"))["a.mp4"]
    assert (row["status"], row["clips"]) == ("corrupt", 0) and "values of its sound (STFT) are not finite" in row[
        "reason"
    ]
    assert np.isfinite(prepared.read_clips(str(tmp_path / "out"), "train", 32, truth=False).stft).all()


def test_a_unit_record_of_other_settings_does_not_count_as_complete(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", 1.0)
    first, second = settings(tmp_path), settings(tmp_path, frame_size=24)
    (unit,), (other,) = (
        writer.make_work_units(data_importers_folder.list_sources(each), str(each.frame_size))
        for each in (first, second)
    )
    assert unit.name == other.name
    writer.write_unit_shards(writer.PreparationJob(first, data_importers_folder.import_clips, "32"), unit)
    assert set(writer.read_unit_records(first, [unit])) == {unit.name}
    assert writer.read_unit_records(second, [other]) == {}
    writer.write_unit_shards(
        writer.PreparationJob(second, data_importers_folder.import_clips, "24"), other
    )  # into the same file
    assert writer.read_unit_records(first, [unit]) == {}


def test_changed_annotation_lists_are_refused(tmp_path: Path) -> None:
    film(tmp_path / "in" / "abcdefghijk_000030.mp4", 10.0)
    boxes = tmp_path / "in" / "vggss.json"
    entry = {"file": "abcdefghijk_000030", "class": "bell", "bbox": [[0.1, 0.2, 0.3, 0.4]]}
    boxes.write_text(json.dumps([entry]))
    chosen = settings(tmp_path, name="vggss", allow_leaks=False)
    assert prepare_dataset(chosen, quiet).clips == {"train": 0, "val": 0, "test": 1}
    assert not prepare_dataset(chosen, quiet).fresh
    with pytest.raises(ValueError, match="allow_leaks False there, True asked"):
        prepare_dataset(dataclasses.replace(chosen, allow_leaks=True), quiet)
    boxes.write_text(json.dumps([entry | {"bbox": [[0.1, 0.2, 0.3, 0.5]]}]))  # as long as before
    with pytest.raises(ValueError, match=r"vggss.json has changed since; dataset.overwrite=true"):
        prepare_dataset(chosen, quiet)
    boxes.unlink()  # the clips are what is needed
    assert not prepare_dataset(chosen, quiet).fresh


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        (
            "folder",
            {"val": "dataset.splits, dataset.test, dataset.val", "test": "dataset.splits, dataset.test, dataset.val"},
        ),
        ("demo", {"test": "dataset.splits, dataset.test, dataset.val"}),
        (
            "music",
            {"val": "dataset.annotations, dataset.splits, dataset.val", "test": "dataset.annotations, dataset.splits"},
        ),
        ("vggss", {"train": "dataset.annotations, dataset.val", "test": "dataset.annotations"}),
    ],
)
def test_an_empty_split_is_reported_with_the_settings_that_decide_it(name: str, hints: dict[str, str]) -> None:
    lines: list[str] = []
    clips = {split: 0 if split in hints else 9 for split in records.SPLITS}
    print_report(
        PrepareReport("out", True, {"ok": 9}, clips, [], 1.0), load_importer(name).OPTIONAL_SETTINGS, lines.append
    )
    assert lines[2:] == [
        f"prepare: no clips in split '{split}': see {hints[split]} and manifest.parquet"
        for split in records.SPLITS
        if split in hints
    ]


def test_a_missing_root_is_not_recorded_as_a_fault_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "in" / name, 1.0)
    honest = clips.extract_clips

    def losing(chosen: DatasetConfig, source: Any, entry: Any) -> Any:
        if (tmp_path / "in").exists():
            (tmp_path / "in").rename(tmp_path / "away")
        yield from honest(chosen, source, entry)

    monkeypatch.setattr(data_importers_folder, "import_clips", losing)
    with pytest.raises(ValueError, match=r"/in: not there any more; finished work is kept; run the same command again"):
        prepare_dataset(settings(tmp_path), quiet)
    monkeypatch.undo()
    (tmp_path / "away").rename(tmp_path / "in")
    assert prepare_dataset(settings(tmp_path), quiet).statuses == {"ok": 2}
