"""Pictures and sound that somebody took apart, with pieces missing, beginnings missing, and rates that are not theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raymix.config import DatasetConfig
from raymix.data.extraction import clips
from raymix.data.extraction.frames_and_audio import NumberedFiles
from raymix.data.importers.media_index import MediaIndex
from raymix.data.media import ManifestRow, MediaSource, UnusableMediaError
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.records import ClipRecord
from tests.support.vggsound_files import picture, sound


def taken(root: Path, seconds: float = 1.0, rate: float = 4.0, **known) -> tuple[list[ClipRecord], ManifestRow]:
    """The clips of ID below the root, and its row of the manifest as it is written."""
    medium = MediaIndex(str(root)).find("ID")
    assert medium is not None
    source = MediaSource(medium.path, "train", medium.size_bytes, sound=medium.sound, id="ID", **known)
    entry, found = source.manifest_row(), list[ClipRecord]()
    settings = DatasetConfig(
        name="vggss", root=str(root), frames_per_second=rate, clip_seconds=seconds, stride_seconds=seconds, frames=1
    )
    try:
        for clip in clips.extract_clips(settings, source, entry):
            found.append(clip)
    except UnusableMediaError as error:
        entry.status, entry.reason = error.status, str(error)
    return found, entry


def pictures(root: Path, numbers, rate: float = 4.0) -> None:
    """Of which the grey says the time, 4 levels a second."""
    for number in numbers:
        picture(root / "ID" / "frames" / f"{number + 1:06d}.jpg", 40 + round(4 * number / rate * 4))


def sounds(root: Path, numbers, click: int = 4) -> None:
    """Pieces of a second; in the middle of one there is a click."""
    for number in numbers:
        middle_s = 0.5 if number == click else 9.0
        sound(root / "ID" / "audio" / "audio_clips" / f"{number:03d}.wav", 1.0, middle_s, rate=16_000, channels=1)


def clicks(clips: list[ClipRecord]) -> list[float]:
    """When there are clicks, on the clock of the source."""
    peaks = [(clip.start_s + np.abs(clip.wave).argmax() / 16_000, np.abs(clip.wave).max()) for clip in clips]
    return [round(time_s, 2) for time_s, peak in peaks if peak > 0.5]


def test_a_missing_piece_of_sound_is_a_gap_and_moves_nothing(tmp_path: Path) -> None:
    pictures(tmp_path, range(40))
    sounds(tmp_path, [0, 1, 3, 4, 5, 6, 7, 8, 9])
    clips, entry = taken(tmp_path)
    assert clicks(clips) == [4.5]
    assert [clip.start_s for clip in clips] == [0.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert (entry.status, entry.duration_s) == ("corrupt", 10.0)
    assert entry.reason.startswith("sound missing by their numbers from 2.00 to 3.00 s; 1 clips left out")


def test_missing_pictures_are_a_gap_and_move_nothing(tmp_path: Path) -> None:
    pictures(tmp_path, [*range(8), *range(16, 40)])
    sounds(tmp_path, range(10))
    clips, entry = taken(tmp_path)
    assert [clip.frame_times[0] for clip in clips] == [0.5, 1.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    assert [round((clip.frames[0].mean() - 40) / 16, 1) for clip in clips] == [0.5, 1.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    assert (
        entry.status == "corrupt" and "pictures missing by their numbers from 2.00 to 4.00 s; 2 clips" in entry.reason
    )
    clips, entry = taken(tmp_path, at=(2.1, 3.2, 3.9))  # an annotated frame is a picture of its time or none
    assert [clip.frame_times[0] for clip in clips] == [4.0] and "2 clips left out" in entry.reason


def test_a_gap_that_no_clip_needs_costs_none_and_is_told(tmp_path: Path) -> None:
    pictures(tmp_path, [*range(8), *range(9, 40)])
    sounds(tmp_path, range(10))
    clips, entry = taken(tmp_path)
    assert len(clips) == 10 and (entry.status, entry.reason) == (
        "repaired",
        "pictures missing by their numbers from 2.00 to 2.25 s",
    )


def test_whole_media_have_nothing_to_tell(tmp_path: Path) -> None:
    pictures(tmp_path, range(40))
    sounds(tmp_path, range(10))
    clips, entry = taken(tmp_path)
    assert len(clips) == 10 and clicks(clips) == [4.5] and (entry.status, entry.reason) == ("ok", "")


def test_a_missing_beginning_is_not_guessed(tmp_path: Path) -> None:
    pictures(tmp_path, range(40))
    sounds(tmp_path, range(2, 10))
    clips, entry = taken(tmp_path)
    assert not clips and entry.status == "corrupt" and "the pieces of sound begin at number 2" in entry.reason
    sounds(tmp_path, [1])
    clips, entry = taken(tmp_path)
    assert len(clips) == 9 and entry.status == "repaired" and "is the piece of number 0 missing?" in entry.reason


def test_lengths_that_differ_name_the_setting(tmp_path: Path) -> None:
    pictures(tmp_path, range(80), rate=8.0)
    sounds(tmp_path, range(10))
    _, entry = taken(tmp_path)
    told = "pictures end at 20.0 s, sound at 10.0 s; 80 at dataset.frames_per_second=4, is it right?"
    assert (entry.status, entry.reason) == ("repaired", told)
    assert taken(tmp_path, rate=8.0)[1].status == "ok"
    _, short = taken(tmp_path, seconds=15.0, rate=16.0)
    assert short.status == "too short" and "dataset.frames_per_second=16" in short.reason
    row = {"fps": 4.0, "file": "ID/frames", "id": "ID", "reason": told}
    right, film = {**row, "reason": ""}, {"fps": 25.0, "file": "a.mp4", "id": "a", "reason": ""}
    assert pipeline.duration_mismatch_note([row, row, right, film, film, film]).startswith(
        "pictures and sound of 2 of 3 differ in length, look at dataset.frames_per_second (ID: pictures end at 20.0 s"
    )
    assert pipeline.duration_mismatch_note([row, right, film]) == pipeline.duration_mismatch_note([film]) == ""


def test_a_rate_that_is_wrong_for_most_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)
    name, lines = "zpWuikVorYg_000032", list[str]()
    for number in range(80):
        picture(tmp_path / "frames" / name / f"{number:03d}.jpg", 50 + number)
    sound(tmp_path / "audio" / f"{name}.wav", 10.0, 5.0)
    boxes = [{"file": name, "class": "a", "bbox": [[0.1, 0.1, 0.5, 0.5]]}]
    (tmp_path / "vggss.json").write_text(json.dumps(boxes))
    settings = {"name": "vggss", "root": str(tmp_path), "prepared": str(tmp_path / "out"), "frame_size": 48}
    prepare_dataset(DatasetConfig(**settings, frames_per_second=4.0), lines.append)
    assert any("1 of 1 differ in length, look at dataset.frames_per_second" in line for line in lines)
    lines.clear()
    prepare_dataset(DatasetConfig(**settings, frames_per_second=8.0, overwrite=True), lines.append)
    assert lines and not any("differ in length" in line for line in lines)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["a/0.wav", "a/1.wav", "a/3.wav"], (0, 1, 3)),
        (["a/000001.jpg", "a/000002.jpg", "a/000010.jpg"], (0, 1, 9)),
        (["f_0.jpg", "f_8.jpg", "f_24.jpg", "f_32.jpg"], (0, 1, 3, 4)),  # every eighth frame, one missing
        (["f_0.jpg", "f_2.jpg", "f_3.jpg", "f_5.jpg", "f_6.jpg", "f_8.jpg"], (0, 2, 3, 5, 6, 8)),
        (["0.jpg", "33.jpg", "67.jpg", "100.jpg", "167.jpg"], (0, 1, 2, 3, 5)),  # milliseconds
        (["a/1.jpg", "b/7.jpg", "b/8.jpg"], (0, 1, 2)),  # not one series
        (["first.jpg", "second.jpg"], (0, 1)),
        (["01.jpg", "1.jpg", "2.jpg"], (0, 1, 2)),
        (["7.jpg"], (0,)),
    ],
)
def test_places_by_number(names: list[str], places: tuple[int, ...]) -> None:
    assert NumberedFiles.of(names).places == places


def test_numbers_without_a_step_are_refused() -> None:
    with pytest.raises(UnusableMediaError, match=r"the numbers of 10.jpg, 20.jpg, 36.jpg ... follow no step"):
        NumberedFiles.of(["10.jpg", "20.jpg", "36.jpg"])
