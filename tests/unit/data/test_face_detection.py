"""Faces found in a real photograph and followed through frames; boxes and ovals to the pixel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymix.data.importers import face_detection
from raymix.metrics.regions import encode_mask, region_mask
from tests.support import face_videos as heads
from tests.support.onnx_file import yunet

SIZE = (160, 128)


def test_a_face_is_found_where_it_is_put() -> None:
    find = face_detection.load_face_detector("opencv")
    for left, top, side in ((5, 3, 120), (60, 20, 96), (-20, 10, 110), (40, -12, 128)):
        (found,) = find(heads.picture([(left, top, side)], SIZE))
        assert np.abs(np.array(found) - heads.box(left, top, side)).max() <= 6
    assert find(np.full((128, 160, 3), 90, np.uint8)) == []
    two = find(heads.picture([(0, 10, 96), (70, 30, 88)], SIZE))
    assert len(two) == 2 and two[0][0] < 70 < two[1][0]


def test_the_detector_says_the_same_again() -> None:
    frame = heads.picture([(0, 10, 96), (70, 30, 88)], SIZE)
    assert len({tuple(face_detection.load_face_detector("opencv")(frame)) for _ in range(3)}) == 1


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
def test_there_is_no_face_in_a_cup_a_cat_or_a_rocket(name: str) -> None:
    from skimage import data

    image = Image.fromarray(getattr(data, name)())
    image.thumbnail((256, 256))
    assert face_detection.load_face_detector("opencv")(np.asarray(image)) == []


A, B = (10.0, 10.0, 50.0, 50.0), (60.0, 60.0, 90.0, 90.0)


def moved(box: face_detection.FaceBox, by: float) -> face_detection.FaceBox:
    return box[0] + by, box[1], box[2] + by, box[3]


def test_the_face_that_stays_is_the_speaker() -> None:
    big = (0.0, 0.0, 80.0, 80.0)
    stays = [[moved(B, 4 * n)] for n in range(6)]
    assert face_detection.speaker_boxes([*([*stays[n], big] if n < 2 else stays[n] for n in range(6))]) == [
        b[0] for b in stays
    ]
    assert face_detection.speaker_boxes([[A, moved(B, n)] for n in range(6)]) == [A] * 6  # both stay: the larger
    assert face_detection.speaker_boxes([[moved(B, n), A] for n in range(6)]) == [A] * 6
    assert face_detection.speaker_boxes([[A], [], [], [B], [], []]) == [None] * 6  # neither is in half of the frames
    assert face_detection.speaker_boxes([[], [], []]) == [None] * 3


def test_two_faces_that_pass_keep_their_names() -> None:
    frames = [[moved(A, 8 * n), (90.0 - 8 * n, 14.0, 120.0 - 8 * n, 44.0)] for n in range(10)]
    assert face_detection.speaker_boxes(frames) == [frame[0] for frame in frames]
    assert face_detection.speaker_boxes([frame[::-1] for frame in frames]) == [frame[0] for frame in frames]


def test_between_two_frames_with_the_face_it_is_between_them() -> None:
    found = face_detection.speaker_boxes([[A], [], [moved(A, 8)], [moved(A, 12)], []])
    assert found == [A, moved(A, 4), moved(A, 8), moved(A, 12), None]  # nothing says where it is at the end


def test_box_and_oval_to_the_pixel() -> None:
    # a box of 6 by 4 pixels at (2, 1) of a frame of 10 by 8; the ellipse has the half axes 3 and 2 around (5, 3)
    box = face_detection.normalize_box((2.0, 1.0, 8.0, 5.0), 8, 10)
    assert box == (0.2, 0.125, 0.8, 0.625)
    drawn = ["".join(".#"[int(pixel)] for pixel in row) for row in face_detection.ellipse_mask(box, 8, 10)]
    assert drawn == [
        "..........",
        "...####...",  # 0.75² + (x / 3)² <= 1 up to x = 1.98
        "..######..",  # 0.25² + (2.5 / 3)² = 0.757
        "..######..",
        "...####...",
        "..........",
        "..........",
        "..........",
    ]
    square = face_detection.normalize_box((2.0, 1.0, 8.0, 5.0), 10, 10)
    assert np.argwhere(region_mask(square, None, 10)).tolist() == [[y, x] for y in range(1, 5) for x in range(2, 8)]
    png = encode_mask(face_detection.ellipse_mask(square, 10, 10))
    assert np.array_equal(region_mask(None, png, 10), face_detection.ellipse_mask(square, 10, 10))
    assert Image.open(io.BytesIO(png)).size == (10, 10)
    assert face_detection.normalize_box((-4.0, 2.0, 24.0, 9.0), 8, 20) == (0.0, 0.25, 1.0, 1.0)


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^dataset.faces='opencw': neither opencv nor a file .* \(did you mean opencv\?\)$"
    ):
        face_detection.load_face_detector("opencw")
    with pytest.raises(ValueError, match=r"neither opencv nor a file that can be read$"):
        face_detection.load_face_detector(str(tmp_path / "yunet.onnx"))
    (tmp_path / "text.onnx").write_text("<html>not found</html>")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("text.onnx", "empty.onnx"):
        with pytest.raises(
            ValueError, match=r"^dataset.faces='.*': not the weights of YuNet \(ONNX\) that OpenCV reads$"
        ):
            face_detection.load_face_detector(str(tmp_path / name))


def test_yunet_by_its_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "face_detection_yunet.onnx"
    path.write_bytes(yunet())
    find = face_detection.load_face_detector(str(path))
    frame = np.zeros((130, 200, 3), np.uint8)
    frame[64:96, 96:128] = (255, 0, 0)  # red, as raymix has it: red first
    frame[0:32, 0:32] = (0, 0, 255)
    assert find(frame) == [pytest.approx((112 - 32, 80 - 48, 112 + 32, 80 + 48), abs=0.01)]
    assert find(np.zeros((64, 64, 3), np.uint8)) == []
    (tmp_path / "other.onnx").write_bytes(yunet().replace(b"bbox_", b"bbax_"))
    with pytest.raises(ValueError, match=r"not the weights of YuNet \(ONNX\) that OpenCV reads$"):
        face_detection.load_face_detector(str(tmp_path / "other.onnx"))
    assert capfd.readouterr().err == ""
