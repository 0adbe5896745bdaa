"""Checks before anything starts: which scores will exist, whether a slot fits, whether the method can be built, clips.

`raymix.config.validation` has judged the values before; here they meet the machine, the files and the code that will use them. Every
refusal is ConfigError in one line; nothing is written, and Ray does not run yet.
"""

from __future__ import annotations

import numpy as np

from raymix.config import ConfigError, TrainConfig, did_you_mean
from raymix.data import prepared
from raymix.data.audio import window_frames
from raymix.data.importers import demo_root
from raymix.data.layouts import LABEL_FREE, SCORED_LAYOUTS, draw_scenes, draw_shuffled_audio_permutation, metric_prefix
from raymix.data.mixing import can_group_clips
from raymix.data.scenes import few_videos_warning
from raymix.metrics.protocols import PROTOCOLS
from raymix.runtime import ray_cluster
from raymix.runtime.cluster_capacity import slot_capacity

SCENE_PANELS = 4  # of the largest scene that validation composes, each from another video

WITHOUT_REGIONS = 4  # the first so many metrics need no regions in the data

LOOKED_AT = 1024  # clips, to find out whether there are any regions


def check_run_settings(run: TrainConfig) -> None:
    """Check that this run can score, fits on this machine, has a method that can be built, and spares a person's videos.

    Raises ConfigError or ValueError.
    """
    _scores(run)
    if run.dataset.name == "demo":
        demo_root.check_demo_root(run.dataset)
    has = ray_cluster.local_machine_resources(run.cluster)
    if has is not None:  # clips that are streamed need more; whether they are is known later
        slot_capacity(run.cluster, has, streaming=False)
    _method(run)


def searchable_metrics(protocol: str) -> list[str]:
    """The validation metrics that a study may search by, those that need no regions first."""
    from raymix.metrics.scoring import metric_columns

    label_free = [
        f"{metric_prefix(layout)}sounding_accuracy{control}" for layout in LABEL_FREE for control in ("", "_shuffled")
    ]
    return [f"val/{name}" for name in [*label_free, *metric_columns(PROTOCOLS[protocol])]]


def _scores(run: TrainConfig) -> None:
    asked, metric = run.evaluation.protocol, run.study.metric
    if asked not in PROTOCOLS:
        raise ConfigError(f"evaluation.protocol={asked}: no such protocol{did_you_mean(asked, list(PROTOCOLS))}")
    for sources in (1, 2):
        if refusal := PROTOCOLS[asked].declines(sources):
            raise ConfigError(f"evaluation.protocol={asked}: {refusal}; a study scores scenes of one source and of two")
    known = searchable_metrics(asked)
    if metric not in known:
        raise ConfigError(f"study.metric={metric}: no such metric{did_you_mean(metric, known)}")


def _method(run: TrainConfig) -> None:
    """Build it once: a setting that it does not have, or weights that do not fit, show only there."""
    from raymix.methods import method_from_config

    try:
        method_from_config(run)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(
            f"method={run.method.get('name')}: cannot be built ({' '.join(str(error).split())})"
        ) from error


def _fit_one(run: TrainConfig) -> None:
    """BadInput where a stored clip has fewer frames than the method reads, or less sound than a window of it needs."""
    from raymix.methods import data_requirements

    directory, wanted = run.dataset.prepared, data_requirements(run).frames
    shape = prepared.read_clip_shape(directory, "train")
    if (stored := shape.frames) < wanted:
        raise ConfigError(
            f"method={run.method['name']}: needs {wanted} frames of each clip, {directory} has {stored}; prepare it with "
            f"dataset.frames={wanted}"
        )
    try:
        window_frames(run.mixture.seconds, shape.stft_frames)
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}") from error


def clip_warnings(run: TrainConfig) -> list[str]:
    """What a person should know of the prepared clips before a study over them; [] where there is nothing.

    Raises ConfigError where they cannot be read, or are too few to train on, or to compose the scenes that every epoch is
    scored on and their control with shuffled audio.
    """
    directory, batch, k = run.dataset.prepared, run.training.batch_size, run.mixture.k
    _fit_one(run)
    training = prepared.read_video_ids(directory, "train")
    if len(training) < batch:
        raise ConfigError(
            f"training.batch_size={batch}: more than the {len(training)} training clips in {directory}{_smaller(run, len(training))}"
        )
    if len(set(training)) < k:
        raise ConfigError(f"mixture.k={k}: more than the {len(set(training))} training videos in {directory}")
    if not can_group_clips(training, k):
        raise ConfigError(
            f"mixture.k={k}: the {len(training)} training clips in {directory} are of {len(set(training))} videos, of which "
            f"too few have clips enough for groups of {k} different videos"
        )
    _regions(run)
    return [*_validation(run), *_test(run)]


def _smaller(run: TrainConfig, clips: int) -> str:
    """The largest batch that the clips fill, as a hint."""
    unit = run.mixture.k * run.cluster.most * run.training.gradient_accumulation_steps
    return f" (training.batch_size={clips // unit * unit} fits)" if clips >= unit else ""


def scene_videos(run: TrainConfig, split: str, count: int) -> int:
    """Different videos in the LABEL_FREE scenes of a split, as an evaluation composes them; nothing is decoded.

    ValueError where one of the sets of scenes, or its control with shuffled audio, cannot be composed.
    """
    ids, videos, labels = (
        np.array(names, dtype=str) for names in prepared.read_clip_index(run.dataset.prepared, split)
    )
    seen: set[str] = set()
    for layout in SCORED_LAYOUTS:
        cast = draw_scenes(ids, videos, labels, layout=layout, count=count, seed=run.evaluation.seed)
        if layout in LABEL_FREE:
            draw_shuffled_audio_permutation(
                cast.ids, videos[cast.clips_NP[:, : cast.num_sounding]].tolist(), run.evaluation.seed
            )
            seen |= set(videos[cast.clips_NP].flat)
    return len(seen)


def _validation(run: TrainConfig) -> list[str]:
    directory = run.dataset.prepared
    videos = set(prepared.read_video_ids(directory, "val"))
    if len(videos) < SCENE_PANELS:
        raise ConfigError(
            f"dataset.val={run.dataset.val}: {directory} has {len(videos)} validation video"
            f"{'s' if len(videos) != 1 else ''}; scenes are made of {SCENE_PANELS} different ones"
        )
    try:
        count = scene_videos(run, "val", run.evaluation.scenes)
    except ValueError as error:
        raise ConfigError(
            f"dataset.val={run.dataset.val}: the {len(videos)} validation videos in {directory} give no scenes with a "
            f"control of shuffled audio ({' '.join(str(error).split())}); prepare with a larger dataset.val"
        ) from error
    return list(filter(None, [few_videos_warning(count, run.evaluation.scenes, "validation")]))


def _test(run: TrainConfig) -> list[str]:
    """What keeps the best checkpoints from being scored on the test split at the end, or makes that say little."""
    if not run.study.final:
        return []
    if refusal := untestable_reason(run):
        return [f"note: {refusal}"]
    count = scene_videos(run, "test", run.evaluation.final_scenes)
    return list(filter(None, [few_videos_warning(count, run.evaluation.final_scenes, "test")]))


def untestable_reason(run: TrainConfig) -> str:
    """Why nothing can be scored on the test split of a run's clips; empty where it can."""
    try:
        scene_videos(run, "test", run.evaluation.final_scenes)
    except ValueError as error:
        why = " ".join(str(error).split())
        return f"no scenes of the test split of {run.dataset.prepared} ({why}): nothing is scored on it at the end"
    return ""


def _regions(run: TrainConfig) -> None:
    directory = run.dataset.prepared
    if run.study.metric not in searchable_metrics(run.evaluation.protocol)[:WITHOUT_REGIONS]:
        known = prepared.read_clip_metadata(directory, "val", 16, truth=True, limit=LOOKED_AT).has_truth
        if known is None or not known.any():
            raise ConfigError(
                f"study.metric={run.study.metric}: needs regions, and {directory} has none for its val split"
            )
