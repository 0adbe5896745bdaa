"""The paper's tables and figures of one's own systems: from checkpoints to files, with what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymix.cli.commands import compose_config
from raymix.config import ConfigError, DatasetConfig, EvaluateConfig, EvaluationConfig
from raymix.data.batches import HeatMaps
from raymix.evaluation import baselines, paper
from raymix.evaluation.baselines import Control, untrained_method
from raymix.evaluation.dispatch import run_evaluation
from raymix.evaluation.paper import SystemEntry, SystemPredictions, maps_to_score, mean_source_iou
from raymix.evaluation.scene_spec import SceneSpec
from raymix.evaluation.validation import CandidateCheckpoint
from raymix.methods import METHODS, method_from_config
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.reporting import paper_figures, paper_tables
from raymix.reporting.figures import ScenePicture
from tests.unit.evaluation.test_evaluate import a_run, a_study, clips

pytestmark = pytest.mark.slow  # fixtures of the module take more than 5 s

__all__ = ["clips"]
SYSTEMS = ("ots", "cycle", "dsol")
DEAF = {
    "Ours, shuffled audio",
    "OTS, shuffled audio",
    "Hu et al., shuffled audio",
    "Ours, silent audio",
    "untrained network",
    "mean training map",
    "full frame",
    "radial prior",
    "oracle area",
    "random panels",
} | {f"centre box {side}" for side in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}


def a_comparison(
    place: Path, name: str, dataset: DatasetConfig, systems: tuple[str, ...], final_scenes: int = 10
) -> None:
    """A comparison of systems whose studies hold untrained networks."""
    studies = []
    for system in systems:
        knobs = {"temperature": 0.07} if system == "cycle" else {"clusters": 4} if system == "dsol" else {}
        method = {"name": system, "embedding_size": 16, **knobs}
        run = replace(a_run(dataset), method=method, evaluation=EvaluationConfig(scenes=12, final_scenes=final_scenes))
        uri = a_study(place / f"{name}-{system}", run, (0,))
        where = f"{uri}/checkpoints/trial-0000/epoch-0002"
        studies.append({"system": system, "study": f"{name}-{system}-0", "checkpoint": where})
    studies.append({"system": "dmc", "study": f"{name}-dmc-0", "checkpoint": None})  # gave nothing
    (place / "comparisons" / name).mkdir(parents=True)
    (place / "comparisons" / name / "comparison.json").write_text(json.dumps({"studies": studies}))


@pytest.fixture(scope="module")
def home(clips: DatasetConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three comparisons, the last two of clips that pass for two datasets of the paper."""
    place = tmp_path_factory.mktemp("home")
    a_comparison(place, "mine", clips, SYSTEMS)
    a_comparison(place, "vi", replace(clips, name="vggsound_instruments"), ("cycle",), 8)
    a_comparison(place, "vox", replace(clips, name="voxceleb2"), ("cycle", "ots"), 8)
    return place


@pytest.fixture(scope="module")
def made(home: Path) -> tuple[Path, dict[str, Any], list[str]]:
    settings = EvaluateConfig(home=str(home), comparison="mine", tables=[1, 3], figures=[4, 6, 8])
    report = run_evaluation(settings, lambda line: None)
    folder = home / "comparisons/mine/paper"
    assert report.folder == str(folder)
    return folder, json.loads((folder / "scores.json").read_text()), [os.path.basename(file) for file in report.files]


def test_tables_and_figures_of_a_comparison(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    folder, scores, names = made
    written = ["table-1.md", "table-1.csv", "table-3.md", "table-3.csv"]
    assert names == ["scores.json", *written] + [f"figure-{n}.{kind}" for n in (4, 6, 8) for kind in ("png", "pdf")]
    assert list(scores)[:4] == ["schema_version", "raymix", "written", "kind"] and scores["split"] == "test"
    numbers = scores["details"]["numbers"]
    own = {(n["table"], n["system"], n["layout"], n["metric"]): n for n in numbers if n["kind"] == "measured"}
    assert {system for _, system, *_ in own} == set(SYSTEMS)
    assert own[1, "cycle", "grid2x2", "cap"]["star"] and own[3, "cycle", "grid2x2", "cap"]["star"]
    assert not own[1, "ots", "grid2x2", "ciou@0.3"]["star"] and (3, "ots", "grid2x2", "cap") not in own
    single = own[1, "ots", "single", "ap"]
    assert (single["protocol"], single["scenes"]) == ("mixloc-single", 10)
    assert sum(n["kind"] == "published" for n in numbers if n["table"] == 1) == 7 * 11 - 4 * 5  # of no dataset here
    text = (folder / "table-1.md").read_text()
    assert "Ours, mine-cycle-0" in text and "MUSIC-Solo: nothing measured: no system here was trained on music" in text
    for name in names[5:]:
        head = (folder / name).read_bytes()[:4]
        assert head == (b"\x89PNG" if name.endswith("png") else b"%PDF")


def test_all_null_systems_stand_in_every_table_and_warn(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    folder, scores, _ = made
    for number, missing in ((1, set()), (3, {"OTS, shuffled audio", "Hu et al., shuffled audio"})):
        own = [each for each in scores["details"]["numbers"] if each["table"] == number and each["dataset"] == "demo"]
        nulls = [each for each in own if each["kind"] == "null"]
        assert {each["row"] for each in nulls} == DEAF - missing
        text = (folder / f"table-{number}.md").read_text()
        assert all(f"| null: {name}" in text for name in DEAF - missing)
        signs = set()
        for each in own:
            if each["kind"] == "measured":
                column = ("layout", "metric")
                best = max(n["value"] for n in nulls if all(n[key] == each[key] for key in column))
                one_video = each["low"] is None  # then there is no interval that a null could lie outside of
                wanted = "†" if one_video or each["low"] <= best <= each["high"] else "‡" if best > each["high"] else ""
                assert each["mark"] == wanted
                signs.add(wanted)
        assert "‡" in signs and "‡ the best baseline or control is above this interval" in text
    of = {(each["row"], each["layout"]): each for each in scores["details"]["numbers"] if each["metric"] == "cap"}
    hears, deaf = of["Ours", "grid2x2"], of["Ours, shuffled audio", "grid2x2"]
    assert deaf["star"] and deaf["value"] != hears["value"] and deaf["scenes_hash"] == hears["scenes_hash"]
    assert of["untrained network", "grid2x2"]["note"] == of["mean training map", "grid2x2"]["note"] == "mine-cycle-0"


def test_why_nothing_was_measured_stands_in_the_table(clips: DatasetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    music = replace(clips, name="music", subset="solo")
    asked, of = [], SystemPredictions.of
    monkeypatch.setattr(SystemPredictions, "of", lambda self, *what: asked.append(what) or of(self, *what))
    found, about = paper.fill_paper_table(3, [make_predictions(music, {"cycle": right})])
    text = paper_tables.paper_table({"tables": [about], "numbers": found}, 3)
    assert asked[-2:] == [("grid2x2", "solo", False), ("natural", "duet", True)]  # of the duet every annotated frame
    told = (
        f"- MUSIC-Duet: nothing measured: no clips of dataset.subset=duet are prepared beside {clips.prepared}: python "
    )
    assert told in text
    assert {each["layout"] for each in found if each["kind"] == "measured"} == {"grid2x2"}
    assert "### " not in text

    def too_few(*_: Any) -> None:
        raise ValueError("a scene needs 4 clips\nof different videos")

    monkeypatch.setattr(SceneSpec, "compose", too_few)
    predictions = SystemPredictions(systems(clips, ["cycle"]), "test", "cpu")
    found, about = paper.fill_paper_table(3, [predictions])
    text = paper_tables.paper_table({"tables": [about], "numbers": found}, 3)
    assert "- demo, grid2x2: nothing measured: a scene needs 4 clips of different videos\n" in text
    assert paper.draw_paper_figure(5, predictions) == "a scene needs 4 clips of different videos"
    assert {each["kind"] for each in found} == {"published"}


def test_what_stands_beside_a_system_cannot_have_listened(
    clips: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    (shown,) = systems(clips, ["cycle"])
    trained = method_from_config(shown.candidate.run, pretrained=False)
    predictions = SystemPredictions([replace(shown, candidate=replace(shown.candidate, method=trained))], "test", "cpu")
    scene_set, heard = predictions.of("hconcat"), {}
    assert not isinstance(scene_set, str) and scene_set.other_N is not None

    def predict(method: Any, scenes: Any, device: str) -> HeatMaps:
        heard[how] = method, scenes.mixture_NTF
        return HeatMaps(torch.zeros(0))

    monkeypatch.setattr(baselines, "predict_scene_heatmaps", predict)
    for how in Control:
        predictions.maps(predictions.entries[0], scene_set, how)
        predictions.maps(predictions.entries[0], scene_set, how)  # each once
    own = scene_set.scenes.mixture_NTF
    assert all(
        method is trained
        for method, _ in (heard[Control.NONE], heard[Control.SHUFFLED_AUDIO], heard[Control.SILENT_AUDIO])
    )
    assert torch.equal(heard[Control.NONE][1], own) and torch.equal(heard[Control.UNTRAINED_NETWORK][1], own)
    assert not heard[Control.SILENT_AUDIO][1].any() and torch.equal(
        heard[Control.SHUFFLED_AUDIO][1], own[scene_set.other_N]
    )
    fresh = untrained_method(shown.candidate.run).state_dict()
    assert heard[Control.UNTRAINED_NETWORK][0] is not trained
    assert all(
        torch.equal(value, fresh[name]) for name, value in heard[Control.UNTRAINED_NETWORK][0].state_dict().items()
    )


def test_figures_say_by_which_protocol_and_of_which_scenes(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, scores, _ = made
    drawn = {each["figure"]: each for each in scores["details"]["figures"]}
    hashes = {
        each["layout"]: each["scenes_hash"] for each in scores["details"]["numbers"] if each["kind"] == "measured"
    }
    assert [drawn[n]["protocols"] for n in (4, 6, 8)] == [["mixloc-multi"], [], ["mixloc-single"]]
    assert [drawn[n]["scenes_hash"] for n in (4, 8)] == [hashes["grid2x2"], hashes["single"]]
    assert drawn[4]["systems"] == [f"mine-{system}-0" for system in SYSTEMS] and drawn[6]["systems"] == ["mine-cycle-0"]


def systems(clips: DatasetConfig, names: list[str]) -> list[SystemEntry]:
    run = replace(a_run(clips), evaluation=EvaluationConfig(scenes=12, final_scenes=10))
    of = {name: CandidateCheckpoint(name, name, METHODS["cycle"], run, 1, None, None, {}, {}) for name in names}  # type: ignore[arg-type]
    return [SystemEntry(name, f"of-{name}", each) for name, each in of.items()]


def make_predictions(clips: DatasetConfig, heatmaps: dict[str, Any]) -> SystemPredictions:
    """Systems that say what they are told to, with ears or without."""
    predictions = SystemPredictions(systems(clips, list(heatmaps)), "test", "cpu")
    for layout in ("hconcat", "grid2x2"):
        scene_set = predictions.of(layout)
        assert not isinstance(scene_set, str)
        for name, says in heatmaps.items():
            maps = says(scene_set.truth)
            predictions.heatmaps.update({(name, scene_set.scenes.hash, how): maps for how in Control})
            predictions.means[name, scene_set.scenes.hash] = None
    return predictions


def right(truth: SceneGroundTruth, worst: int | None = None) -> HeatMaps:
    """The truth as a map for each source; of the scene `worst` nothing."""
    assert truth.masks_NSYX is not None
    maps_NSYX = truth.masks_NSYX.astype(np.float32)
    if worst is not None:
        maps_NSYX[worst] = 0
    return HeatMaps(torch.from_numpy(maps_NSYX))


def pictures_of(
    monkeypatch: pytest.MonkeyPatch, number: int, predictions: SystemPredictions
) -> tuple[list[dict[str, ScenePicture]], str]:
    kept: list[Any] = []
    monkeypatch.setattr(paper_figures, "draw_system_rows", lambda rows, heading: kept.extend([rows, heading]))
    found = paper.draw_paper_figure(number, predictions)
    assert not isinstance(found, str)
    return kept[0], kept[1]


def test_figures_hold_maps_against_sources_as_the_tables_do(
    clips: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One map against both sources; maps with names by them; all cut at 0.4, which raymix-1 is not."""

    def one(truth: SceneGroundTruth) -> HeatMaps:
        return HeatMaps(0.45 * right(truth).maps_NMHW[:, :1] + right(truth).maps_NMHW[:, 1:])

    def by_name(truth: SceneGroundTruth) -> HeatMaps:
        assert truth.labels is not None
        names = sorted({name for names in truth.labels for name in names})
        maps = torch.zeros(len(truth), len(names) + 1, *truth.canvas)
        for scene, labels in enumerate(truth.labels):
            maps[scene, names.index(labels[1])] = right(truth).maps_NMHW[scene, 1]  # the first source has none
        return HeatMaps(maps, [*names, "noise"], torch.zeros(maps.shape[:2]))

    predictions = make_predictions(clips, {"ots": one, "dsol": by_name, "cycle": right})
    rows, heading = pictures_of(monkeypatch, 3, predictions)
    scene_set = predictions.of("hconcat")
    assert not isinstance(scene_set, str) and f"scenes {scene_set.truth.scenes_hash}" in heading
    assert "mixloc-multi and mixloc-multi-named (by class names)" in heading
    for row in rows:
        at = scene_set.truth.ids.index(row["ots"].title)
        left, both = (
            float(each) for each in (scene_set.truth.masks_NSYX[at, 0].sum(), scene_set.truth.masks_NSYX[at].sum())
        )
        assert row["ots"].maps_MHW.shape[0] == 1 and row["ots"].map_S == (0, 0)
        assert row["ots"].iou_S == pytest.approx((left / both, 1 - left / both))
        table = maps_to_score(predictions.maps(predictions.entries[0], scene_set), scene_set.truth, "mixloc-multi")
        assert table.maps_NMHW.shape[1] == 2 and not table.starred
        assert row["dsol"].maps_MHW.shape[0] == 2 and row["dsol"].iou_S == pytest.approx((0, 1))
        assert row["dsol"].maps_MHW[1].any() and not row["dsol"].maps_MHW[0].any() and row["dsol"].map_S == (0, 1)
        assert row["cycle"].iou_S == pytest.approx((1, 1))


def test_failures_are_those_of_the_papers_method(clips: DatasetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    heatmaps = {"cycle": lambda truth: right(truth, 7), "ots": lambda truth: right(truth, 8)}
    rows, heading = pictures_of(monkeypatch, 4, make_predictions(clips, heatmaps))
    assert rows[-2]["cycle"].title.endswith("00007") and heading.endswith("; the last 2 are the worst of cycle")
    del heatmaps["cycle"]
    rows, heading = pictures_of(monkeypatch, 3, make_predictions(clips, heatmaps))
    assert rows[-1]["ots"].title.endswith("00008") and heading.endswith("; the last is the worst of ots")


def test_comparisons_of_several_datasets_fill_one_table(home: Path) -> None:
    report = run_evaluation(
        EvaluateConfig(home=str(home), comparison="vi,vox", tables=[2], figures=[8, 4]), (told := []).append
    )
    assert report.folder == str(home / "evaluations/paper-vi-and-vox")
    names = [os.path.basename(file) for file in report.files]
    assert {"figure-8-voxceleb2.png", "figure-8-vggsound_instruments.png", "table-2.md"} <= set(names)
    numbers = report.scores["details"]["numbers"]
    measured = [each for each in numbers if each["kind"] == "measured" and each["system"] == "cycle"]
    assert len(measured) == 14 and len({(each["dataset"], each["layout"]) for each in measured}) == 4
    assert sum(each["kind"] == "published" for each in numbers) == 42
    (line,) = [line for line in told[0].splitlines() if line.startswith("| Ours, vi-cycle-0 and vox-cycle-0")]
    assert all(cell.strip() for cell in line.split("|")[1:-1])
    assert "### " not in told[0] and "nothing measured" not in told[0]


def test_one_dataset_on_different_scenes_is_no_table(home: Path, clips: DatasetConfig) -> None:
    a_comparison(home, "again", replace(clips, name="voxceleb2", prepared=f"{clips.prepared}/"), ("cycle",))
    with pytest.raises(
        ConfigError, match="comparison=vox,again: vox and again are of one dataset, on different scenes"
    ):
        run_evaluation(EvaluateConfig(home=str(home), comparison="vox,again", tables=[2]), print)


def test_comparisons_are_named_as_people_write_them(home: Path, clips: DatasetConfig) -> None:
    a_comparison(home, "second", replace(clips, name="voxceleb2", prepared=f"{clips.prepared}/"), ("cycle",))
    for value in ("vox,second", "[vox, second]", "vox, second", f"{home}/comparisons/vox,second"):
        made = compose_config("evaluate", [f"comparison={value}", "tables=2"], None, str(home))
        assert made.tables == [2]
        with pytest.raises(ConfigError, match=r"vox and second are of one dataset, on different scenes"):
            run_evaluation(made, print)


@pytest.mark.filterwarnings("error")
def test_a_scene_without_truth_is_no_failure() -> None:
    iou_NS = np.array([[0.2, 0.4], [np.nan, np.nan], [np.nan, 0.1]])
    assert mean_source_iou(iou_NS).tolist() == pytest.approx([0.3, np.inf, 0.1])


def test_of_one_study(home: Path) -> None:
    settings = EvaluateConfig(home=str(home / "mine-ots"), study="small", tables=[3], figures=[6])
    report = run_evaluation(settings, (lines := []).append)
    assert [os.path.basename(file) for file in report.files] == ["scores.json", "table-3.md", "table-3.csv"]
    assert "figure 6: none of these systems (ots)" in lines
    assert "table 3: has no row for these systems, or no such scenes, in the test split" in lines
    run_evaluation(replace(settings, tables=[1], output=str(home / "one")), (lines := []).append)
    assert not any(line.startswith("table 1:") for line in lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"tables": [4]}, r"tables=\[4\]: must be of 1, 2, 3"),
        ({"figures": [1]}, r"figures=\[1\]: must be of 3, 4, 5, 6, 7, 8, 9"),
        ({"tables": [1]}, "need comparison=NAME"),
        ({"tables": [1], "comparison": "your"}, "comparison=your: no comparison.json in"),
        ({"tables": [1], "compare": ["a", "b"]}, "compare= and tables=: one at a time"),
    ],
)
def test_refusals(home: Path, words: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_evaluation(EvaluateConfig(home=str(home), **words), print)
