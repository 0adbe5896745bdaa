"""What is installed: every package that raymix needs has a tested version in constraints.txt."""

from __future__ import annotations

import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.cluster_file_rules import ROOT, constraints, project_pins


def required(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """The names of the installed distributions that `name[extras]` needs, and all that they need in turn."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    found: set[str] = set()
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            needed = canonicalize_name(requirement.name)
            found |= {needed} | required(needed, frozenset(requirement.extras), seen)
    return found


def test_constraints_are_names_and_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)] == []


def test_constraints_name_every_package_that_raymix_needs() -> None:
    tested = {canonicalize_name(name) for name in constraints()}
    try:
        needed = required("raymix", frozenset({"test"}), set())
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"raymix[test] is not installed here ({error})")
    assert {"torch", "pytest", "boto3", "hydra-core"} <= needed
    assert sorted(needed - tested) == []


def test_constraints_lie_in_the_ranges_of_pyproject() -> None:
    tested = {canonicalize_name(name): version for name, version in constraints().items()}
    ranges = {canonicalize_name(name): found for name, found in project_pins().items() if name != "python"}
    assert {name: tested[name] for name, found in ranges.items() if tested[name] not in found} == {}
