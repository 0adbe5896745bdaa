"""Query studies: their best trials, settings and checkpoints. Needs neither torch
nor Ray.

  python -m raymix.leaderboard
      list the studies
  python -m raymix.leaderboard mine --top 10
      the best trials, one column per searched setting
  python -m raymix.leaderboard mine \\
      --where "mixture.k==2 and method.temperature<0.1"
      only trials for which the expression holds
  python -m raymix.leaderboard mine --wide
      all columns, with checkpoints and reasons
  python -m raymix.leaderboard mine --json
      the same as JSON
  python -m raymix.leaderboard mine --best-checkpoint
      the path of the best checkpoint, and nothing else
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import NoReturn

from raymix.config import ConfigError, raymix_home
from raymix.reporting.leaderboard import (
    LeaderboardQuery,
    _document,
    _list,
    _show,
    find_best_checkpoint,
    leaderboard_rows,
    list_studies,
    open_study,
)

EXIT_DONE, EXIT_BAD_INPUT, EXIT_NOTHING_USABLE = 0, 2, 3


class OneLineArgumentParser(argparse.ArgumentParser):
    """Refuses in one line, without the page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the options")


def build_parser() -> OneLineArgumentParser:
    new = OneLineArgumentParser(
        prog="python -m raymix.leaderboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    new.add_argument("study", nargs="*", help="names of studies; none: list them")
    new.add_argument("--root", default=raymix_home(), help="where raymix keeps its studies (default: %(default)s)")
    new.add_argument("--top", type=int, metavar="N", help="only the best N trials")
    new.add_argument(
        "--where", metavar="EXPR", help="only trials for which this holds, over names of settings and columns"
    )
    new.add_argument("--metric", metavar="NAME", help="rank by this metric instead of the study's objective")
    new.add_argument(
        "--mode", choices=["max", "min"], help="whether larger or smaller is better (default: the study's)"
    )
    new.add_argument(
        "--wide", action="store_true", help="all columns, with checkpoints and reasons, as long as they are"
    )
    new.add_argument("--json", action="store_true", help="JSON on standard output")
    new.add_argument(
        "--best-checkpoint", action="store_true", help="print the best trial's checkpoint and nothing else"
    )
    return new


def run_leaderboard(arguments: argparse.Namespace) -> int:
    if arguments.top is not None and arguments.top < 1:
        raise ConfigError(f"--top {arguments.top}: must be at least 1")
    query = LeaderboardQuery(arguments.top, arguments.where, arguments.metric, arguments.mode)
    names = list(dict.fromkeys(arguments.study))
    if arguments.best_checkpoint:
        path = find_best_checkpoint(arguments.root, names or list_studies(arguments.root), query)
        if path is None:
            print("raymix: no trial with a checkpoint", file=sys.stderr)
            return EXIT_NOTHING_USABLE
        print(path)
        return EXIT_DONE
    if not names:
        _list(arguments.root, arguments.json)
        return EXIT_DONE
    opened = [open_study(arguments.root, name) for name in names]
    tables = [(study, leaderboard_rows(study, folder, query)) for folder, study in opened]
    if arguments.json:
        print(json.dumps([_document(study, table) for study, table in tables], indent=1))
        return EXIT_DONE
    for (folder, _), (study, table) in zip(opened, tables, strict=True):
        _show(study, table, folder, arguments.wide)
    return EXIT_DONE


def main(argv: list[str] | None = None) -> int:
    try:
        arguments = build_parser().parse_args(argv)
        if "://" in arguments.root and sys.stderr.isatty():  # an object store may take seconds
            print(f"raymix leaderboard: reading {arguments.root}/studies ...", file=sys.stderr, flush=True)
        return run_leaderboard(arguments)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except (ValueError, OSError) as error:
        print("raymix:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
