"""Protocols: frozen, named, and refused where scoring could not honour them."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from raymix.metrics.protocols import PROTOCOLS, RAYMIX_1, EvaluationProtocol, get_protocol
from raymix.metrics.regions import box_mask


def test_raymix_1_is_what_its_name_says():
    assert {field.name: getattr(RAYMIX_1, field.name) for field in fields(RAYMIX_1)} == {
        "id": "raymix-1",
        "source": "",
        "sources": "any",
        "scope": "canvas",
        "upsample": "bilinear",
        "align_corners": False,
        "normalise": "minmax_map",
        "affine": (0.0, 1.0),
        "binarise": "absolute",
        "threshold": 0.5,
        "threshold_strict": False,
        "iou_thresholds": (0.1, 0.3, 0.5),
        "success_strict": False,
        "auc_points": 21,
        "reports": "rate",
        "match": "joint_iou",
        "combine": "mean",
        "missing": "zero",
        "surplus": "ignore",
        "empty_truth": "skip",
        "weighs_votes": False,
        "unit": "scene",
        "silence": "none",
        "silence_threshold": 0.2,
        "ap": "image",
        "ap_bins": 1000,
        "piap": True,
        "all_sources": False,
        "adaptive": False,
    }
    with pytest.raises(FrozenInstanceError):
        RAYMIX_1.threshold = 0.4


def test_all_presets_are_there():
    published = [
        "mixloc-single",
        "mixloc-multi",
        "mixloc-multi-named",
        "dsol-solo",
        "dsol-syn",
        "dsol-duet",
        "lvs",
        "ezvsl",
        "slavc",
    ]
    published += ["avgn-code", "noprior-code", "tvsl-code", "gar-union", "sslalign", "wsol-pxap"]
    twins = ["avgn-fixed", "noprior-fixed", "tvsl-fixed"]
    assert sorted(PROTOCOLS) == sorted(["raymix-1", *published, *twins])
    for name, value in PROTOCOLS.items():
        assert value.id == name
        assert get_protocol(name) is value
        assert hash(value) == hash(replace(value))
        assert value.source or name == "raymix-1", f"{name} does not say what it was read from"
        if name.endswith("-code"):
            twin = PROTOCOLS[name.removesuffix("-code") + "-fixed"]
            assert replace(twin, id="", source="") != replace(value, id="", source="")


def test_single_votes_weigh_where_published_code_weighs_them():
    assert {name for name, how in PROTOCOLS.items() if how.weighs_votes} == {"lvs", "ezvsl", "slavc", "sslalign"}


def test_what_a_preset_does_not_copy_is_told():
    assert all("here they are rounded" in PROTOCOLS[name].source for name in ("dsol-solo", "dsol-syn", "dsol-duet"))
    assert not PROTOCOLS["slavc"].success_strict and "> .5 there" in PROTOCOLS["slavc"].source
    assert box_mask((0.19, 0, 0.46, 1), 1, 10).tolist() == [[False] * 2 + [True] * 3 + [False] * 5]  # cut off: 1 to 4


def test_no_two_presets_are_the_same_choices():
    choices = {replace(value, id="", source="") for value in PROTOCOLS.values()}
    assert len(choices) == len(PROTOCOLS)


def test_presets_say_which_scenes_they_are_for():
    one = {name for name, value in PROTOCOLS.items() if value.declines(2)}
    several = {name for name, value in PROTOCOLS.items() if value.declines(1)}
    assert one == {"mixloc-single", "dsol-solo", "lvs", "ezvsl", "slavc"}
    assert several == {
        "mixloc-multi",
        "mixloc-multi-named",
        "dsol-syn",
        "dsol-duet",
        "noprior-code",
        "noprior-fixed",
        "tvsl-code",
        "tvsl-fixed",
    }
    assert PROTOCOLS["lvs"].declines(3) == "protocol lvs is for scenes of one source, these have 3"
    assert PROTOCOLS["dsol-syn"].declines(1) == "protocol dsol-syn is for scenes of several sources, these have 1"


@pytest.mark.parametrize("name", ["raymix1", "Raymix-1", "raymix-2"])
def test_a_misspelt_protocol_names_the_nearest(name):
    with pytest.raises(ValueError, match=f"protocol='{name}' is unknown, did you mean 'raymix-1'"):
        get_protocol(name)


def test_a_foreign_protocol_lists_the_known():
    with pytest.raises(ValueError, match="known: raymix-1, mixloc-single"):
        get_protocol("xyz")


CHOICES = [name for name, hint in get_type_hints(EvaluationProtocol).items() if get_origin(hint) is Literal]


def test_every_choice_is_guarded():
    assert len(CHOICES) == 14
    for name in CHOICES:
        with pytest.raises(ValueError, match=f"^protocol mine: {name}='nothing' is not one of "):
            replace(RAYMIX_1, id="mine", **{name: "nothing"})


def test_every_value_of_every_choice_is_known_somewhere():
    """What is allowed can be built, alone or with the choice that it needs."""
    needs = {"dataset": {"scope": "union"}, "detection": {"sources": "one"}}
    for name in CHOICES:
        for value in get_args(get_type_hints(EvaluationProtocol)[name]):
            assert getattr(replace(RAYMIX_1, **needs.get(value, {}), **{name: value}), name) == value


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1.5},
        {"threshold": float("nan"), "normalise": "none"},
        {"threshold": 2.0, "normalise": "none", "binarise": "fraction_of_max"},
        {"iou_thresholds": (0.5, -0.1)},
        {"auc_points": 1},
        {"ap_bins": 0},
        {"affine": (1.0, 1.0)},
        {"affine": (0.0, float("inf"))},
        {"affine": (0.0, 1.0, 2.0)},
        {"threshold_strict": 1},
        {"piap": "yes"},
        {"silence_threshold": float("inf")},
        {"silence": "nsa", "scope": "panel"},
        {"ap": "dataset"},
        {"ap": "detection"},
        {"combine": "best", "scope": "union"},
        {"combine": "best", "match": "broadcast"},
    ],
)
def test_a_choice_that_scoring_does_not_know_is_refused(change):
    with pytest.raises(ValueError, match=f"^protocol mine: {next(iter(change))}=") as refusal:
        replace(RAYMIX_1, id="mine", **change)
    assert "\n" not in str(refusal.value)


def test_thresholds_on_raw_maps_are_free():
    assert replace(RAYMIX_1, normalise="none", threshold=-33.3).threshold == -33.3
