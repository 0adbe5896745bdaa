"""Validation of configs: the range of each field and the constraints between fields; each violation is one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from raymix.config.errors import ConfigError
from raymix.config.methods import range_problems
from raymix.config.schema import PrepareConfig, TrainConfig


def _between(run: TrainConfig) -> Iterator[str]:
    """The rules between fields; each names both sides."""
    yield from _batch(run)
    if run.mixture.seconds > run.dataset.clip_seconds:
        yield f"mixture.seconds={run.mixture.seconds}: longer than dataset.clip_seconds={run.dataset.clip_seconds}"
    if run.encoder.image_size % 16:
        yield f"encoder.image_size={run.encoder.image_size}: must be a multiple of 16, the encoder's stride"
    if run.training.compile and run.training.sync_batch_norm and run.cluster.most > 1:
        yield (
            f"training.compile=true: torch.compile stops at every BatchNorm that training.sync_batch_norm=true shares between "
            f"cluster.workers={run.cluster.workers}; one of the two must be false"
        )
    search = getattr(run, "search", None)
    if search and run.cluster.elastic:
        yield f"cluster.workers={run.cluster.workers}: a search needs one number; [fewest, most] is for raymix.train"


def _batch(run: TrainConfig) -> Iterator[str]:
    """A batch must come out even: groups of k, for every worker, in every piece that is accumulated."""
    batch, k, fewest, most = run.training.batch_size, run.mixture.k, run.cluster.fewest, run.cluster.most
    pieces, parts = run.training.gradient_accumulation_steps, {"mixture.k": k}
    if k > batch:
        yield f"mixture.k={k}: larger than training.batch_size={batch}; a batch must hold at least one group of k clips"
        return
    for workers in range(fewest, most + 1):
        parts |= {"cluster.workers": workers} if most > 1 else {}
        parts |= {"training.gradient_accumulation_steps": pieces} if pieces > 1 else {}
        unit = math.prod(parts.values())
        if batch % unit:
            names, values = " x ".join(parts), " x ".join(map(str, parts.values()))
            need = f"{names} = {values}" if len(parts) > 1 else f"mixture.k={k}"
            even = math.lcm(*(k * pieces * each for each in range(fewest, most + 1)))
            good = max(even, round(batch / even) * even)
            yield (
                f"training.batch_size={batch}: not divisible by {need}; groups of k must fit evenly into every worker's share "
                f"(training.batch_size={good} does)"
            )
            return


def _shares(config: TrainConfig | PrepareConfig) -> Iterator[str]:
    """The rules between settings of all commands that read videos."""
    val, test, store = config.dataset.val, config.dataset.test, config.cluster.object_store_gib
    if val + test >= 1:
        yield f"dataset.val={val} and dataset.test={test}: leave no videos to train on"
    if 0 < store < 0.1:
        yield f"cluster.object_store_gib={store}: must be at least 0.1, or 0 for Ray's own choice"


def config_problems(config: Any) -> list[str]:
    """Every sentence that refuses this config; empty for a good one."""
    found = list(range_problems(config))
    if isinstance(config, TrainConfig | PrepareConfig) and not found:
        found += _shares(config)
    if isinstance(config, TrainConfig) and not found:
        found += _between(config)
    return found


def validate_config(config: Any) -> Any:
    """The config itself; ConfigError with the first broken rule otherwise (and how many more there are)."""
    found = config_problems(config)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(found[0] + more)
    return config
