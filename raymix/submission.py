"""A stranger's predictions on the scenes of a prepared dataset: scored like raymix's own, beside systems that hear nothing.

The rows of Tables 1 and 2 of the paper for whoever has a model elsewhere. Scenes without a prediction count as missed:
the denominator is that of the scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from raymix import clip_files, comparison, listed, per_scene, predictions, results, sharded, spread
from raymix.baseline_heatmaps import baseline_heatmaps
from raymix.config import BadInput, Evaluate, Run, nearest, signature
from raymix.engine import writable
from raymix.predictions import Predictions
from raymix.protocol import Protocol
from raymix.protocol import protocol as named
from raymix.results import PER_SCENE, TABLE, Report
from raymix.scoring import SystemScores, Table, summarise
from raymix.sharded import Work
from raymix.staging import Stage, staged
from raymix.storage import resolve
from raymix.truth import Truth


def tables(
    found: Predictions, truth: Truth, protocols: Sequence[Protocol], work: Work = sharded.here
) -> dict[str, dict[str, Table]]:
    """The scores of each system in a file, which is never in memory as a whole; a scene without a row is scored too.

    A table for each system and protocol. Where a protocol goes by class names, the maps that have them are held against
    the sources of their classes; where it does not, as many as there are sources, the loudest ones if that is known.
    """
    shards = sharded.shards(found, truth, named_systems(found, truth, protocols))
    scored = sharded.reduced(work(shards, protocols))
    return {system: scored[system] for system in found.systems}


def named_systems(found: Predictions, truth: Truth, protocols: Sequence[Protocol]) -> set[str]:
    """The systems whose maps a protocol may hold against sources of their classes: of scenes that have classes.

    ValueError where a protocol would, and none of a system's names is one of theirs.
    """
    known = sorted({label for labels in truth.labels or () for label in labels if label})
    by_name = [each.id for each in protocols if each.match == "labels"]
    for system, names in found.classes.items():
        if by_name and known and not names & set(known):
            one = min(names, default="")
            hint = nearest(one, known) or f", the scenes have {', '.join(known[:6])} and others"
            raise ValueError(
                f"{found.uri}: protocol {by_name[0]} goes by class names, and no map_class of {system} is a class of "
                f"these scenes: {one!r}{hint}"
            )
    return set(found.classes) if known else set()


def rows(
    found: Predictions, truth: Truth, protocol: Protocol, seed: int = 0, work: Work = sharded.here
) -> list[SystemScores]:
    """All rows of the table: the systems of the file, then the null systems that need no model, on the same scenes."""
    return all_rows(found, truth, [protocol], seed, work)[protocol.id]


def all_rows(
    found: Predictions, truth: Truth, protocols: Sequence[Protocol], seed: int = 0, work: Work = sharded.here
) -> dict[str, list[SystemScores]]:
    """The same for each protocol, by its id."""
    by_name, null = scorable(found, truth, protocols), _nulls(truth)
    kinds = {system in by_name for system in found.systems}
    every = chain(sharded.shards(found, truth, by_name), sharded.of_nulls(truth, kinds))
    scored = sharded.reduced(work(every, protocols))
    return {
        each.id: [
            SystemScores(name, summarise(scored[name][each.id], seed), name in null, scored[name][each.id])
            for name in (*found.systems, *null)
        ]
        for each in protocols
    }


def scorable(found: Predictions, truth: Truth, protocols: Sequence[Protocol]) -> set[str]:
    """`named_systems`, all said that can be wrong with a whole file: cheap, so that nothing is started for a refusal.

    ValueError where a system is called as a null system is, where a protocol is not for such scenes, and as there.
    """
    if taken := [name for name in _nulls(truth) if name in found.systems]:
        raise ValueError(f"{found.uri}: system {taken[0]!r} is what a null system is called; give it another name")
    if refusals := list(filter(None, (each.declines(truth.panels_NS.shape[1]) for each in protocols))):
        raise ValueError(refusals[0])
    return named_systems(found, truth, protocols)


def _nulls(truth: Truth) -> list[str]:
    """What the null systems of such scenes are called."""
    return list(baseline_heatmaps(truth.take(np.arange(1))))


def gaps(missing: Mapping[str, int], truth: Truth) -> list[str]:
    """What must be said of predictions or regions that are not there; `missing` scenes by system."""
    of = len(truth)
    notes = [f"{name}: {n} of {of} scenes have no prediction and count as missed" for name, n in missing.items() if n]
    if not truth.has_truth_N.any():
        notes.append(f"the {truth.layout} scenes have no regions, box metrics are left out")
    return notes + alone(truth)


def alone(truth: Truth) -> list[str]:
    """What must be said where one annotator alone has a source."""
    if not (count := int(truth.alone_N.sum())):
        return []
    return [
        f"{count} of {len(truth)} scenes have a source on which no two annotators agree: only protocols that weigh votes "
        "have a row of them"
    ]


def there(uri: str) -> None:
    """BadInput where there is no such file of predictions."""
    filesystem, path = resolve(uri)
    if not filesystem.get_file_info(path).is_file:
        raise BadInput(f"predictions={uri}: no such file")


@dataclass(frozen=True)
class Result:
    """Rows on one set of scenes, with all that must be told beside them."""

    title: str
    source: dict[str, Any]  # where the systems come from: `predictions`, or `study` and `checkpoints`
    rows: list[SystemScores]
    stage: Stage
    truth: Truth
    missing: dict[str, int]  # scenes without a prediction, by system
    notes: list[str]

    def write(self, folder: str, echo: Callable[[str], Any], there: tuple[str, ...] = ()) -> Report:
        """Write the folder and tell; `there` are files that it has already."""
        pairs = self.stage.pairs
        notes = [*self.notes, *gaps(self.missing, self.truth), *listed.first(self.rows, pairs)]
        table = comparison.table(self.rows, listed=listed.said(pairs))
        text = "\n".join([f"# {self.title}", "", table, "", *(f"- {note}" for note in notes)])
        files = {TABLE: f"{text.rstrip()}\n".encode(), PER_SCENE: per_scene.encode(self.rows, pairs)}
        report = results.write(folder, files, self.document() | {"notes": notes}, there)
        echo(text)
        report.tell(echo)
        return report

    def document(self) -> dict[str, Any]:
        """The content of scores.json."""
        described = clip_files.describe(self.stage.prepared)
        return {
            **results.stamp(),
            "split": self.stage.split,
            **self.source,
            "protocol": self.rows[0].summary.protocol,
            "stage": self.stage.record(),
            "dataset": described.get("dataset"),
            "preprocessing": described.get("preprocessing"),
            "scenes": self.truth.facts() | listed.facts(self.stage.pairs),
            "systems": [
                {
                    "system": row.system,
                    "null": row.null,
                    "missing": self.missing.get(row.system, 0),
                    "layouts": {self.truth.layout: listed.record(row, self.stage.pairs)},
                }
                for row in self.rows
            ],
        }


def evaluate(settings: Evaluate, run: Run | None, echo: Callable[[str], Any] = print) -> Report:
    """Score the file `settings.predictions` and write the folder; `run` is that of the study that names the scenes.

    Raises ValueError in one line for what a person can mend, before anything is written.
    """
    uri = settings.predictions
    there(uri)
    protocol = named(settings.protocol or (run or Run()).evaluation.protocol)
    stage = staged(settings, run)
    folder = settings.output or _folder(settings, stage)
    writable(folder)
    truth = stage.truth()
    echo(f"scoring {uri} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({protocol.id}) ...")
    found = predictions.check(uri, truth)
    scorable(found, truth, [protocol])
    with spread.work(len(truth), settings.spread) as work:
        lines = rows(found, truth, protocol, stage.seed, work)
    missing = {system: len(truth) - count for system, count in found.systems.items()}
    return Result(uri, {"predictions": uri}, lines, stage, truth, missing, []).write(folder, echo)


def _folder(settings: Evaluate, stage: Stage) -> str:
    """Where the files go: one folder for one file of predictions, its scenes and its protocol."""
    name = settings.predictions.rstrip("/").rpartition("/")[2].rpartition(".")[0] or "predictions"
    digest = signature({"uri": settings.predictions, "protocol": settings.protocol, "stage": stage.record()})
    return f"{settings.home.rstrip('/')}/evaluations/{name}-{digest[:6]}/{stage.split}"
