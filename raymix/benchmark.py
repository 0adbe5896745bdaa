"""A study's checkpoints on scenes that are named: a pair list that others use too, another layout, another number of sources.

What a search scores are the scenes of its own config; here are those of other people's tables (a column of panels, three
sources, duets, VGGSound-Duet), with the same controls and baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from raymix import predictions
from raymix.baselines import mean_training_heatmap, predict_with_controls, score_with_baselines, shuffled_audio
from raymix.config import BadInput, Evaluate, signature
from raymix.contenders import CandidateCheckpoint, Source
from raymix.methods import Maps
from raymix.protocol import Protocol
from raymix.protocol import protocol as named
from raymix.results import ResultsFolder, clear_results
from raymix.scene import Scenes
from raymix.score_reports import checkpoint_record
from raymix.scoring import SystemScores
from raymix.staging import Stage, staged
from raymix.storage import assert_writable
from raymix.submission import scenes_report, write_scenes_report
from raymix.truth import Truth


def evaluate(
    settings: Evaluate, source: Source, contenders: list[CandidateCheckpoint], echo: Callable[[str], Any] = print
) -> ResultsFolder:
    """Score these checkpoints on the scenes that the settings name, and write the folder.

    What the settings leave open is as in the run of the first. Raises ValueError in one line, before anything is written.
    """
    best, notes = contenders[0], list[str]()
    stage = staged(settings, best.run)
    fits_encoder(stage)
    protocol = named(settings.protocol or best.run.evaluation.protocol)
    folder = settings.output or _folder(settings, source, stage)
    assert_writable(folder)
    scenes = stage.compose(stage.clips())
    truth = Truth.of(scenes)
    names = ", ".join(each.name for each in contenders)
    echo(f"scoring {names} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({protocol.id}) ...")
    predicted, by_protocol = scored(contenders, stage, scenes, truth, [protocol], notes)
    rows = by_protocol[protocol.id]
    own = {each.name: predicted[each.name] for each in contenders}
    report = scenes_report(
        source.study.name or best.uri,
        {"study": source.study.name or None},
        rows,
        stage,
        truth,
        controls=[name for name in predicted if name not in own],
        checkpoints=[_record(each, rows, stage) for each in contenders],
        notes=notes,
    )
    there = _stored(folder, truth, own) if settings.store else ()
    return write_scenes_report(folder, report, rows, stage, echo, there)


def fits_encoder(stage: Stage) -> None:
    """BadInput where the encoder of a checkpoint cannot take panels of this size."""
    if stage.image_size % 16:
        raise BadInput(f"image_size={stage.image_size}: must be a multiple of 16, the encoder's stride")


def scored(
    contenders: list[CandidateCheckpoint],
    stage: Stage,
    scenes: Scenes,
    truth: Truth,
    protocols: Sequence[Protocol],
    notes: list[str],
) -> tuple[dict[str, Maps], dict[str, list[SystemScores]]]:
    """Predicts once with each candidate and control, and scores them and the baselines under every protocol.

    The controls and baselines do not depend on the protocols, since marks depend on them; `notes` takes what could not be made.
    """
    device, best = "cuda" if torch.cuda.is_available() else "cpu", contenders[0]
    shuffled_N = shuffled_audio(scenes, stage.seed, notes)
    systems = predict_with_controls(contenders, scenes, device, shuffled_N)
    mean_HW = mean_training_heatmap(best, stage, device, notes)
    return systems.maps, score_with_baselines(systems, truth, protocols, mean_HW, stage.seed)


def _record(of: CandidateCheckpoint, rows: list[SystemScores], stage: Stage) -> dict[str, Any]:
    """A checkpoint and its means."""
    own = next(row for row in rows if row.system == of.name)
    values = {f"{stage.split}/{stage.layout}/{name}": each.value for name, each in own.summary.items()}
    return checkpoint_record(of, values)


def _stored(folder: str, truth: Truth, predicted: dict[str, Maps]) -> tuple[str, ...]:
    """Write what the contenders predict; the name of the file."""
    clear_results(folder)
    name = f"predictions-{truth.layout}.parquet"
    write_maps(f"{folder.rstrip('/')}/{name}", truth, predicted)
    return (name,)


def write_maps(uri: str, truth: Truth, predicted: dict[str, Maps]) -> None:
    """Writes predictions of several systems on the same scenes as one file."""
    with predictions.writing(uri, truth.scenes_hash) as out:
        for system, maps in predicted.items():
            loud = None if maps.loudness_NM is None else maps.loudness_NM.numpy()
            out.add(system, truth.ids, maps.maps_NMHW.numpy(), truth.canvas, maps.classes, loud)


def _folder(settings: Evaluate, source: Source, stage: Stage) -> str:
    """Where the files go: one folder for one set of scenes and protocol."""
    about = {"checkpoint": settings.checkpoint, "top": settings.top, "protocol": settings.protocol}
    leaf = f"{stage.split}-{stage.layout}-{signature(about | stage.record())[:6]}"
    return f"{source.uri}/evaluation/{leaf}" if source.named else f"{settings.home.rstrip('/')}/evaluations/{leaf}"
