"""The rules that a config must keep: each field's range, and what holds between fields; every refusal is one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from raymix.config import BadInput, Prepare, Run, nearest

METHOD_RULES: dict[str, dict[str, Any]] = {
    "temperature": {"help": "temperature of the softmax over similarities", "above": 0.0, "high": 10.0},
    "embedding_size": {
        "help": "dimensions of the shared embedding of images and sounds",
        "low": 2,
        "high": 4096,
        "whole": True,
    },
    "pool": {
        "help": "how a map becomes one similarity: its maximum, or a smooth one (log-sum-exp)",
        "choices": ("max", "lse"),
    },
    "pool_sharpness": {"help": "sharpness of the log-sum-exp of pool=lse", "above": 0.0},
    "node_norm": {"help": "normalise the sound embeddings over the batch, or not", "choices": ("none", "batch")},
    "loss": {"help": "binary cross-entropy of pairs, or InfoNCE over the batch", "choices": ("bce", "infonce")},
    "margin": {"help": "distance to keep between a sound and frames of other clips", "above": 0.0},
    "visual_clusters": {
        "help": "clusters of image cells: sources + 1 at least, for the background",
        "low": 2,
        "high": 64,
        "whole": True,
    },
    "audio_clusters": {
        "help": "clusters of sound, one map each: the number of sources",
        "low": 1,
        "high": 64,
        "whole": True,
    },
    "sharpness": {"help": "sharpness of the assignment to clusters", "above": 0.0},
    "iterations": {"help": "iterations of soft k-means", "low": 1, "high": 100, "whole": True},
    "positive_threshold": {"help": "cosine similarity above which a cell counts as sounding", "low": -1.0, "high": 1.0},
    "negative_threshold": {"help": "cosine similarity below which a cell counts as silent", "low": -1.0, "high": 1.0},
    "softness": {"help": "width of both thresholds' soft edges", "above": 0.0, "high": 1.0},
    "image_dropout": {"help": "dropout of image cells before their projection", "low": 0.0, "high": 0.99},
    "momentum": {"help": "momentum of the averaged encoders", "low": 0.0, "high": 0.99999},
    "term_weight": {"help": "weight of each of the three additional loss terms", "low": 0.0},
    "warm_up_epochs": {"help": "epochs without the additional loss terms", "low": 0, "whole": True},
    "foreground_threshold": {
        "help": "value of a map (0 to 1) above which a cell counts as sounding",
        "low": 0.0,
        "high": 0.99,
    },
    "clusters": {
        "help": "object clusters: at least the number of classes (MUSIC: 11)",
        "low": 2,
        "high": 1000,
        "whole": True,
    },
    "first_stage": {"help": "fraction of the epochs spent on single sources", "above": 0.0, "high": 1.0},
    "initial_epochs": {"help": "epochs before the first clustering", "low": 1, "whole": True},
    "unmasked_epochs": {
        "help": "epochs of stage 2 before the location map masks the class maps",
        "low": 0,
        "whole": True,
    },
    "mask": {"help": "value of the location map above which a cell belongs to the object", "low": 0.0, "high": 0.99},
    "location_weight": {"help": "weight of the location loss in stage 2", "above": 0.0},
    "channels": {
        "help": "output channels: at least the number of classes (MUSIC: 11)",
        "low": 1,
        "high": 1000,
        "whole": True,
    },
    "bins": {"help": "log-spaced frequency bins", "low": 4, "high": 512, "whole": True},
    "downs": {"help": "times that the network halves the spectrogram", "low": 2, "high": 8, "whole": True},
}


def broken_rule(name: str, value: Any, rule: Mapping[str, Any]) -> str | None:
    """The sentence that refuses `value`, or None."""
    if rule.get("choices") and value not in rule["choices"]:
        choices = list(rule["choices"])
        near = nearest(str(value), choices)
        return f"{name}={value}: must be one of {', '.join(choices)}{near if 'did you' in near else ''}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name}={value!r}: must be a number" if {"low", "above"} & set(rule) else None
    low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
    if value != value:
        return f"{name}={value}: must be a number"
    if rule.get("whole") and not isinstance(value, int):
        return f"{name}={value}: must be a whole number"
    if above is not None and not value > above:
        return f"{name}={value}: must be greater than {above:g}"
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
        return f"{name}={value}: must be {span}"
    return None


def _ranges(config: Any, prefix: str = "") -> Iterator[str]:
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from _ranges(value, name + ".")
        elif item.name == "method" and isinstance(value, Mapping):
            rules = ((key, METHOD_RULES.get(key, {})) for key in value)
            yield from filter(None, (broken_rule(f"method.{k}", value[k], r) for k, r in rules if r))
        elif item.metadata.get("workers"):
            yield from filter(None, [_broken_workers(name, value)])
        elif (sentence := broken_rule(name, value, item.metadata)) and value is not None:
            yield sentence


def _broken_workers(name: str, value: Any) -> str | None:
    """A whole number from 1, or [fewest, most]."""
    span = value if isinstance(value, list) else [value, value]
    whole = len(span) == 2 and all(isinstance(each, int) and not isinstance(each, bool) for each in span)
    if not whole or not 1 <= span[0] <= span[1]:
        return f"{name}={value}: must be a whole number from 1, or [fewest, most] for raymix.train"
    return None


def _between(run: Run) -> Iterator[str]:
    """The rules between fields; each names both sides."""
    yield from _batch(run)
    if run.mixture.seconds > run.dataset.clip_seconds:
        yield f"mixture.seconds={run.mixture.seconds}: longer than dataset.clip_seconds={run.dataset.clip_seconds}"
    if run.encoder.image_size % 16:
        yield f"encoder.image_size={run.encoder.image_size}: must be a multiple of 16, the encoder's stride"
    if run.fit.compile and run.fit.sync_batch_norm and run.cluster.most > 1:
        yield (
            f"fit.compile=true: torch.compile stops at every BatchNorm that fit.sync_batch_norm=true shares between "
            f"cluster.workers={run.cluster.workers}; one of the two must be false"
        )
    search = getattr(run, "search", None)
    if search and run.cluster.elastic:
        yield f"cluster.workers={run.cluster.workers}: a search needs one number; [fewest, most] is for raymix.train"


def _batch(run: Run) -> Iterator[str]:
    """A batch must come out even: groups of k, for every worker, in every piece that is accumulated."""
    batch, k, fewest, most = run.fit.batch, run.mixture.k, run.cluster.fewest, run.cluster.most
    pieces, parts = run.fit.accumulate, {"mixture.k": k}
    if k > batch:
        yield f"mixture.k={k}: larger than fit.batch={batch}; a batch must hold at least one group of k clips"
        return
    for workers in range(fewest, most + 1):
        parts |= {"cluster.workers": workers} if most > 1 else {}
        parts |= {"fit.accumulate": pieces} if pieces > 1 else {}
        unit = math.prod(parts.values())
        if batch % unit:
            names, values = " x ".join(parts), " x ".join(map(str, parts.values()))
            need = f"{names} = {values}" if len(parts) > 1 else f"mixture.k={k}"
            even = math.lcm(*(k * pieces * each for each in range(fewest, most + 1)))
            good = max(even, round(batch / even) * even)
            yield (
                f"fit.batch={batch}: not divisible by {need}; groups of k must fit evenly into every worker's share "
                f"(fit.batch={good} does)"
            )
            return


def _shares(config: Run | Prepare) -> Iterator[str]:
    """The rules of what every door that reads videos has."""
    val, test, store = config.dataset.val, config.dataset.test, config.cluster.object_store_gib
    if val + test >= 1:
        yield f"dataset.val={val} and dataset.test={test}: leave no videos to train on"
    if 0 < store < 0.1:
        yield f"cluster.object_store_gib={store}: must be at least 0.1, or 0 for Ray's own choice"


def problems(config: Any) -> list[str]:
    """Every sentence that refuses this config; empty for a good one."""
    found = list(_ranges(config))
    if isinstance(config, Run | Prepare) and not found:
        found += _shares(config)
    if isinstance(config, Run) and not found:
        found += _between(config)
    return found


def check(config: Any) -> Any:
    """The config itself; BadInput with the first broken rule otherwise (and how many more there are)."""
    found = problems(config)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise BadInput(found[0] + more)
    return config
