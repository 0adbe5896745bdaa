"""The paper's tables and figures, filled with what the best checkpoints of comparisons (or a study) do on the test split.

`tables=[1,2,3]` are Markdown, CSV and JSON, measured numbers below the published ones; `figures=[3,...,9]` are PNG and PDF.
Comparisons of several datasets fill the parts of one table. Of a dataset that the paper does not have, the columns and scenes
are of the paper's kind, without published numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import torch

from raymix import figures, plates, tables
from raymix.baseline_heatmaps import baseline_heatmaps
from raymix.baselines import Control
from raymix.config import BadInput, Evaluate
from raymix.contenders import Source, choose
from raymix.door import Nothing
from raymix.evaluator import Bench
from raymix.hall import Act, Hall, Shown, held
from raymix.plates import FIGURES, OURS
from raymix.protocol import protocol as named
from raymix.published import TABLES, PaperTable, Part
from raymix.report import SYSTEM, EvaluationReport, SystemReport, compared_checkpoints
from raymix.report_tables import comma_separated
from raymix.results import ResultsFolder, write_results
from raymix.scoring import score, summarise
from raymix.storage import assert_writable, get, resolve
from raymix.tables import Measured

Echo = Callable[[str], Any]


def evaluate(settings: Evaluate, echo: Echo = print) -> ResultsFolder:
    """Make the tables and figures that are asked for; BadInput before anything is written."""
    for word, wanted, known in (("tables", settings.tables, TABLES), ("figures", settings.figures, FIGURES)):
        if odd := [number for number in wanted if number not in known]:
            raise BadInput(f"{word}=[{odd[0]}]: must be of {', '.join(map(str, known))}")
    halls, folder = gathered(settings, echo)
    assert_writable(folder)
    files: dict[str, bytes] = {}
    details: dict[str, list[dict[str, Any]]] = {"tables": [], "numbers": [], "figures": []}
    for number in dict.fromkeys(settings.tables):
        found, about = table(number, halls)
        details["tables"].append(about)
        details["numbers"] += found
        text = tables.paper_table(details, number)
        echo(text)
        if not any(each["kind"] == tables.MEASURED for each in found):
            echo(f"table {number}: has no row for these systems, or no such scenes, in the {settings.split} split")
        files |= {
            f"table-{number}.md": text.encode(),
            f"table-{number}.csv": comma_separated(tables.FIELDS, found).encode(),
        }
    for number in dict.fromkeys(settings.figures):
        for hall in halls:
            name = f"figure-{number}" + (f"-{hall.dataset}" if len(halls) > 1 else "")
            if isinstance(made := plates.drawn(number, hall), str):
                echo(f"{name.replace('-', ' ', 1)}: {made}")
                continue
            plate, of = made
            files |= {f"{name}.png": figures.png(plate), f"{name}.pdf": figures.pdf(plate)}
            details["figures"].append(of)
    shown = [each for hall in halls for each in hall.shown]
    report = EvaluationReport(
        kind="paper",
        title="tables and figures of the paper",
        split=settings.split,
        protocols=list(
            dict.fromkeys(each["protocol"] for each in details["numbers"] if each["kind"] != tables.PUBLISHED)
        ),
        source={"comparison": settings.comparison or None, "study": settings.study or None},
        systems=[SystemReport(each.system, SYSTEM, [], each.contender.uri) for each in shown],
        checkpoints=[_record(each) for each in shown],
        details=details,
    )
    written = write_results(folder, report, files)
    echo("written:\n" + "\n".join(f"  {file}" for file in written.files))
    return written


def _record(shown: Shown) -> dict[str, Any]:
    best = shown.contender
    about = {"system": shown.system, "study": shown.study, "dataset": best.run.dataset.name}
    return about | {"uri": best.uri, "parameters": best.params}


def gathered(settings: Evaluate, echo: Echo) -> tuple[list[Hall], str]:
    """The systems of `comparison=` or `study=` in a hall for each dataset, and the folder for what is made of them."""
    home = settings.home.rstrip("/")
    if bool(settings.comparison) == bool(settings.study):
        raise BadInput("tables= and figures= need comparison=NAME (of raymix.compare), or study=NAME")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.study:
        source = Source.find(settings)
        found = [Shown(str(e.run.method["name"]), source.study.name, e) for e in choose(settings, source, echo)[:1]]
        return [Hall(found, settings.split, device)], settings.output or f"{source.uri}/evaluation/paper"
    listed = settings.comparison.strip().removeprefix("[").removesuffix("]")
    names = list(dict.fromkeys(each.strip() for each in listed.split(",") if each.strip()))
    halls: dict[str, tuple[str, Hall]] = {}  # by dataset, with the first comparison that is of it
    for name in names:
        shown = _of_comparison(settings, name, echo)
        first, hall = halls.setdefault(shown[0].contender.run.dataset.name, (name, Hall([], settings.split, device)))
        keys = [repr(Bench.key(each.contender.run)) for each in (*hall.shown[:1], shown[0])]
        if len(set(keys)) > 1:
            raise BadInput(
                f"comparison={settings.comparison}: {first} and {name} are of one dataset, on different scenes: "
                f"{'; '.join(sorted(keys))}"
            )
        known = {each.contender.uri for each in hall.shown}
        hall.shown.extend(each for each in shown if each.contender.uri not in known)
    short = "-and-".join(name.rstrip("/").rpartition("/")[2] for name in names)
    where = f"{_place(settings, names[0])}/paper" if len(names) == 1 else f"{home}/evaluations/paper-{short}"
    return [hall for _, hall in halls.values()], settings.output or where


def _place(settings: Evaluate, comparison: str) -> str:
    """The folder of a comparison that is given by its name, its path or its URI."""
    if "://" in comparison or comparison.startswith(("/", "~")):
        return os.path.expanduser(comparison).rstrip("/")
    return f"{settings.home.rstrip('/')}/comparisons/{comparison}"


def _of_comparison(settings: Evaluate, name: str, echo: Echo) -> list[Shown]:
    """The systems of one comparison that have a checkpoint, all on the same scenes; BadInput or Nothing where not."""
    place = _place(settings, name)
    filesystem, path = resolve(place)
    try:
        studies = compared_checkpoints(json.loads(get(filesystem, f"{path}/comparison.json")))
    except (OSError, ValueError, KeyError):
        raise BadInput(f"comparison={name}: no comparison.json in {place}") from None
    shown = []
    for each in studies:
        if each["uri"]:
            one = Evaluate(home=settings.home, checkpoint=each["uri"])
            (contender,) = choose(one, Source.find(one), echo)
            shown.append(Shown(each["system"], each["study"], contender))
    if not shown:
        raise Nothing(f"comparison={name}: no system has a usable checkpoint")
    keys = {repr((each.contender.run.dataset.name, *Bench.key(each.contender.run))) for each in shown}
    if len(keys) > 1:
        raise BadInput(f"comparison={name}: its studies are of different scenes: {'; '.join(sorted(keys))}")
    return shown


def table(number: int, halls: list[Hall]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the numbers of a table of the paper, and what else its report says: why columns are blank, and notes."""
    paper, measured, notes = TABLES[number], list[Measured](), list[str]()
    absent: dict[tuple[str, str], str] = {}
    for hall in halls:
        for part in tables.parts(paper, hall.dataset):
            act = hall.of(part.layout, part.subset, part.fewer)
            if isinstance(act, str):
                absent[part.dataset, part.layout] = act
            elif not act.truth.has_truth_N.any():
                absent[part.dataset, part.layout] = f"the {hall.split} split has no regions for these scenes"
            else:
                measured += rows(paper, part, hall, act)
                notes += [f"{part.head}: {note}" for note in act.notes]
    for part in paper.parts:
        if part.dataset not in {hall.dataset for hall in halls}:
            absent[part.dataset, part.layout] = f"no system here was trained on {part.dataset}"
    blank = [{"dataset": dataset, "layout": layout, "reason": why} for (dataset, layout), why in absent.items()]
    return tables.whole(paper, measured), {"table": number, "absent": blank, "notes": notes}


def rows(paper: PaperTable, part: Part, hall: Hall, act: Act) -> list[Measured]:
    """Scores of the systems of a table on the scenes of a part, with their controls and the baselines.

    Each system has a control with shuffled audio; the paper's own method (else the first) also those with silent audio,
    without training, and with its mean training map.
    """
    called = {system: row for row, system, _ in paper.rows}
    shown = [each for each in hall.shown if each.system in called]
    lines = [(each, Control.NONE, each.system) for each in shown]
    if act.other_N is not None:
        shuffled = Control.SHUFFLED_AUDIO
        lines += [(each, shuffled, f"{called[each.system]}, {shuffled}") for each in shown]
    best = next((each for each in shown if each.system == OURS), next(iter(shown), None))
    if best:
        silent, untrained = Control.SILENT_AUDIO, Control.UNTRAINED_NETWORK
        lines += [(best, silent, f"{called[best.system]}, {silent}"), (best, untrained, untrained.value)]
    lone = of_one_source(act)
    found = []
    for each, control, name in lines:
        own = held(hall.maps(each, act, control), act.truth, part.protocol)
        summary = summarise(score(own.maps_NMHW, act.truth, own.protocol, own.classes), hall.seed)
        found.append(Measured(name, hall.dataset, summary, each.study, control is not Control.NONE, own.starred, lone))
    mean_HW = hall.mean(best, act) if best else None
    for name, maps in baseline_heatmaps(act.truth, mean_HW).items():
        summary = summarise(score(maps, act.truth, named(part.protocol)), hall.seed)
        study = best.study if best and name == "mean training map" else ""
        found.append(Measured(name, hall.dataset, summary, study, null=True, starred=False, one_source=lone))
    return found


def of_one_source(act: Act) -> int:
    """How many scenes of several sources have but one."""
    masks_NSYX = act.truth.masks_NSYX
    if masks_NSYX is None or masks_NSYX.shape[1] < 2:
        return 0
    return int((masks_NSYX.any(axis=(2, 3)).sum(axis=1) == 1).sum())
