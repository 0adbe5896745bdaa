"""The command line: `raymix COMMAND ...`, which is the same as `python -m raymix.COMMAND ...`; `raymix` alone lists the commands.

`commands` composes settings with Hydra, runs a command and maps exceptions to exit codes; `overrides` parses
`name=value`, `recipes` fills in recipe, search space and scheduler, `setting_conflicts` refuses settings that exclude
each other, `help_page` prints `--help`. What a command does is not here but in its own package.

A command's module imports PyTorch and Ray, which takes seconds. It is imported only when the settings have been
composed and a first line is printed: `--help` and most refusals do without it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import Any, NoReturn

COMMANDS = {
    "prepare": "turn videos into clips that models are trained on",
    "tune": "search hyper-parameters with Ray and score the best model on test",
    "train": "train one model with fixed hyper-parameters",
    "compare": "tune several methods with one budget and print one table",
    "leaderboard": "list studies and their trials, best first",
    "evaluate": "score a study's best checkpoints, or predictions of any model",
}

LISTING = """raymix COMMAND ... (or python -m raymix.COMMAND ...)

{commands}

`raymix tune` alone runs the demo. Your own videos:

  raymix tune dataset=folder dataset.root=/videos

`raymix COMMAND --help` lists the settings of a command."""

LOADED = {  # what takes a command's first seconds
    "prepare": "PyAV and PyTorch",
    "evaluate": "PyTorch",
    "tune": "PyTorch and Ray",
    "train": "PyTorch and Ray",
    "compare": "PyTorch and Ray",
}

_started: list[str] = []  # how the running command was called, where it was not `python -m raymix.COMMAND`


def program_words() -> list[str]:
    """The words that start the running command, as a person types them before its settings."""
    return _started or ["python", "-m", "raymix." + sys.argv[0].rsplit("/", 1)[-1].removesuffix(".py")]


def main() -> NoReturn:
    """The console script `raymix`, and `python -m raymix`."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        _print(LISTING.format(commands="\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items())))
    if words[0] == "--version":
        _print(f"raymix {importlib.metadata.version('raymix')}")
    name = words[0]
    if name not in COMMANDS:
        from raymix.config import did_you_mean

        print(f"raymix: {name}: no such command{did_you_mean(name, list(COMMANDS))}", file=sys.stderr)
        sys.exit(2)
    script = sys.argv[0].replace("\\", "/").endswith("/__main__.py")
    _started[:] = ["python", "-m", "raymix", name] if script else ["raymix", name]
    sys.argv[1:] = words[1:]
    run_named_command(name)


def run_named_command(name: str) -> NoReturn:
    """Run a command with the settings of `sys.argv` and exit with its code."""
    if name == "leaderboard":
        sys.exit(importlib.import_module("raymix.leaderboard").main())
    from raymix.cli import commands, recipes
    from raymix.config import errors

    def begin() -> int:
        recipes.complete_command_line(name)
        config = commands.config_from_command_line(name)
        if config is None:
            return errors.EXIT_DONE
        print(f"raymix {name}: {_subject(name, config)}; loading {LOADED[name]} ...", flush=True)
        importlib.import_module(f"raymix.{name}").main()  # exits
        raise AssertionError

    sys.exit(commands.exit_code_of(begin))


def _subject(name: str, config: Any) -> str:
    """What a command is about, in a few words."""
    if name == "evaluate":
        given = ("predictions", "export", "compare", "comparison", "checkpoint", "study")
        return next((f"{word}={getattr(config, word)}" for word in given if getattr(config, word)), "scores")
    if name == "prepare" and config.inspect:
        return f"inspect={config.inspect}"
    if name == "prepare":
        return f"dataset {config.dataset.name} to {config.dataset.prepared}"
    return f"study {config.study.name}, dataset {config.dataset.name}"


def _print(text: str) -> NoReturn:
    print(text)
    sys.exit(0)
