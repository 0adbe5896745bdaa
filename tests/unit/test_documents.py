"""README and the other documents: commands that parse, settings that exist, links and paths that resolve."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymix import leaderboard
from raymix.cli import COMMANDS, commands, recipes
from raymix.config import config_to_plain, flatten_config
from raymix.search.space_file import parse_search_space

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {"env", "build", "version_0_1"} & set(path.relative_to(ROOT).parts)  # commands of today only
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
COMMAND = re.compile(r"python -m raymix\.(\w+)((?:[^`\n\\]|\\\n)*)")


def search_space_of_readme() -> str:
    """The YAML of README's section on search spaces."""
    section = (ROOT / "README.md").read_text().split("## A search space\n")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    return "\n".join(lines) + "\n"


def command_lines() -> Iterator[tuple[str, str]]:
    """(document, command line) of every command of raymix in the documents, without what a shell does with its output."""
    for name, path in zip(NAMES, DOCUMENTS, strict=True):
        for match in COMMAND.finditer(path.read_text()):
            words = match[2].replace("\\\n", " ")
            words = re.split(r"\s#|\)\"|\)/\"| && | > |<br>", words)[0].strip().rstrip(".,;:)")
            if words.count("'") % 2:  # the end of what another command quotes
                words = words.removesuffix("'")
            yield name, f"{match[1]} {words}".strip()


LINES = sorted(set(command_lines()))


def test_every_command_has_its_example() -> None:
    assert len(LINES) > 30
    assert {line.split()[0] for name, line in LINES if name == "README.md"} == set(COMMANDS)


@pytest.mark.parametrize(("document", "line"), LINES, ids=[f"{name}: {line}"[:90] for name, line in LINES])
def test_a_command_line_is_understood(
    document: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings, groups and values of the command are composed as the command itself does; nothing is started."""
    name, *words = shlex.split(line)
    assert name in COMMANDS, f"{document}: {line}"
    words = [word for word in words if word != "..."]
    if name == "leaderboard":
        leaderboard.build_parser().parse_args(words)
        return
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/mine.yaml").write_text(search_space_of_readme())
    words = [str(tmp_path) if word == "DIR" else word for word in words]
    words = [word.replace("--config-dir=DIR", f"--config-dir={tmp_path}") for word in words]
    monkeypatch.setattr("sys.argv", [f"raymix.{name}", *words])
    if "--help" in words or "--cfg" in words:
        monkeypatch.setattr("sys.argv", [f"raymix.{name}", *(w for w in words if w not in ("--help", "--cfg", "job"))])
    recipes.complete_command_line(name)
    assert commands.config_from_command_line(name) is not None


def test_the_search_space_of_readme_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/mine.yaml").write_text(search_space_of_readme())
    monkeypatch.setattr("sys.argv", ["raymix.tune", "--config-dir", str(tmp_path), "search_spaces=mine"])
    config = commands.config_from_command_line("tune")
    plain = config_to_plain(config)
    space = parse_search_space(plain.pop("search_spaces"), plain)
    assert space.names and space.conditions and space.constraints and space.fixed and space.initial_points
    assert set(space.names) <= set(flatten_config(plain))


@pytest.mark.parametrize("name", NAMES)
def test_links_and_paths_resolve(name: str) -> None:
    path = ROOT / name
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), f"{name}: {link}"
    for quoted in re.findall(r"`((?:raymix|configs|search_spaces|cluster|tests)/[\w./-]*)`", text):
        if not re.search(r"NAME|token|[A-Z]{4}", quoted):
            assert (ROOT / quoted).exists(), f"{name}: {quoted}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
