"""Detection and tracking of the speaker's face in a clip: the ground truth of VoxCeleb2, which has no boxes (section 4.1, table 2).

The paper says "a face detector". Here it is OpenCV's: the Haar cascade that comes with it, or YuNet where its weights are
given. Either looks at the frames as they are stored, so it sees what a model sees. A face counts as the speaker's if it
stays: it is followed through the frames of a clip by the overlap of its boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from raymix.config import did_you_mean
from raymix.runtime.storage import read_bytes, resolve_uri

FaceBox = tuple[float, float, float, float]  # left, top, right, bottom in pixels

FaceDetector = Callable[[np.ndarray], list[FaceBox]]


BUILT_IN_DETECTOR = "opencv"  # `dataset.faces` of the detector that needs no file

# Of the three frontal ones: none of 13 photographs without a face has one by it, 98 of LFW's 100 small ones with a face do.
CASCADE = "haarcascade_frontalface_alt2.xml"

MIN_FACE_SHARE = 0.1  # of a frame's shorter side: smaller faces are not looked for

MIN_SCORE = 0.6  # of YuNet, below which nothing is a face

MIN_TRACK_IOU = 0.3  # intersection over union of the boxes of one face in neighbouring frames

MIN_TRACK_SHARE = 0.5  # share of the frames in which a face that stays is found


def load_face_detector(faces: str) -> FaceDetector:
    """What finds the faces of a frame (uint8 YX3), in an order that only the frame decides.

    `faces` is "opencv", or the place of YuNet's weights (ONNX); ValueError in one line where it is neither.
    """
    return _cascade() if faces == BUILT_IN_DETECTOR else _yunet(faces)


@lru_cache(maxsize=1)
def _cascade() -> FaceDetector:
    cv2 = _opencv()
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + CASCADE)

    def find(frame_YX3: np.ndarray) -> list[FaceBox]:
        gray_YX = cv2.cvtColor(frame_YX3, cv2.COLOR_RGB2GRAY)
        least = round(MIN_FACE_SHARE * min(gray_YX.shape))
        found = cascade.detectMultiScale(gray_YX, scaleFactor=1.1, minNeighbors=4, minSize=(least, least))
        return sorted((float(x), float(y), float(x + wide), float(y + high)) for x, y, wide, high in found)

    return find


@lru_cache(maxsize=1)
def _yunet(uri: str) -> FaceDetector:
    cv2 = _opencv()
    filesystem, path = resolve_uri(uri)
    try:
        weights = np.frombuffer(read_bytes(filesystem, path), np.uint8)
    except OSError as error:
        hint = did_you_mean(uri, [BUILT_IN_DETECTOR]) if "/" not in uri else ""
        raise ValueError(
            f"dataset.faces='{uri}': neither {BUILT_IN_DETECTOR} nor a file that can be read{hint}"
        ) from error

    def find(frame_YX3: np.ndarray) -> list[FaceBox]:
        model.setInputSize((frame_YX3.shape[1], frame_YX3.shape[0]))
        found = model.detect(np.ascontiguousarray(frame_YX3[..., ::-1]))[1]  # it reads blue, green, red
        rows = [] if found is None else found[:, :4].astype(float)
        return sorted((float(x), float(y), float(x + wide), float(y + high)) for x, y, wide, high in rows)

    try:
        model = cv2.FaceDetectorYN.create("onnx", weights, np.empty(0, np.uint8), (64, 64), MIN_SCORE)
        find(np.zeros((64, 64, 3), np.uint8))
    except cv2.error as error:
        raise ValueError(f"dataset.faces='{uri}': not the weights of YuNet (ONNX) that OpenCV reads") from error
    return find


def _opencv() -> Any:
    import cv2  # only who looks for faces pays for it

    cv2.setNumThreads(1)  # a task owns one core
    return cv2


def speaker_boxes(found: Sequence[Sequence[FaceBox]]) -> list[FaceBox | None]:
    """The box of the speaker's face in each frame, from the boxes of all faces in each; None where it is not.

    Of the faces that stay, which are found in at least half of the frames, it is the largest on average. In a frame where
    the detector missed it between two where it did not, its box is between theirs.
    """
    lasting = [track for track in _tracks(found) if len(track) >= MIN_TRACK_SHARE * len(found)]
    if not lasting:
        return [None] * len(found)
    chosen = max(lasting, key=lambda track: sum(map(_area, track.values())) / len(track))
    return [_at(chosen, place) for place in range(len(found))]


def _tracks(found: Sequence[Sequence[FaceBox]]) -> list[dict[int, FaceBox]]:
    """Each face's box by the number of the frame: the pair of a known face and a box that overlaps most goes first."""
    tracks: list[dict[int, FaceBox]] = []
    for place, boxes in enumerate(found):
        pairs = [
            (-_overlap(track[max(track)], box), t, b) for t, track in enumerate(tracks) for b, box in enumerate(boxes)
        ]
        met: set[int] = set()
        for overlap, t, b in sorted(pairs):
            if -overlap >= MIN_TRACK_IOU and b not in met and place not in tracks[t]:
                tracks[t][place] = boxes[b]
                met.add(b)
        tracks += [{place: box} for b, box in enumerate(boxes) if b not in met]
    return tracks


def _at(track: dict[int, FaceBox], place: int) -> FaceBox | None:
    before, after = [p for p in track if p <= place], [p for p in track if p >= place]
    if not before or not after:
        return None
    low, high = max(before), min(after)
    share = (place - low) / (high - low) if high > low else 0.0
    left, top, right, bottom = ((1 - share) * a + share * b for a, b in zip(track[low], track[high], strict=True))
    return left, top, right, bottom


def _area(box: FaceBox) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(one: FaceBox, other: FaceBox) -> float:
    """Intersection over union."""
    left, top, right, bottom = (f(a, b) for f, a, b in zip((max, max, min, min), one, other, strict=True))
    both = _area((left, top, right, bottom))
    return both / (_area(one) + _area(other) - both) if both else 0.0


def normalize_box(box: FaceBox, height: int, width: int) -> FaceBox:
    """A box in pixels as shares of a frame, cut off at its edges."""
    left, top, right, bottom = (
        min(max(edge / size, 0.0), 1.0) for edge, size in zip(box, (width, height, width, height), strict=True)
    )
    return left, top, right, bottom


def ellipse_mask(box_xyxy: FaceBox, height: int, width: int) -> np.ndarray:
    """The ellipse that fills a box in [0, 1], as a bool mask (height, width) of the pixels whose middle is in it."""
    left, top, right, bottom = box_xyxy
    across_X = ((np.arange(width) + 0.5) / width - (left + right) / 2) / max((right - left) / 2, 1e-9)
    down_Y = ((np.arange(height) + 0.5) / height - (top + bottom) / 2) / max((bottom - top) / 2, 1e-9)
    return np.asarray(across_X[None] ** 2 + down_Y[:, None] ** 2 <= 1)
