"""A study's checkpoints on scenes that are named: a pair list that others use too, another layout, another number of sources.

What a search scores are the scenes of its own config; here are those of other people's tables (a column of panels, three
sources, duets, VGGSound-Duet), beside the same null systems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from raymix import predictions, results
from raymix.baselines import mean_training_heatmap, predict_with_controls, score_with_baselines, shuffled_audio
from raymix.config import BadInput, Evaluate, signature
from raymix.contenders import CandidateCheckpoint, Source
from raymix.engine import writable
from raymix.methods import Maps
from raymix.protocol import Protocol
from raymix.protocol import protocol as named
from raymix.results import Report
from raymix.scene import Scenes
from raymix.scoring import SystemScores
from raymix.staging import Stage, staged
from raymix.submission import Result
from raymix.truth import Truth


def evaluate(
    settings: Evaluate, source: Source, contenders: list[CandidateCheckpoint], echo: Callable[[str], Any] = print
) -> Report:
    """Score these checkpoints on the scenes that the settings name, and write the folder.

    What the settings leave open is as in the run of the first. Raises ValueError in one line, before anything is written.
    """
    best, notes = contenders[0], list[str]()
    stage = staged(settings, best.run)
    fits_encoder(stage)
    protocol = named(settings.protocol or best.run.evaluation.protocol)
    folder = settings.output or _folder(settings, source, stage)
    writable(folder)
    scenes = stage.compose(stage.clips())
    truth = Truth.of(scenes)
    names = ", ".join(each.name for each in contenders)
    echo(f"scoring {names} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({protocol.id}) ...")
    said, by_protocol = scored(contenders, stage, scenes, truth, [protocol], notes)
    rows = by_protocol[protocol.id]
    found = {"study": source.study.name or None, "checkpoints": [_record(each, rows, stage) for each in contenders]}
    result = Result(source.study.name or best.uri, found, rows, stage, truth, {}, notes)
    own = {each.name: said[each.name] for each in contenders}
    return result.write(folder, echo, _stored(folder, truth, own) if settings.store else ())


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
    """What all systems with a model say of these scenes, each run once, and all rows by protocol, nulls included.

    The same nulls whatever the protocols, since the mark behind a score depends on them; `notes` takes what is lacking.
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
    known = {name: getattr(of, name) for name in ("name", "rank", "trial", "epoch", "uri")}
    return known | {"parameters": of.params, "scores": values}


def _stored(folder: str, truth: Truth, said: dict[str, Maps]) -> tuple[str, ...]:
    """Write what the contenders predict; the name of the file."""
    results.clear(folder)
    name = f"predictions-{truth.layout}.parquet"
    write_maps(f"{folder.rstrip('/')}/{name}", truth, said)
    return (name,)


def write_maps(uri: str, truth: Truth, said: dict[str, Maps]) -> None:
    """What some systems say of the same scenes as a file of predictions."""
    with predictions.writing(uri, truth.scenes_hash) as out:
        for system, maps in said.items():
            loud = None if maps.loudness_NM is None else maps.loudness_NM.numpy()
            out.add(system, truth.ids, maps.maps_NMHW.numpy(), truth.canvas, maps.classes, loud)


def _folder(settings: Evaluate, source: Source, stage: Stage) -> str:
    """Where the files go: one folder for one set of scenes and protocol."""
    about = {"checkpoint": settings.checkpoint, "top": settings.top, "protocol": settings.protocol}
    leaf = f"{stage.split}-{stage.layout}-{signature(about | stage.record())[:6]}"
    return f"{source.uri}/evaluation/{leaf}" if source.named else f"{settings.home.rstrip('/')}/evaluations/{leaf}"
