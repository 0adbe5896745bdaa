"""Which of several files of one name is the medium: never an empty one before a whole one, never the picture of a mask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raymix.config import DatasetConfig
from raymix.data.importers import flickr_soundnet, music, vggsound, vggss, voxceleb2
from raymix.data.importers.media_index import MediaIndex
from raymix.data.media import UnusableMediaError
from tests.support.make_videos import film
from tests.support.vggsound_files import picture, sound


def tree(root: Path, **sizes: int) -> MediaIndex:
    """Files by path and size; '__' stands for '/', and what follows the last '_' is the ending."""
    for name, size in sizes.items():
        path = root / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1" * size)
    return MediaIndex(str(root))


@pytest.mark.parametrize(
    ("files", "path", "heard", "doubts"),
    [
        ({"a__ID_mp4": 0, "b__ID_mkv": 5}, "b/ID.mkv", "", 0),
        ({"a__ID_mp4": 0, "frames__ID_jpg": 3, "audio__ID_wav": 3}, "frames/ID.jpg", "audio/ID.wav", 0),
        ({"a__ID_mp4": 0}, "a/ID.mp4", "", 0),
        ({"a__ID_mp4": 4, "b__ID_mkv": 5}, "a/ID.mp4", "", 1),
        ({"a__ID_mp4": 5, "b__ID_mp4": 5}, "a/ID.mp4", "", 0),  # a copy
        ({"annotations__ID_png": 3, "test__ID_jpg": 3, "a__ID_wav": 3}, "test/ID.jpg", "a/ID.wav", 0),
        ({"Masks__ID_png": 3, "a__ID_wav": 3}, None, "", 0),
        ({"also__ID_png": 2, "frames__ID_jpg": 3, "a__ID_wav": 3}, "frames/ID.jpg", "a/ID.wav", 0),
        ({"also__ID_png": 2, "test__ID_jpg": 3, "a__ID_wav": 3}, "also/ID.png", "a/ID.wav", 1),
        (
            {"ID__cover_jpg": 2, "ID__frames__1_jpg": 3, "ID__frames__2_jpg": 3, "ID__x_wav": 3},
            "ID/frames",
            "ID/x.wav",
            0,
        ),
        ({"ID__masks__1_png": 2, "ID__pictures__1_jpg": 3, "ID__x_wav": 3}, "ID/pictures", "ID/x.wav", 0),
        ({"ID__frame_000__0_jpg": 2, "ID__frame_001__30_jpg": 3, "ID_flac": 3}, "ID", "ID.flac", 0),
        (
            {"frames__ID_jpg": 2, "audio__ID_mp3": 0, "audio__ID_wav": 3, "audio__XX_wav": 9},
            "frames/ID.jpg",
            "audio/ID.wav",
            0,
        ),
        ({"frames__ID_jpg": 2, "audio__ID_mp3": 1, "audio__ID_wav": 3}, "frames/ID.jpg", "audio/ID.mp3", 1),
        ({"ID__frames__1_jpg": 2, "ID__a__clips__0_wav": 1, "ID__a__clips__1_wav": 3}, "ID/frames", "ID/a/clips", 0),
    ],
)
def test_of_several_files_the_right_one(
    tmp_path: Path, files: dict[str, int], path: str | None, heard: str, doubts: int
) -> None:
    found = tree(tmp_path, **files).find("ID")
    if path is None:
        assert found is None
        return
    assert found is not None
    assert (found.path, found.sound, len(found.doubts)) == (path, heard, doubts)
    still = tree(tmp_path, **files).still("ID")
    if still is not None:
        assert (still.path, still.sound, len(still.doubts)) == (path, heard, doubts)


def test_both_are_named(tmp_path: Path) -> None:
    found = tree(tmp_path, a__ID_mp4=4, b__ID_mkv=5).find("ID")
    assert found is not None and found.doubts == ("a/ID.mp4 was taken, there is b/ID.mkv too",)
    still = tree(tmp_path, x__ID_jpg=4, y__ID_jpg=5, ID_wav=3).still("ID")
    assert still is not None and still.doubts == ("x/ID.jpg was taken, there is y/ID.jpg too",)


def test_a_whole_video_is_taken_where_the_cut_clip_is_empty(tmp_path: Path) -> None:
    source = vggsound.source_without_split(
        tree(tmp_path, **{"a__zpWuikVorYg_000032_mp4": 0, "b__zpWuikVorYg_mp4": 5}), ID
    )
    assert (source.path, source.span) == ("b/zpWuikVorYg.mp4", (32.0, 42.0))


def test_a_link_to_nothing_is_found_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "zpWuikVorYg_000032.mp4").symlink_to("nowhere.mp4")
    media = MediaIndex(str(tmp_path))
    found = media.find(ID)
    assert found is not None and (found.path, found.size_bytes) == ("zpWuikVorYg_000032.mp4", -1)
    source, chosen = vggsound.source_without_split(media, ID), DatasetConfig(name="vggsound", root=str(tmp_path))
    with pytest.raises(UnusableMediaError, match="link to nothing") as caught:
        list(vggsound.import_clips(chosen, source, source.manifest_row()))
    assert caught.value.status == "missing"
    source = vggsound.source_without_split(tree(tmp_path, **{"b__zpWuikVorYg_mp4": 5}), ID)
    assert (source.path, source.span) == ("b/zpWuikVorYg.mp4", (32.0, 42.0))


ID = "zpWuikVorYg_000032"


def test_rows_of_the_manifest_name_both(tmp_path: Path) -> None:
    for name in ("a/zpWuikVorYg.mp4", "b/zpWuikVorYg.mkv"):
        film(tmp_path / name, 2.0 if name[0] == "a" else 3.0)
    told = ("a/zpWuikVorYg.mp4 was taken, there is b/zpWuikVorYg.mkv too",)
    boxes = [{"file": ID, "class": "a", "bbox": [[0.1, 0.1, 0.5, 0.5]]}]
    (tmp_path / "vggss.json").write_text(json.dumps(boxes))
    assert [source.repairs for source in vggss.list_sources(DatasetConfig(name="vggss", root=str(tmp_path)))] == [told]
    (tmp_path / "MUSIC_solo_videos.json").write_text(json.dumps({"videos": {"flute": ["zpWuikVorYg"]}}))
    key = "zpWuikVorYg_0_1000/frame_000/00000.jpg"
    box = {"box": [64, 72, 192, 144], "normbox": [0.1, 0.2, 0.3, 0.4], "category_id": 12}
    (tmp_path / "solotest.json").write_text(json.dumps({key: {"bbox": [box], "wdith": 640, "height": 360}}))
    assert [source.repairs for source in music.list_sources(DatasetConfig(name="music", root=str(tmp_path)))] == [told]


def test_other_importers_name_both_too(tmp_path: Path) -> None:
    for folder, grey in (("x", 100), ("y", 150)):
        picture(tmp_path / folder / "10000130166.jpg", grey, (64, 48 if grey == 100 else 96))
    sound(tmp_path / "10000130166.wav", 2.0, 1.0)
    box = "<bbox><n>a</n><xmin>1</xmin><ymin>1</ymin><xmax>99</xmax><ymax>99</ymax></bbox>"
    (tmp_path / "10000130166.xml").write_text(f"<r><a>{box}</a><b>{box}</b></r>")
    (source,) = flickr_soundnet.list_sources(DatasetConfig(name="flickr_soundnet", root=str(tmp_path)))
    assert source.repairs == ("x/10000130166.jpg was taken, there is y/10000130166.jpg too",)
    clip = tmp_path / "vox" / "id00012" / "VIDEO" / "00001"
    for name, size in (("a.mp4", 0), ("masks/0.jpg", 3), ("pictures/1.jpg", 3), ("a.wav", 3)):
        (clip / name).parent.mkdir(parents=True, exist_ok=True)
        (clip / name).write_bytes(b"1" * size)
    (found,) = voxceleb2.list_sources(DatasetConfig(name="voxceleb2", root=str(tmp_path / "vox"), faces="opencv"))
    assert (found.path, found.sound) == ("id00012/VIDEO/00001/pictures", "id00012/VIDEO/00001/a.wav")
    (clip / "b.mp4").write_bytes(b"11")
    (clip / "c.mp4").write_bytes(b"1")
    (found,) = voxceleb2.list_sources(DatasetConfig(name="voxceleb2", root=str(tmp_path / "vox"), faces="opencv"))
    assert found.path.endswith("b.mp4") and "c.mp4 too" in found.repairs[0]
