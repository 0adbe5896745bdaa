"""The systems of the paper's tables, and later ones, by name: one file each, and its line here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from raymix.config import Run, nearest
from raymix.methods.attention import Attention
from raymix.methods.corre import Corre
from raymix.methods.cycle import Cycle
from raymix.methods.dmc import Dmc
from raymix.methods.dsol import Dsol
from raymix.methods.ez_vsl import EzVsl
from raymix.methods.fnac import Fnac
from raymix.methods.isi import Isi
from raymix.methods.lvs import Lvs
from raymix.methods.method import Examples, Maps, Method, Needs
from raymix.methods.ots import Ots
from raymix.methods.ots_mix import OtsMix
from raymix.methods.permute import Permute
from raymix.methods.slavc import Slavc
from raymix.methods.sound_of_pixels import SoundOfPixels

METHODS: dict[str, type[Method]] = {
    "cycle": Cycle,
    "isi": Isi,
    "corre": Corre,
    "permute": Permute,
    "ots": Ots,
    "ots_mix": OtsMix,
    "attention": Attention,
    "dmc": Dmc,
    "lvs": Lvs,
    "ez_vsl": EzVsl,
    "slavc": Slavc,
    "fnac": Fnac,
    "dsol": Dsol,
    "sound_of_pixels": SoundOfPixels,
}

__all__ = ["METHODS", "Examples", "Maps", "Method", "Needs", "build", "from_run", "needs"]


def build(name: str, k: int, encoder: Mapping[str, Any], knobs: Mapping[str, Any]) -> Method:
    """The method `name` for groups of `k`; `encoder` (width, weights) and `knobs` are keywords of its constructor.

    `encoder.image_size` may come along; it is of no concern here, since the networks take pictures of any size.

    Raises ValueError for an unknown method, an unknown knob (with the nearest one), or a value the method refuses.
    """
    _known(name)
    encoder = {key: value for key, value in encoder.items() if key != "image_size"}
    valid = [each for each in inspect.signature(METHODS[name]).parameters if each != "k"]
    given = {f"encoder.{key}": key for key in encoder} | {f"method.{key}": key for key in knobs}
    for label, key in given.items():
        if key not in valid:
            raise ValueError(f"{label}: {name} has no such knob{nearest(key, valid)}")
    twice = set(encoder) & set(knobs)
    if twice:
        raise ValueError(f"method.{min(twice)}: given twice, it is encoder.{min(twice)} already")
    return METHODS[name](k, **encoder, **knobs)


def _known(name: str) -> None:
    if name not in METHODS:
        raise ValueError(f"method={name}: unknown{nearest(name, list(METHODS))}")


def needs(run: Run) -> Needs:
    """What the method of a run reads of each clip; ValueError for an unknown method."""
    name = run.method.get("name", "")
    _known(name)
    return METHODS[name].needs


def from_run(run: Run, pretrained: bool = True) -> Method:
    """The method that a run describes; `pretrained=False` leaves out weights that a checkpoint will replace."""
    e = run.encoder
    weights = e.weights if pretrained else None
    encoder = {"width": e.width, "blocks": e.blocks, "stages": e.stages, "weights": weights}
    knobs = {key: value for key, value in run.method.items() if key != "name"}
    return build(run.method.get("name", ""), run.mixture.k, encoder, knobs)
