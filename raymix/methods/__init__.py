"""The localization methods: models and losses of the paper, its baselines and later systems, one module per paper.

`METHODS` maps `method.name` to a subclass of `base.Method`; a method takes batches of `raymix.data.batches`, returns a
loss in `forward` and heat maps in `predict_heatmaps`. `random_walk` has Eq. 1 to 8 as pure functions, `encoders` the
ResNet-18 trunks, `label_matching` the assignment of classes to channels. No Ray, no files, no training loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from raymix.config import EncoderConfig, TrainConfig, did_you_mean, method_config, method_config_class
from raymix.data.batches import DataRequirements
from raymix.methods.attention import AttentionNetwork
from raymix.methods.base import Method
from raymix.methods.dmc import DeepMultimodalClustering
from raymix.methods.dsol import DiscriminativeSoundingObjects
from raymix.methods.ez_vsl import EasyVisualSoundLocalization
from raymix.methods.fnac import FalseNegativeAwareContrastive
from raymix.methods.lvs import LocalizingVisualSounds
from raymix.methods.mix_and_localize import (
    ImageSoundImageWalk,
    MixAndLocalize,
    MixedCorrespondence,
    PermutationInvariantMatching,
)
from raymix.methods.ots import ObjectsThatSound, ObjectsThatSoundMix
from raymix.methods.slavc import SimultaneousLearning
from raymix.methods.sound_of_pixels import SoundOfPixels

METHODS: dict[str, type[Method]] = {
    "cycle": MixAndLocalize,
    "isi": ImageSoundImageWalk,
    "corre": MixedCorrespondence,
    "permute": PermutationInvariantMatching,
    "ots": ObjectsThatSound,
    "ots_mix": ObjectsThatSoundMix,
    "attention": AttentionNetwork,
    "dmc": DeepMultimodalClustering,
    "lvs": LocalizingVisualSounds,
    "ez_vsl": EasyVisualSoundLocalization,
    "slavc": SimultaneousLearning,
    "fnac": FalseNegativeAwareContrastive,
    "dsol": DiscriminativeSoundingObjects,
    "sound_of_pixels": SoundOfPixels,
}


__all__ = [
    "METHODS",
    "ClipBatch",
    "DataRequirements",
    "HeatMaps",
    "Method",
    "build_method",
    "data_requirements",
    "method_from_config",
]


def build_method(name: str, k: int, encoder: Mapping[str, Any], settings: Mapping[str, Any]) -> Method:
    """A method with new weights.

    Args:
        name: registry key of the method (`cycle`, `ots`, ...).
        k: clips in a group.
        encoder: {field of `raymix.config.schema.EncoderConfig`: value}; the others have their defaults.
        settings: {field of the method's config dataclass: value}; the others have their defaults.

    Raises:
        ValueError: for an unknown method, an unknown setting (with the nearest one), or a value out of range.
    """
    known = [item.name for item in fields(EncoderConfig)]
    for key in encoder:
        if key not in known:
            raise ValueError(f"encoder.{key}: no such setting{did_you_mean(key, known)}")
    config = method_config(name, settings)
    return METHODS[name](k, config, EncoderConfig(**encoder))


def data_requirements(run: TrainConfig) -> DataRequirements:
    """What the method of a run reads of each clip; ValueError for an unknown method."""
    name = run.method.get("name", "")
    method_config_class(name)
    return METHODS[name].requirements


def method_from_config(run: TrainConfig, pretrained: bool = True) -> Method:
    """The method that a run describes; `pretrained=False` leaves out weights that a checkpoint will replace."""
    name = run.method.get("name", "")
    config = method_config(name, {key: value for key, value in run.method.items() if key != "name"})
    encoder = run.encoder if pretrained else replace(run.encoder, weights=None)
    return METHODS[name](run.mixture.k, config, encoder)
