"""The output folder of prepare: folders of others are never written to, and only files of raymix are deleted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.preparation import output_folder, pipeline, scene_lists
from raymix.data.preparation.pipeline import NoUsableClips, prepare_dataset
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic
from tests.support.make_videos import film


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test module may have left Ray running; these tests work in this process."""
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The parent of prepared folders: on a disk, and in an object store."""
    return str(tmp_path / "home") if request.param == "local" else str(request.getfixturevalue("s3"))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number in range(3):
        film(tmp_path / "in" / f"{number}.mp4", 1.0 + number / 10)
    return tmp_path / "in"


def settings(root: Path | str, prepared: Path | str, **changes: Any) -> DatasetConfig:
    known = {
        "name": "folder",
        "root": str(root),
        "prepared": str(prepared),
        "clip_seconds": 1.0,
        "stride_seconds": 1.0,
        "frame_size": 32,
        "val": 0.0,
        "test": 1.0 - 1e-9,
    }
    return DatasetConfig(**{**known, **changes})


def quiet(_: str) -> None:
    pass


def files(uri: str) -> dict[str, tuple[int, Any]]:
    """All files below a folder with size and modification time."""
    filesystem, path = resolve_uri(uri)
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path[len(path) :]: (info.size, info.mtime_ns) for info in infos if info.is_file}


def write(uri: str, name: str, text: str = "mine") -> None:
    filesystem, path = resolve_uri(uri)
    write_atomic(filesystem, f"{path}/{name}", text.encode())


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("README.md",), "holds README.md, and no dataset.json of raymix"),
        (("scenes/a.mp4", "a", "b", "c", "d"), "holds a, b, c and 2 more, and no dataset.json of raymix"),
        (("dataset.json",), "the dataset.json in it is not raymix's"),
        (
            ("train-00000.parquet", "manifest.parquet"),
            "holds manifest.parquet, train-00000.parquet, and no dataset.json",
        ),
    ],
)
def test_a_folder_with_files_of_others_is_not_changed(
    home: str, videos: Path, names: tuple[str, ...], says: str, overwrite: bool
) -> None:
    if overwrite or "dataset.json" not in names:  # without it that document is refused before
        for name in names:
            write(f"{home}/mine", name)
        before = files(home)
        with pytest.raises(ValueError, match=says) as caught:
            prepare_dataset(settings(videos, f"{home}/mine", overwrite=overwrite), quiet)
        assert "\n" not in str(caught.value) and files(home) == before


def test_the_folder_of_the_videos_and_its_parents_are_refused(videos: Path, tmp_path: Path) -> None:
    film(videos / "scenes" / "a.mp4", 1.0)
    (tmp_path / "link").symlink_to(videos)
    (videos / "inner").mkdir()
    before = files(str(tmp_path))
    for prepared, says in (
        (videos, "is dataset.root"),
        (f"{videos}/", "is dataset.root"),
        (tmp_path / "link", "is dataset.root"),
        (f"file://{videos}", "is dataset.root"),
        (tmp_path, "has dataset.root=.*/in in it"),
        (videos / "scenes", "holds a.mp4, and no dataset.json of raymix"),
        (videos / "0.mp4", "/0.mp4: is a file; name a folder"),
    ):
        with pytest.raises(ValueError, match=f"dataset.prepared=.*{says}"):
            prepare_dataset(settings(videos, prepared), quiet)
        assert files(str(tmp_path)) == before
    output_folder.claim_output_folder(*resolve_uri(str(tmp_path)))  # even where it is a dataset under way
    with pytest.raises(ValueError, match=r"has dataset\.root"):
        prepare_dataset(settings(videos, tmp_path), quiet)


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: None, lambda path: write(str(path), ".hidden")]
)
def test_a_separate_folder_below_the_videos_is_allowed(videos: Path, make: Callable[[Path], Any]) -> None:
    chosen = settings(videos, videos / "clips")
    make(videos / "clips")
    assert prepare_dataset(chosen, quiet).statuses == {"ok": 3}
    assert prepare_dataset(dataclasses.replace(chosen, overwrite=True), quiet).statuses == {"ok": 3}


def test_an_interrupted_preparation_can_be_resumed(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(videos, tmp_path / "out")
    prepare_dataset(chosen, quiet)
    with monkeypatch.context() as patch:  # at once, before a file was read
        patch.setattr(pipeline, "process_units", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_dataset(dataclasses.replace(chosen, overwrite=True), quiet)
    assert prepare_dataset(chosen, quiet).fresh
    for film_ in videos.iterdir():
        film_.write_bytes(b"")
    with pytest.raises(NoUsableClips):
        prepare_dataset(dataclasses.replace(chosen, overwrite=True), quiet)
    film(videos / "0.mp4", 1.0)
    assert prepare_dataset(chosen, quiet).statuses == {"ok": 1, "corrupt": 2}


def test_only_scene_lists_named_in_scenes_json_are_deleted(home: str, videos: Path) -> None:
    chosen = settings(videos, f"{home}/out")
    prepare_dataset(chosen, quiet)
    wanted = scene_lists.SceneListRequest(layouts=("single",), count=3)
    (made,) = scene_lists.write_scene_lists(chosen.prepared, wanted, quiet)
    again = dataclasses.replace(chosen, overwrite=True)
    write(f"{home}/out/scenes", f"{made['id']}-missing.csv")
    prepare_dataset(again, quiet)
    assert not [name for name in files(chosen.prepared) if "scenes" in name]
    scene_lists.write_scene_lists(chosen.prepared, wanted, quiet)
    write(f"{home}/out/scenes", "mine.mp4")
    write(f"{home}/out/scenes", "more/mine.parquet")
    prepare_dataset(again, quiet)
    own = {"/scenes/mine.mp4", "/scenes/more/mine.parquet"}
    assert {name for name in files(chosen.prepared) if "scenes" in name} == own
    write(f"{home}/out/scenes", "scenes.json", '[{"id": "mine", "file": "mine.mp4"}]')  # somebody's own document
    prepare_dataset(again, quiet)
    assert {name for name in files(chosen.prepared) if "scenes" in name} == {*own, "/scenes/scenes.json"}
    assert read_bytes(*_at(chosen, "scenes/mine.mp4")) == b"mine"


def _at(chosen: DatasetConfig, name: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = resolve_uri(chosen.prepared)
    return filesystem, f"{path}/{name}"
