"""The systems of the paper's tables, and later ones, by name: one file each, and its line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from raymix.config import Encoder, Run, method_config, method_config_class, nearest
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


def build(name: str, k: int, encoder: Mapping[str, Any], settings: Mapping[str, Any]) -> Method:
    """A method with new weights.

    Args:
        name: registry key of the method (`cycle`, `ots`, ...).
        k: clips in a group.
        encoder: {field of `raymix.config.Encoder`: value}; the others have their defaults.
        settings: {field of the method's config dataclass: value}; the others have their defaults.

    Raises:
        ValueError: for an unknown method, an unknown setting (with the nearest one), or a value out of range.
    """
    known = [item.name for item in fields(Encoder)]
    for key in encoder:
        if key not in known:
            raise ValueError(f"encoder.{key}: no such setting{nearest(key, known)}")
    config = method_config(name, settings)
    return METHODS[name](k, config, Encoder(**encoder))


def needs(run: Run) -> Needs:
    """What the method of a run reads of each clip; ValueError for an unknown method."""
    name = run.method.get("name", "")
    method_config_class(name)
    return METHODS[name].needs


def from_run(run: Run, pretrained: bool = True) -> Method:
    """The method that a run describes; `pretrained=False` leaves out weights that a checkpoint will replace."""
    name = run.method.get("name", "")
    config = method_config(name, {key: value for key, value in run.method.items() if key != "name"})
    encoder = run.encoder if pretrained else replace(run.encoder, weights=None)
    return METHODS[name](run.mixture.k, config, encoder)
