"""The paired difference of two systems on the same scenes, with its interval by bootstrap over videos.

Two intervals that overlap say little about a difference: scenes are easy or hard for both. Here each scene is its own
control: of `compare=A,B` the difference is that of the two numbers on the scenes that both have, A minus B, and its interval
is of the same difference on the same resampled videos (all that sound in a scene: `raymix.metrics.scoring.summarize_scores`); so too
where scenes weigh differently, or a number is of the set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from raymix.config import ConfigError, EvaluateConfig, TrainConfig, config_hash, did_you_mean
from raymix.evaluation import per_scene_scores, predictions, sharded_scoring
from raymix.evaluation.per_scene_scores import SystemSceneScores
from raymix.evaluation.scene_spec import scene_spec_from_settings
from raymix.metrics.bootstrap import BootstrapClusters, percentile_interval, resampled_means
from raymix.metrics.protocols import get_protocol
from raymix.metrics.scoring import resample_pooled_scores
from raymix.reporting.rendering import render_markdown
from raymix.reporting.report import DIFFERENCE, SYSTEM_KIND, EvaluationReport, SystemReport
from raymix.reporting.results_folder import PER_SCENE_FILE, TABLE_FILE, ResultsFolder, write_results
from raymix.runtime.storage import assert_writable, resolve_uri

RESAMPLES = 2000

MULTI_SOURCE_LAYOUTS = ("hconcat", "vconcat", "grid2x2")  # layouts whose scenes are of several sounding videos


@dataclass(frozen=True)
class PairedDifference:
    """One metric of both systems, and first minus second with its 95 % interval (NaN for a single video)."""

    metric: str
    first: float
    second: float
    value: float
    low: float
    high: float
    scenes: int


def paired_differences(
    first: SystemSceneScores, second: SystemSceneScores, seed: int = 0, resamples: int = RESAMPLES
) -> list[PairedDifference]:
    """Of every metric that both have; ValueError where they were not scored alike on the same scenes."""
    for name in ("protocol", "layout", "scenes_hash", "ids"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            what = f"{ours} and {theirs}" if isinstance(ours, str) else "they are not the same"
            raise ValueError(f"{first.system} and {second.system} cannot be compared: {name}: {what}")
    videos = BootstrapClusters.of(_videos(first, second))
    return _of_means(first, second, videos, seed, resamples) + _of_sets(first, second, videos, seed, resamples)


def _videos(first: SystemSceneScores, second: SystemSceneScores) -> tuple[tuple[str, ...], ...]:
    """The videos of the scenes of both; a file of an older raymix has the first of each scene, and the other side knows all."""
    for ours, theirs in ((first, second), (second, first)):
        if ours.videos in (theirs.videos, tuple(names[:1] for names in theirs.videos)):
            return theirs.videos
    raise ValueError(f"{first.system} and {second.system} cannot be compared: videos: they are not the same")


def _of_means(
    first: SystemSceneScores, second: SystemSceneScores, videos: BootstrapClusters, seed: int, resamples: int
) -> list[PairedDifference]:
    """Of numbers that are means over scenes, or over the rows that a scene stands for."""
    pairs = [(name, first.values[name], second.values[name]) for name in first.values if name in second.values]
    both = {name: ~np.isnan(ours_N) & ~np.isnan(theirs_N) for name, ours_N, theirs_N in pairs}
    metrics = [name for name, both_N in both.items() if both_N.any()]
    if not metrics:
        return []
    sides = []
    for each in (first, second):
        values_NK = np.stack([np.where(both[name], each.values[name], np.nan) for name in metrics], axis=1)
        ones_N = np.ones(len(each.ids))
        weights_NK = np.stack([np.where(both[name], each.weights.get(name, ones_N), 0.0) for name in metrics], axis=1)
        mean_K = np.nansum(values_NK * weights_NK, axis=0) / weights_NK.sum(axis=0)
        sides.append((mean_K, resampled_means(values_NK, videos, seed, resamples, weights_NK)))
    (ours_K, ours_RK), (theirs_K, theirs_RK) = sides
    low_K, high_K = percentile_interval(ours_RK - theirs_RK)
    return [
        PairedDifference(
            metric=name,
            first=float(ours_K[place]),
            second=float(theirs_K[place]),
            value=float(ours_K[place] - theirs_K[place]),
            low=float(low_K[place]),
            high=float(high_K[place]),
            scenes=int(both[name].sum()),
        )
        for place, name in enumerate(metrics)
    ]


def _of_sets(
    first: SystemSceneScores, second: SystemSceneScores, videos: BootstrapClusters, seed: int, resamples: int
) -> list[PairedDifference]:
    """Of numbers of all scenes together, such as PxAP."""
    found = []
    for pool in (name for name in first.pools if name in second.pools):
        (ours, ours_R), (theirs, theirs_R) = (
            resample_pooled_scores(each.pools[pool], videos, seed, resamples) for each in (first, second)
        )
        scenes = int((first.pools[pool].counts_N & second.pools[pool].counts_N).sum())
        for name in (name for name in ours if not math.isnan(ours[name] - theirs[name])):
            low_K, high_K = percentile_interval((ours_R[name] - theirs_R[name])[:, None])
            ends = float(low_K[0]), float(high_K[0])
            found.append(PairedDifference(name, ours[name], theirs[name], ours[name] - theirs[name], *ends, scenes))
    return found


def compare_results(
    settings: EvaluateConfig, run: TrainConfig | None, echo: Callable[[str], Any] = print
) -> ResultsFolder:
    """Hold the two results of `settings.compare` against each other and write the folder.

    A result is a file of predictions, scored on the scenes that the settings name, or an evaluation that was written
    (its folder, or its `per_scene.parquet`); `#SYSTEM` behind it picks one of several systems. Raises ValueError.
    """
    if len(settings.compare) != 2:
        raise ConfigError(
            f"compare={','.join(settings.compare)}: names {len(settings.compare)} results, must be two: compare=A,B"
        )
    assert_writable(settings.output or f"{settings.home.rstrip('/')}/evaluations")  # known before scoring, not after
    ours, theirs = (_scored(each, settings, run) for each in settings.compare)
    shared = [key for key in ours if key in theirs]
    if not shared:
        have = [
            ", ".join(f"{e.layout} {e.scenes_hash} ({e.protocol})" for e in each.values()) for each in (ours, theirs)
        ]
        first, second = (f"{name} has {each}" for name, each in zip(settings.compare, have, strict=True))
        raise ConfigError(f"compare: no scenes (protocol) in common: {first}; {second}")
    seed = settings.seed or 0
    parts = {key: (ours[key], theirs[key], paired_differences(ours[key], theirs[key], seed)) for key in shared}
    digest = config_hash({"compare": settings.compare, "scenes": [list(key) for key in shared]})[:6]
    folder = settings.output or f"{settings.home.rstrip('/')}/evaluations/compare-{digest}"
    report = paired_report(settings.compare, list(parts.values()), seed)
    text = render_markdown(report)
    written = write_results(folder, report, {TABLE_FILE: text.encode()})
    echo(text)
    written.print_files(echo)
    return written


def _scored(what: str, settings: EvaluateConfig, run: TrainConfig | None) -> dict[tuple[str, str], SystemSceneScores]:
    """The one system of a result that is meant, by (protocol, hash of the scenes)."""
    uri, _, system = what.partition("#")
    filesystem, path = resolve_uri(uri)
    if filesystem.get_file_info(f"{path}/{PER_SCENE_FILE}").is_file:
        uri = f"{uri.rstrip('/')}/{PER_SCENE_FILE}"
    elif not filesystem.get_file_info(path).is_file:
        raise ConfigError(f"compare: {uri} is neither a file of predictions nor the folder of an evaluation")
    found = per_scene_scores.decode_scene_scores(uri)
    if found is None:
        protocol = get_protocol(settings.protocol or (run or TrainConfig()).evaluation.protocol)
        stage = scene_spec_from_settings(settings, run)
        truth = stage.truth()
        scored = sharded_scoring.score_prediction_tables(predictions.check_predictions(uri, truth), truth, [protocol])
        of = stage.pairs.origin if stage.pairs else None
        found = [replace(SystemSceneScores.of(name, tables[protocol.id]), origin=of) for name, tables in scored.items()]
    names = list(dict.fromkeys(each.system for each in found))
    own = list(dict.fromkeys(each.system for each in found if not each.null))
    if system and system not in names:
        raise ConfigError(f"compare: {uri} has no system {system!r}{did_you_mean(system, names)}")
    if not system and len(own) != 1:
        raise ConfigError(
            f"compare: {uri} has {len(own)} systems, say which: {uri}#NAME, one of {', '.join(own or names)}"
        )
    return {(each.protocol, each.scenes_hash): each for each in found if each.system == (system or own[0])}


ComparedPart = tuple[SystemSceneScores, SystemSceneScores, list[PairedDifference]]


def paired_report(compared: Sequence[str], parts: Sequence[ComparedPart], seed: int) -> EvaluationReport:
    """Returns the report of two systems and their difference on every set of scenes that both have.

    Args:
        compared: what the two were called on the command line.
        seed: of the bootstrap.
    """
    systems, sets = list[SystemReport](), list[dict[str, Any]]()
    for index, (first, second, found) in enumerate(parts):
        videos = _videos(first, second)
        of = first.origin or second.origin
        shared = {
            "protocol": first.protocol,
            "layout": first.layout,
            "scenes_hash": first.scenes_hash,
            "scenes": len(first.ids),
            "videos": BootstrapClusters.of(videos).total,
            "resamples": RESAMPLES,
            "seed": seed,
            "scene_set": index,
        }
        for side, scored in (("first", first), ("second", second)):
            metrics = {each.metric: _number(getattr(each, side), scenes=each.scenes) for each in found}
            record = {**shared, "preprocessing": scored.preprocessing, "metrics": metrics}
            systems.append(SystemReport(scored.system, SYSTEM_KIND, [record]))
        metrics = {each.metric: _number(each.value, each.low, each.high, each.scenes) for each in found}
        record = {**shared, "preprocessing": first.preprocessing, "metrics": metrics}
        systems.append(SystemReport(f"{first.system} - {second.system}", DIFFERENCE, [record]))
        facts = {name: shared[name] for name in ("layout", "scenes_hash", "scenes", "videos")}
        coverage = of.coverage_note(len(first.ids)) if of else ""
        sets.append(
            {
                **facts,
                "preprocessing": [first.preprocessing, second.preprocessing],
                "list": asdict(of) if of else None,
                "notes": _notes(first, second, videos),
                **({"coverage": coverage} if coverage else {}),
            }
        )
    return EvaluationReport(
        kind="paired",
        title=f"{compared[0]} and {compared[1]}",
        protocols=list(dict.fromkeys(first.protocol for first, *_ in parts)),
        source={"compare": list(compared)},
        settings={"resamples": RESAMPLES, "seed": seed},
        scene_sets=sets,
        systems=systems,
    )


def _number(value: float, low: float = math.nan, high: float = math.nan, scenes: int = 0) -> dict[str, Any]:
    """A number of a scores record; a bound that does not exist is None."""
    low_or_none, high_or_none = (None if math.isnan(each) else each for each in (low, high))
    return {"value": value, "low": low_or_none, "high": high_or_none, "scenes": scenes}


def _notes(first: SystemSceneScores, second: SystemSceneScores, videos: tuple[tuple[str, ...], ...]) -> list[str]:
    """What must be known of a difference between these two."""
    notes, made = [], (first.preprocessing, second.preprocessing)
    if all(made) and len(set(made)) == 2:
        notes.append(f"The clips were prepared in two ways, {made[0]} and {made[1]}: a difference may be theirs.")
    if first.layout in MULTI_SOURCE_LAYOUTS and all(len(names) == 1 for names in videos):
        notes.append(
            "Of each scene one video alone is known, as an older raymix kept it: the intervals are too narrow."
        )
    return notes
