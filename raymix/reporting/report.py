"""EvaluationReport: the one document that every evaluation and comparison is written as, and read from.

It is plain data: `evaluation` builds it, the renderer (`raymix.reporting.rendering`) makes Markdown, CSV and terminal text of it, and
scores.json or comparison.json hold it as it is. `systems` has the numbers, `scene_sets` the scenes that they are of.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raymix import __version__
from raymix.config import ConfigError

SCHEMA_VERSION = 2  # 1 is that of version 0.1, whose documents differed from command to command

KINDS = ("study", "scenes", "protocols", "comparison", "paired", "paper")

SYSTEM_KIND, CONTROL_KIND, BASELINE_KIND, DIFFERENCE = "system", "control", "baseline", "difference"  # roles

LEGEND = {
    "†": "† the best baseline or control is inside this interval (or there is no interval: all scenes are of one video)",
    "‡": "‡ the best baseline or control is above this interval",
}

HEADLINE_METRICS = {  # by layout: the metric that is quoted and drawn first, and its name
    "grid2x2": ("sounding_accuracy", "sounding accuracy"),
    "solo2x2": ("sounding_accuracy", "sounding accuracy"),
    "hconcat": ("ciou@0.3", "CIoU@0.3"),
    "single": ("iou@0.5", "IoU@0.5"),
}


@dataclass
class SystemReport:
    """One system with its scores.

    Attributes:
        system: its name, the same wherever the report mentions it.
        role: SYSTEM; CONTROL or BASELINE for one that cannot depend on the audio of a scene; DIFFERENCE for one minus another.
        scores: a record for each set of scenes and protocol: `protocol`, `layout`, `scenes_hash`, `preprocessing`, `scenes`,
            `videos`, `resamples`, `seed` (of the bootstrap), `scene_set` (its index in the report) and `metrics`:
            {metric: {value, low, high, scenes, mark}}. `low` and `high` bound the 95 % interval and are None where there is
            none; `mark` (of a SYSTEM) is a key of `LEGEND` or ''; `over_listed`, where it is there, is the mean with a zero
            for every scene of a list that could not be made.
        checkpoint: URI of the checkpoint that predicted, None for others.
        missing: scenes without a prediction, which count as missed.
    """

    system: str
    role: str
    scores: list[dict[str, Any]]
    checkpoint: str | None = None
    missing: int = 0


@dataclass
class EvaluationReport:
    """Everything that an evaluation found, as plain data.

    Attributes:
        kind: one of KINDS.
        title: the heading of the Markdown file.
        split: `train`, `val` or `test`; '' where two results were compared.
        protocols: ids of the protocols that scored.
        dataset, preprocessing: name of the data set, and the hash of how its clips were prepared.
        source: where the systems come from: study and its URI, a file of predictions, the names of two results.
        settings: what all scenes or studies share, enough to repeat the evaluation.
        scene_sets: of each set of scenes what `SceneGroundTruth.facts` says (layout, hash, number, videos, canvas, ...), its
            `settings`, and `notes`; with `coverage` a sentence where scenes of a published list are missing.
        systems: all systems, controls and baselines.
        checkpoints: of each scored checkpoint its name, rank, trial, epoch, URI, parameters and mean scores.
        details: what only reports of this kind have.
        warnings: sentences for the top of the page.
        notes: sentences below the tables.
        legend: what the marks mean.
        files: names of the other files in the same folder.
    """

    kind: str
    title: str
    split: str = ""
    protocols: list[str] = field(default_factory=list)
    dataset: str | None = None
    preprocessing: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    scene_sets: list[dict[str, Any]] = field(default_factory=list)
    systems: list[SystemReport] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    legend: dict[str, str] = field(default_factory=lambda: dict(LEGEND))
    files: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    raymix: str = __version__
    written: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )  # ISO 8601, UTC

    def to_json(self) -> dict[str, Any]:
        """Returns the document as plain values, the facts that a reader looks for first at its beginning."""
        plain = asdict(self)
        first = ("schema_version", "raymix", "written", "kind")
        return {name: plain[name] for name in (*first, *(name for name in plain if name not in first))}

    @staticmethod
    def from_json(document: Mapping[str, Any], where: str = "document") -> EvaluationReport:
        """Returns the report of a document that `to_json` made.

        Raises ConfigError, naming `where`, for a document of version 0.1 or of a later version.
        """
        if (version := document.get("schema_version")) != SCHEMA_VERSION:
            found = "of raymix 0.1" if version is None else f"schema_version {version}"
            raise ConfigError(f"{where}: {found}; this version reads reports of schema_version {SCHEMA_VERSION}")
        return EvaluationReport(**{**document, "systems": [SystemReport(**each) for each in document["systems"]]})


def find_scores(document: Mapping[str, Any], system: str, layout: str = "", protocol: str = "") -> dict[str, Any]:
    """Returns the scores record of one system in a document: the first of this layout and protocol ('': any).

    Raises KeyError where there is none.
    """
    for each in document["systems"]:
        for record in each["scores"] if each["system"] == system else ():
            if layout in ("", record["layout"]) and protocol in ("", record["protocol"]):
                found: dict[str, Any] = record
                return found
    raise KeyError(f"{system}, {layout}, {protocol}")


def compared_checkpoints(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the checkpoints of a comparison: each `system`, `seed`, `study` and `uri`, which is None without a usable trial.

    Args:
        document: the content of a comparison.json, of this version or of 0.1.

    Raises KeyError where it is something else.
    """
    if "schema_version" in document:
        return list(document["checkpoints"])
    return [{**each, "uri": each["checkpoint"]} for each in document["studies"]]


def describe_preprocessing(preprocessing: str | None) -> str:
    """Returns ` of clips HASH`, which follows the hash of scenes; '' where it is unknown."""
    return f" of clips {preprocessing}" if preprocessing else ""
