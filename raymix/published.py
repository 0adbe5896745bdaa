"""Tables 1, 2 and 3 of the paper as they were printed: rows, columns and every published number.

Numbers are kept as printed, in percent: a star says that the best pairing of maps with sources was taken (section 4.4),
None that the paper has no number there. What each column means is a protocol (`raymix.protocol`) on a layout of scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

METRICS_SINGLE = ("ap", "auc")
METRICS_MULTI = ("cap", "piap", "auc")


@dataclass(frozen=True)
class Part:
    """Neighbouring columns of one table: one set of scenes, one protocol."""

    head: str  # as printed
    dataset: str  # of configs/dataset
    layout: str  # of raymix.scene.LAYOUTS; "natural" where the sounds were not mixed by us
    protocol: str
    metrics: tuple[str, ...]
    subset: str = ""  # of `dataset.subset`, where the dataset has some
    fewer: bool = False  # natural scenes: also those annotated frames in which not all sources have a box


@dataclass(frozen=True)
class PaperTable:
    """One table: its parts, and for each row the name as printed, the system, and the numbers of each part in turn."""

    number: int
    title: str
    parts: tuple[Part, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str | None, ...], ...]], ...]

    def __post_init__(self) -> None:
        for name, _, numbers in self.rows:
            if [len(each) for each in numbers] != [len(part.metrics) for part in self.parts]:
                raise ValueError(f"table {self.number}, {name}: not a number for each column")


def _single(head: str, dataset: str, at: str, subset: str = "") -> Part:
    return Part(head, dataset, "single", "mixloc-single", (*METRICS_SINGLE, f"iou@{at}"), subset)


def _multi(head: str, dataset: str, layout: str, at: str, subset: str = "") -> Part:
    return Part(head, dataset, layout, "mixloc-multi", (*METRICS_MULTI, f"ciou@{at}"), subset)


def _numbers(*parts: str) -> tuple[tuple[str | None, ...], ...]:
    return tuple(tuple(None if each == "-" else each for each in part.split()) for part in parts)


_SYNTHETIC = _multi("MUSIC-Synthetic", "music", "grid2x2", "0.3", "solo")
_DUET = replace(_multi("MUSIC-Duet", "music", "natural", "0.3", "duet"), fewer=True)
_OURS = ("34.0* 39.7 20.2* 21.3*", "47.4* 53.9 21.2* 26.3*")

TABLES = {
    1: PaperTable(
        1,
        "Sound source localization performance on MUSIC dataset",
        (_single("MUSIC-Solo", "music", "0.5", "solo"), _SYNTHETIC, _DUET),
        (
            ("Hu et al.", "dsol", _numbers("- 43.6 51.4", "- - 23.5 32.3", "- - 22.1 30.2")),
            ("Sound of Pixels + Matching", "sound_of_pixels", _numbers("- 43.3 40.5", "- - 11.8 8.1", "- - 16.8 16.8")),
            ("OTS", "ots", _numbers("69.3 35.8 26.1", "11.4 17.6 10.2 3.7", "35.4 42.8 18.3 13.2")),
            ("OTS-mix", "ots_mix", _numbers("53.8 33.9 17.5", "16.9 27.4 7.3 0", "23.8 28.2 12.0 2.0")),
            ("Attention", "attention", _numbers("- 38.7 37.2", "- - 12.3 6.4", "- - 19.4 21.5")),
            ("DMC", "dmc", _numbers("- 38.0 29.1", "- - 16.3 7.0", "- - 21.1 17.3")),
            ("Ours", "cycle", _numbers("67.9 40.6 29.2", *_OURS)),
        ),
    ),
    2: PaperTable(
        2,
        "Sound source localization performance on VGGSound-Instruments and VoxCeleb2 datasets",
        (
            _single("VGGSound-Instruments, single", "vggsound_instruments", "0.3"),
            _multi("VGGSound-Instruments, multiple", "vggsound_instruments", "hconcat", "0.1"),
            _single("VoxCeleb2, single", "voxceleb2", "0.3"),
            _multi("VoxCeleb2, multiple", "voxceleb2", "hconcat", "0.1"),
        ),
        (
            ("OTS", "ots", _numbers("47.3 24.5 25.7", "23.2 37.6 10.8 51.1", "43.9 23.5 6.2", "20.4 32.6 7.0 15.8")),
            (
                "OTS-mix",
                "ots_mix",
                _numbers("37.0 20.9 24.9", "18.1 30.7 10.8 50.7", "21.4 6.4 6.2", "10.7 18.2 4.1 15.8"),
            ),
            (
                "Ours",
                "cycle",
                _numbers("44.7 32.1 49.6", "21.5* 37.4 15.5* 73.1*", "46.1 27.7 35.4", "20.1* 35.4 14.2* 17.4*"),
            ),
        ),
    ),
    3: PaperTable(
        3,
        "Ablation study",
        (_SYNTHETIC, _DUET),
        (
            ("Corre", "corre", _numbers("12.6 16.0 7.3 0.0", "19.3 21.1 17.8 7.7")),
            ("ISI", "isi", _numbers("11.0 16.4 7.3 0.0", "19.7 24.9 17.5 7.6")),
            ("Permute", "permute", _numbers("18.2* 24.4 9.1* 0.4*", "24.0* 28.1 19.5* 12.4*")),
            ("Ours", "cycle", _numbers(*_OURS)),
        ),
    ),
}
"""The published tables by their number."""
