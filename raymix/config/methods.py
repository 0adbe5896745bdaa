"""The settings of every method, one dataclass each: names, defaults, ranges, meanings, and constraints between them.

These dataclasses are the only place where a setting of a method has its range and its default. Constructors of methods
take them, settings are checked against them before Ray starts, `--help` prints them, and Hydra composes `method.*` from
them. Nothing here imports torch. The architecture itself (ResNet-18 trunks) is configured by `EncoderConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raymix.config.errors import ConfigError, did_you_mean, range_violation
from raymix.config.schema import choice_field, number_field

MAX_POOLING, LOG_SUM_EXP_POOLING = "max", "lse"

BINARY_CROSS_ENTROPY, INFONCE = "bce", "infonce"


def temperature_field(default: float) -> Any:
    """The temperature that divides similarities before a softmax; every method that has one uses this range."""
    return number_field(default, "temperature of the softmax over similarities", above=0.0, high=10.0)


def embedding_size_field(default: int) -> Any:
    """The number of dimensions of the embeddings that a method compares; every method that has it uses this range."""
    return number_field(default, "dimensions of the shared embedding of images and sounds", low=2, high=4096)


def margin_field(default: float) -> Any:
    """The margin of the contrastive loss on distances; every method that has one uses this range."""
    return number_field(default, "distance to keep between a sound and frames of other clips", above=0.0)


def image_dropout_field(default: float) -> Any:
    """The dropout rate of the image trunk's features; every method that has it uses this range."""
    return number_field(default, "dropout of image cells before their projection", low=0.0, high=0.99)


@dataclass
class MethodConfig:
    """Base class of the settings of a method."""

    def conflicts(self) -> Iterator[str]:
        """Yields a sentence for each broken rule between settings, each of which is in its own range.

        A sentence begins with the setting that is to be changed, as `method.NAME=VALUE: ...`.
        """
        yield from ()


@dataclass
class MixtureMethodConfig(MethodConfig):
    """Settings of the methods that encode a mixture as k sound embeddings (paper, section 4.1)."""

    embedding_size: int = embedding_size_field(128)
    pool: str = choice_field(
        MAX_POOLING,
        "how a map becomes one similarity: its maximum, or a smooth one (log-sum-exp)",
        MAX_POOLING,
        LOG_SUM_EXP_POOLING,
    )
    pool_sharpness: float = number_field(10.0, "sharpness of the log-sum-exp of pool=lse", above=0.0)
    node_norm: str = choice_field("none", "normalise the sound embeddings over the batch, or not", "none", "batch")


@dataclass
class MixAndLocalizeConfig(MixtureMethodConfig):
    """Mix and Localize (`cycle`): the paper's temperature and embedding size (section 4.1)."""

    temperature: float = temperature_field(0.07)


@dataclass
class ImageSoundImageWalkConfig(MixAndLocalizeConfig):
    """The ablation ISI (`isi`, Table 3): the settings of Mix and Localize."""


@dataclass
class MixedCorrespondenceConfig(MixAndLocalizeConfig):
    """The ablation Corre (`corre`, Table 3): the settings of Mix and Localize."""


@dataclass
class PermutationInvariantMatchingConfig(MixtureMethodConfig):
    """The ablation Permute (`permute`, Table 3): the settings of Mix and Localize without a temperature."""


@dataclass
class ObjectsThatSoundConfig(MethodConfig):
    """Objects that Sound (`ots`): the embedding size of DSOL's first stage."""

    loss: str = choice_field(
        BINARY_CROSS_ENTROPY,
        "binary cross-entropy of pairs, or InfoNCE over the batch",
        BINARY_CROSS_ENTROPY,
        INFONCE,
    )
    temperature: float = temperature_field(0.07)
    embedding_size: int = embedding_size_field(128)


@dataclass
class ObjectsThatSoundMixConfig(ObjectsThatSoundConfig):
    """Objects that Sound on synthetic duets (`ots_mix`): the settings of Objects that Sound."""


@dataclass
class AttentionConfig(MethodConfig):
    """Attention (`attention`): the margin of DSOL's comparison. Embeddings have the channels of the trunk."""

    margin: float = margin_field(10.0)


@dataclass
class DmcConfig(MethodConfig):
    """Deep Multimodal Clustering (`dmc`): the values of DSOL's comparison."""

    embedding_size: int = embedding_size_field(512)
    visual_clusters: int = number_field(
        4, "clusters of image cells: sources + 1 at least, for the background", low=2, high=64
    )
    audio_clusters: int = number_field(2, "clusters of sound, one map each: the number of sources", low=1, high=64)
    iterations: int = number_field(4, "iterations of soft k-means", low=1, high=100)
    sharpness: float = number_field(30.0, "sharpness of the assignment to clusters", above=0.0)
    margin: float = margin_field(5.0)


@dataclass
class LvsConfig(MethodConfig):
    """Localizing Visual Sounds the Hard Way (`lvs`): the values of the released code."""

    positive_threshold: float = number_field(
        0.65, "cosine similarity above which a cell counts as sounding", low=-1.0, high=1.0
    )
    negative_threshold: float = number_field(
        0.4, "cosine similarity below which a cell counts as silent", low=-1.0, high=1.0
    )
    softness: float = number_field(0.03, "width of both thresholds' soft edges", above=0.0, high=1.0)
    temperature: float = temperature_field(0.07)

    def conflicts(self) -> Iterator[str]:
        if self.negative_threshold > self.positive_threshold:
            yield (
                f"method.negative_threshold={self.negative_threshold}: must not be above "
                f"method.positive_threshold={self.positive_threshold}"
            )


@dataclass
class EzVslConfig(MethodConfig):
    """EZ-VSL (`ez_vsl`): the values of the released code, which has no dropout."""

    temperature: float = temperature_field(0.03)
    embedding_size: int = embedding_size_field(512)
    image_dropout: float = image_dropout_field(0.0)


@dataclass
class SlavcConfig(MethodConfig):
    """SLAVC (`slavc`): the values of the released script."""

    temperature: float = temperature_field(0.03)
    embedding_size: int = embedding_size_field(512)
    momentum: float = number_field(0.999, "momentum of the averaged encoders", low=0.0, high=0.99999)
    image_dropout: float = image_dropout_field(0.9)


@dataclass
class FnacConfig(EzVslConfig):
    """FNAC (`fnac`): the values of the released scripts (the default of the code itself is 3 epochs of warm-up)."""

    image_dropout: float = image_dropout_field(0.9)
    term_weight: float = number_field(100.0, "weight of each of the three additional loss terms", low=0.0)
    warm_up_epochs: int = number_field(5, "epochs without the additional loss terms", low=0)
    foreground_threshold: float = number_field(
        0.6, "value of a map (0 to 1) above which a cell counts as sounding", low=0.0, high=0.99
    )


@dataclass
class DsolConfig(MethodConfig):
    """DSOL (`dsol`): the values of the released code; stage 1 takes 15 of 20 epochs."""

    embedding_size: int = embedding_size_field(128)
    clusters: int = number_field(11, "object clusters: at least the number of classes (MUSIC: 11)", low=2, high=1000)
    first_stage: float = number_field(0.75, "fraction of the epochs spent on single sources", above=0.0, high=1.0)
    initial_epochs: int = number_field(1, "epochs before the first clustering", low=1)
    unmasked_epochs: int = number_field(1, "epochs of stage 2 before the location map masks the class maps", low=0)
    mask: float = number_field(
        0.05, "value of the location map above which a cell belongs to the object", low=0.0, high=0.99
    )
    location_weight: float = number_field(0.5, "weight of the location loss in stage 2", above=0.0)


@dataclass
class SoundOfPixelsConfig(MethodConfig):
    """Sound of Pixels (`sound_of_pixels`): the channels of DSOL's comparison; published with 7 halvings of longer sounds."""

    channels: int = number_field(11, "output channels: at least the number of classes (MUSIC: 11)", low=1, high=1000)
    bins: int = number_field(256, "log-spaced frequency bins", low=4, high=512)
    downs: int = number_field(6, "times that the network halves the spectrogram", low=2, high=8)

    def conflicts(self) -> Iterator[str]:
        if self.bins < 2**self.downs:
            yield f"method.bins={self.bins}: must be at least 2 ** method.downs = {2**self.downs}"


METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    "cycle": MixAndLocalizeConfig,
    "isi": ImageSoundImageWalkConfig,
    "corre": MixedCorrespondenceConfig,
    "permute": PermutationInvariantMatchingConfig,
    "ots": ObjectsThatSoundConfig,
    "ots_mix": ObjectsThatSoundMixConfig,
    "attention": AttentionConfig,
    "dmc": DmcConfig,
    "lvs": LvsConfig,
    "ez_vsl": EzVslConfig,
    "slavc": SlavcConfig,
    "fnac": FnacConfig,
    "dsol": DsolConfig,
    "sound_of_pixels": SoundOfPixelsConfig,
}


def method_config_class(name: str) -> type[MethodConfig]:
    """The dataclass of the settings of a method.

    Args:
        name: registry key of the method (`cycle`, `ots`, ...).

    Raises:
        ConfigError: for an unknown method, with the nearest name.
    """
    if name not in METHOD_CONFIGS:
        raise ConfigError(f"method={name}: unknown{did_you_mean(name, list(METHOD_CONFIGS))}")
    return METHOD_CONFIGS[name]


def method_config(name: str, settings: Mapping[str, Any]) -> MethodConfig:
    """The typed settings of a method; values are not checked against their ranges.

    Args:
        name: registry key of the method.
        settings: {setting: value}, without `name`; a setting that is left out has its default.

    Raises:
        ConfigError: for an unknown method or an unknown setting, with the nearest name.
    """
    schema = method_config_class(name)
    known = [item.name for item in dataclasses.fields(schema)]
    for key in settings:
        if key not in known:
            raise ConfigError(f"method.{key}: {name} has no such setting{did_you_mean(str(key), known)}")
    return schema(**settings)


def default_method_settings(name: str) -> dict[str, Any]:
    """`{"name": name}` and every setting of the method with its default, as plain values in the order of the dataclass."""
    return {"name": name} | dataclasses.asdict(method_config_class(name)())


def range_problems(config: Any, prefix: str = "") -> Iterator[str]:
    """A sentence for each field whose value is outside its range; `prefix` is that of the fields' dotted names."""
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from range_problems(value, name + ".")
        elif item.name == "method" and isinstance(value, Mapping):
            yield from _method_problems(value)
        elif item.metadata.get("workers"):
            yield from filter(None, [_broken_workers(name, value)])
        elif value is not None or "None" not in str(item.type):
            rule = {**item.metadata, "whole": item.type in (int, "int")}
            yield from filter(None, [range_violation(name, value, rule)])


def _method_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each broken rule of `method.*`; a config without a method has none."""
    if not settings:
        return
    try:
        config = method_config(str(settings.get("name", "")), {k: v for k, v in settings.items() if k != "name"})
    except ConfigError as error:
        yield str(error)
    else:
        yield from method_config_problems(config)


def method_config_problems(config: MethodConfig) -> list[str]:
    """A sentence for each setting of a method that is out of its range; if there is none, for each broken rule between them."""
    return list(range_problems(config, "method.")) or list(config.conflicts())


def _broken_workers(name: str, value: Any) -> str | None:
    """A whole number from 1, or [fewest, most]."""
    span = value if isinstance(value, list) else [value, value]
    whole = len(span) == 2 and all(isinstance(each, int) and not isinstance(each, bool) for each in span)
    if not whole or not 1 <= span[0] <= span[1]:
        return f"{name}={value}: must be a whole number from 1, or [fewest, most] for raymix.train"
    return None
