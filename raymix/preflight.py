"""What can be known before anything starts: scores that will exist, room for a slot, a method that can be built, clips.

`raymix.rules` has judged the values before; here they meet the machine, the files and the code that will use them. Every
refusal is BadInput in one line; nothing is written, and Ray does not run yet.
"""

from __future__ import annotations

from raymix import clip_files, session
from raymix.config import BadInput, Run, nearest
from raymix.datasets import demo
from raymix.protocol import PROTOCOLS
from raymix.room import room

PANELS = 4  # of the largest scene that validation composes, each from another video
LABEL_FREE = 4  # the first so many metrics need no regions in the data
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
    """The validation metrics that a study may search by, the LABEL_FREE ones first."""
    from raymix.scoring import metrics

    heard = [f"{where}sounding_accuracy{twin}" for where in ("", "solo/") for twin in ("", "_shuffled")]
    return [f"val/{name}" for name in [*heard, *metrics(PROTOCOLS[protocol])]]


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


def _frames(run: Run) -> None:
    from raymix.methods import needs

    directory, wanted = run.dataset.prepared, needs(run).frames
    stored = clip_files.clip_shape(directory, "train").frames
    if stored < wanted:
        raise BadInput(
            f"method={run.method['name']}: needs {wanted} frames of each clip, {directory} has {stored}; prepare it with "
            f"dataset.frames={wanted}"
        )


def clips(run: Run) -> None:
    """BadInput where the prepared clips cannot be read, or are too few to train on or to make scenes of."""
    directory, batch, k = run.dataset.prepared, run.fit.batch, run.mixture.k
    _frames(run)
    training, validation = clip_files.videos(directory, "train"), clip_files.videos(directory, "val")
    if len(training) < batch:
        raise BadInput(f"fit.batch={batch}: more than the {len(training)} training clips in {directory}")
    if len(set(training)) < k:
        raise BadInput(f"mixture.k={k}: more than the {len(set(training))} training videos in {directory}")
    if (count := len(set(validation))) < PANELS:
        raise BadInput(
            f"dataset.val={run.dataset.val}: {directory} has {count} validation video{'s' if count != 1 else ''}; "
            f"scenes are made of {PANELS} different ones"
        )
    if run.study.metric not in metrics(run.evaluation.protocol)[:LABEL_FREE]:
        known = clip_files.outlines(directory, "val", 16, truth=True, limit=LOOKED_AT).has_truth
        if known is None or not known.any():
            raise BadInput(
                f"study.metric={run.study.metric}: needs regions, and {directory} has none for its val split"
            )
