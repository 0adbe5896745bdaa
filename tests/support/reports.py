"""Reading an EvaluationReport that was written as JSON, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def by_layout(system: Mapping[str, Any]) -> dict[str, Any]:
    """The scores records of one system by layout."""
    return {record["layout"]: record for record in system["scores"]}


def metrics_of(document: Mapping[str, Any], layout: str, protocol: str = "") -> dict[str, dict[str, Any]]:
    """The metrics of every system that has some on this layout, by its name."""
    return {
        system["system"]: record["metrics"]
        for system in document["systems"]
        for record in system["scores"]
        if record["layout"] == layout and protocol in ("", record["protocol"])
    }


def plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without their marks."""
    return {name: {key: each[key] for key in each if key != "mark"} for name, each in metrics.items()}
