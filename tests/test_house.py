"""Which layer each module belongs to and what it may import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "raymix"

# Room -> floor. A room imports rooms of lower floors, or those named beside it on its own floor.
FLOORS: dict[str, int] = {
    "config": 0, "spectrogram": 1, "walk": 1, "metrics": 1, "storage": 1, "expression": 1, "study": 1,
    "columns": 1, "remaining": 2, "room": 2, "lock": 2,
    "encoders": 2, "rules": 2, "ledger": 2, "checkpoint": 2, "clip": 2, "protocol": 2, "space": 2, "truth": 2,
    "door": 4, "libraries": 0, "overrides": 2, "help": 3, "cli": 6, "__main__": 7,
    "distributed": 2, "ray_head": 2, "phase": 1, "precision": 2, "crew": 1, "resampling": 1, "progress": 3, "significance": 2,
    "search_space": 3, "common_space": 3, "ranges": 2, "recipe": 5,
    "data_limits": 4, "timing": 7, "sampler": 3, "mixture": 3, "clip_files": 3, "datasets": 4, "scene": 4,
    "methods": 5, "scoring": 5,
    "baseline_heatmaps": 6, "report": 2, "report_tables": 3, "rendering": 8, "score_reports": 9, "study_report": 11,
    "published": 1, "gallery": 7, "chart": 7, "paths": 7, "tables": 7, "figures": 6, "watch": 6, "fit": 6,
    "stream": 7, "row_groups": 7, "evaluator": 7, "session": 7, "mailbox": 7, "failures": 7, "nodes": 7, "verdict": 10,
    "preflight": 8, "scoring_actor": 8,
    "worker": 8, "rebuild": 7, "suggest": 8, "ranking": 11, "slot": 9, "record": 9, "census": 9,
    "trial": 10, "upload": 10,
    "migration": 0, "layout": 1, "region": 1, "casting": 2, "results": 3, "pair_list": 3, "predictions": 3,
    "staging": 5, "scene_files": 6,
    "per_scene": 7, "sharded": 7, "contenders": 8, "submission": 12, "paired": 13, "benchmark": 13, "exhibits": 13,
    "baselines": 9, "hall": 10, "plates": 12, "listed": 7,
    "readings": 14, "asking": 2, "engine": 11, "scene_lists": 5, "contact_sheets": 7, "inspection": 8,
    "importing": 11, "prepare": 12, "forecast": 13, "leaderboard": 12, "evaluate": 15, "tune": 16, "train": 17, "compare": 17,
}  # fmt: skip
RAY = {
    "ray_head",
    "stream",
    "row_groups",
    "evaluator",
    "slot",
    "trial",
    "suggest",
    "session",
    "record",
    "mailbox",
    "failures",
    "worker",
    "engine",
    "upload",
    "census",
    "nodes",
    "importing",
    "tune",
    "train",
}
TORCH_FREE = {
    "asking", "migration", "layout", "region", "casting", "pair_list", "scene_lists", "predictions", "results",
    "config", "rules", "storage", "expression", "study", "columns", "remaining",
    "ledger", "protocol", "space", "search_space", "metrics", "truth",
    "resampling", "significance", "precision",
    "door", "libraries", "overrides", "help", "cli", "__main__",
    "leaderboard", "watch", "session", "ray_head", "phase", "room", "lock",
}  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).as_posix() != "__init__.py")


def imported(tree: ast.AST, top_only: bool = False) -> set[str]:
    nodes = tree.body if top_only and isinstance(tree, ast.Module) else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" if node.module == "raymix" else node.module for alias in node.names}
    return names


def test_the_table_is_whole() -> None:
    assert FILES, "no rooms found: the test looks in the wrong place"
    assert {room_of(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_arrows_only_go_down(path: Path) -> None:
    room = room_of(path)
    for name in imported(ast.parse(path.read_text())):
        if name.startswith("raymix."):
            other = name.split(".")[1]
            if other != room and other in FLOORS:
                assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} ({FLOORS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_ray_only_above(path: Path) -> None:
    if room_of(path) not in RAY:
        found = {name for name in imported(ast.parse(path.read_text())) if name.split(".")[0] == "ray"}
        assert not found, f"{path.name} imports {found}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_doors_that_only_query_do_not_pay_for_torch(path: Path) -> None:
    if room_of(path) in TORCH_FREE:
        found = {name.split(".")[0] for name in imported(ast.parse(path.read_text()), top_only=True)}
        assert not found & {"torch", "torchvision", "torchaudio", "ray"}, path.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
