"""Protocols: frozen, named, and refused where scoring could not honour them."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from raymix.protocol import PROTOCOLS, RAYMIX_1, protocol


def test_raymix_1_is_what_its_name_says():
    assert {field.name: getattr(RAYMIX_1, field.name) for field in fields(RAYMIX_1)} == {
        "id": "raymix-1",
        "scope": "canvas",
        "upsample": "bilinear",
        "align_corners": False,
        "normalise": "minmax_map",
        "threshold": 0.5,
        "iou_thresholds": (0.1, 0.3, 0.5),
        "auc_points": 21,
        "match": "joint_iou",
        "combine": "mean",
        "missing": "zero",
        "surplus": "ignore",
        "empty_truth": "skip",
        "unit": "scene",
    }
    with pytest.raises(FrozenInstanceError):
        RAYMIX_1.threshold = 0.4


def test_every_protocol_is_found_by_its_id():
    assert PROTOCOLS
    for name, value in PROTOCOLS.items():
        assert value.id == name
        assert protocol(name) is value
        assert hash(value) == hash(replace(value))


@pytest.mark.parametrize("name", ["raymix1", "Raymix-1", "raymix-2"])
def test_a_misspelt_protocol_names_the_nearest(name):
    with pytest.raises(ValueError, match=f"protocol='{name}' is unknown, did you mean 'raymix-1'"):
        protocol(name)


def test_a_foreign_protocol_lists_the_known():
    with pytest.raises(ValueError, match="known: raymix-1"):
        protocol("xyz")


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "panel"},
        {"normalise": "sigmoid"},
        {"match": "oracle"},
        {"surplus": "penalise"},
        {"threshold": 1.5},
        {"iou_thresholds": (0.5, -0.1)},
        {"auc_points": 1},
    ],
)
def test_a_choice_that_scoring_does_not_know_is_refused(change):
    with pytest.raises(ValueError, match=f"protocol mine: {next(iter(change))}="):
        replace(RAYMIX_1, id="mine", **change)
