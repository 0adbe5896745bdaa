"""What can be known before anything starts: scores that will exist, room for a slot, a method that can be built, clips.

`raymix.rules` has judged the values before; here they meet the machine, the files and the code that will use them. Every
refusal is BadInput in one line; nothing is written, and Ray does not run yet.
"""

from __future__ import annotations

import numpy as np

from raymix import clip_files, session
from raymix.casting import derange, draw
from raymix.config import BadInput, Run, nearest
from raymix.datasets import demo
from raymix.layout import LABEL_FREE, SCORED_LAYOUTS, metric_prefix
from raymix.mixture import can_group
from raymix.protocol import PROTOCOLS
from raymix.room import room
from raymix.spectrogram import window_frames

PANELS = 4  # of the largest scene that validation composes, each from another video
FEW = 12  # videos: scores on scenes made of fewer say little about other videos
WITHOUT_REGIONS = 4  # the first so many metrics need no regions in the data
LOOKED_AT = 1024  # clips, to find out whether there are any regions


def settings(run: Run) -> None:
    """Check that this run can score, fits on this machine, has a method that can be built, and spares a person's videos.

    Raises BadInput or ValueError.
    """
    _scores(run)
    if run.dataset.name == "demo":
        demo.check_root(run.dataset)
    has = session.machine(run.cluster)
    if has is not None:  # clips that are streamed need more; whether they are is known later
        room(run.cluster, has, streaming=False)
    _method(run)


def metrics(protocol: str) -> list[str]:
    """The validation metrics that a study may search by, those that need no regions first."""
    from raymix.scoring import metrics

    label_free = [
        f"{metric_prefix(layout)}sounding_accuracy{control}" for layout in LABEL_FREE for control in ("", "_shuffled")
    ]
    return [f"val/{name}" for name in [*label_free, *metrics(PROTOCOLS[protocol])]]


def _scores(run: Run) -> None:
    asked, metric = run.evaluation.protocol, run.study.metric
    if asked not in PROTOCOLS:
        raise BadInput(f"evaluation.protocol={asked}: no such protocol{nearest(asked, list(PROTOCOLS))}")
    for sources in (1, 2):
        if refusal := PROTOCOLS[asked].declines(sources):
            raise BadInput(f"evaluation.protocol={asked}: {refusal}; a study scores scenes of one source and of two")
    known = metrics(asked)
    if metric not in known:
        raise BadInput(f"study.metric={metric}: no such metric{nearest(metric, known)}")


def _method(run: Run) -> None:
    """Build it once: a knob that it does not have, or weights that do not fit, show only there."""
    from raymix.methods import from_run

    try:
        from_run(run)
    except (TypeError, RuntimeError) as error:
        raise BadInput(f"method={run.method.get('name')}: cannot be built ({' '.join(str(error).split())})") from error


def _fit_one(run: Run) -> None:
    """BadInput where a stored clip has fewer frames than the method reads, or less sound than a window of it needs."""
    from raymix.methods import needs

    directory, wanted = run.dataset.prepared, needs(run).frames
    shape = clip_files.clip_shape(directory, "train")
    if (stored := shape.frames) < wanted:
        raise BadInput(
            f"method={run.method['name']}: needs {wanted} frames of each clip, {directory} has {stored}; prepare it with "
            f"dataset.frames={wanted}"
        )
    try:
        window_frames(run.mixture.seconds, shape.stft_frames)
    except ValueError as error:
        raise BadInput(f"{directory}: {error}") from error


def clips(run: Run) -> list[str]:
    """What a person should know of the prepared clips before a study over them; [] where there is nothing.

    Raises BadInput where they cannot be read, or are too few to train on, or to compose the scenes that every epoch is
    scored on and their control with shuffled audio.
    """
    directory, batch, k = run.dataset.prepared, run.fit.batch, run.mixture.k
    _fit_one(run)
    training = clip_files.videos(directory, "train")
    if len(training) < batch:
        raise BadInput(
            f"fit.batch={batch}: more than the {len(training)} training clips in {directory}{_smaller(run, len(training))}"
        )
    if len(set(training)) < k:
        raise BadInput(f"mixture.k={k}: more than the {len(set(training))} training videos in {directory}")
    if not can_group(training, k):
        raise BadInput(
            f"mixture.k={k}: the {len(training)} training clips in {directory} are of {len(set(training))} videos, of which "
            f"too few have clips enough for groups of {k} different videos"
        )
    _regions(run)
    return [*_validation(run), *_test(run)]


def _smaller(run: Run, clips: int) -> str:
    """The largest batch that the clips fill, as a hint."""
    unit = run.mixture.k * run.cluster.most * run.fit.accumulate
    return f" (fit.batch={clips // unit * unit} fits)" if clips >= unit else ""


def drawn(run: Run, split: str, count: int) -> int:
    """Different videos in the LABEL_FREE scenes of a split, as an evaluation composes them; nothing is decoded.

    ValueError where one of the sets of scenes, or its control with shuffled audio, cannot be composed.
    """
    ids, videos, labels = (np.array(names, dtype=str) for names in clip_files.index(run.dataset.prepared, split))
    seen: set[str] = set()
    for layout in SCORED_LAYOUTS:
        cast = draw(ids, videos, labels, layout=layout, count=count, seed=run.evaluation.seed)
        if layout in LABEL_FREE:
            derange(cast.ids, videos[cast.clips_NP[:, : cast.heard]].tolist(), run.evaluation.seed)
            seen |= set(videos[cast.clips_NP].flat)
    return len(seen)


def few(videos: int, scenes: int, split: str) -> str:
    """The sentence about scenes that are made of few independent videos; empty where they are enough."""
    if videos >= FEW:
        return ""
    return (
        f"note: {scenes} {split} scenes are made of {videos} videos: scores and intervals hold for these, and say little "
        "about others"
    )


def _validation(run: Run) -> list[str]:
    directory = run.dataset.prepared
    videos = set(clip_files.videos(directory, "val"))
    if len(videos) < PANELS:
        raise BadInput(
            f"dataset.val={run.dataset.val}: {directory} has {len(videos)} validation video"
            f"{'s' if len(videos) != 1 else ''}; scenes are made of {PANELS} different ones"
        )
    try:
        count = drawn(run, "val", run.evaluation.scenes)
    except ValueError as error:
        raise BadInput(
            f"dataset.val={run.dataset.val}: the {len(videos)} validation videos in {directory} give no scenes with a "
            f"control of shuffled audio ({' '.join(str(error).split())}); prepare with a larger dataset.val"
        ) from error
    return list(filter(None, [few(count, run.evaluation.scenes, "validation")]))


def _test(run: Run) -> list[str]:
    """What keeps the best checkpoints from being scored on the test split at the end, or makes that say little."""
    if not run.study.final:
        return []
    if refusal := untestable(run):
        return [f"note: {refusal}"]
    count = drawn(run, "test", run.evaluation.final_scenes)
    return list(filter(None, [few(count, run.evaluation.final_scenes, "test")]))


def untestable(run: Run) -> str:
    """Why nothing can be scored on the test split of a run's clips; empty where it can."""
    try:
        drawn(run, "test", run.evaluation.final_scenes)
    except ValueError as error:
        why = " ".join(str(error).split())
        return f"no scenes of the test split of {run.dataset.prepared} ({why}): nothing is scored on it at the end"
    return ""


def _regions(run: Run) -> None:
    directory = run.dataset.prepared
    if run.study.metric not in metrics(run.evaluation.protocol)[:WITHOUT_REGIONS]:
        known = clip_files.outlines(directory, "val", 16, truth=True, limit=LOOKED_AT).has_truth
        if known is None or not known.any():
            raise BadInput(
                f"study.metric={run.study.metric}: needs regions, and {directory} has none for its val split"
            )
