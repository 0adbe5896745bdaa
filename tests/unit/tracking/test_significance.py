"""Is a best score more than luck: false alarms and power on simulated studies, p-values by hand, ledgers old and new."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from raymix import leaderboard
from raymix.metrics.bootstrap import BootstrapClusters
from raymix.tracking.event_log import EventLog
from raymix.tracking.significance import (
    SceneVideos,
    ScoredOutcomes,
    SignificanceFinding,
    best_chance_score,
    design_effect,
    find_above_chance,
    p_values,
    pack_outcomes,
    scene_outcome_record,
    significance_sentences,
    study_significance,
    unpack_outcomes,
    window_means,
)

CHANCE, SCENES, VIDEOS = 1 / 6, 96, 15
METRIC = "val/sounding_accuracy"


class Simulated:
    """Scenes of which two of four videos sound, and studies of any success rates on them."""

    def __init__(self, seed: int, scenes: int = SCENES, videos: int = VIDEOS) -> None:
        self.rng = np.random.default_rng(seed)
        self.own = np.array([self.rng.choice(videos, 4, replace=False)[:2] for _ in range(scenes)])
        self.index_N = self.rng.permutation(scenes)
        self.units = SceneVideos.of(self.own.tolist(), self.index_N)
        self.videos = videos

    def rates(self, spread: float) -> tuple[np.ndarray, np.ndarray]:
        """Rates of success by scene around chance, own and shuffled audio: each video has luck of its own (its sd)."""
        found = []
        for pairs in (self.own, self.own[self.index_N]):
            raised = np.clip(CHANCE + self.rng.normal(0, spread, self.videos)[pairs].sum(axis=1), 0, 1)
            expected = np.clip(CHANCE + self.rng.normal(0, spread * 2**0.5, 50_000), 0, 1).mean()
            found.append(raised * CHANCE / expected)
        return found[0], found[1]

    def trial(self, number: int, epochs: int, real: Any = CHANCE, shuffled: Any = CHANCE) -> ScoredOutcomes:
        """Rates are of each scene or epoch: what broadcasts to (epochs, scenes)."""
        drawn = [self.rng.random((epochs, len(self.own))) < rate for rate in (real, shuffled)]
        return ScoredOutcomes(f"trial {number}", METRIC, self.units, CHANCE, range(1, epochs + 1), drawn[0], drawn[1])

    def finding(self, trials: list[ScoredOutcomes]) -> SignificanceFinding:
        found = find_above_chance(trials, "val", "try again")
        assert found is not None
        return found


def share_found(count: int, study: Any) -> tuple[float, float]:
    """Of so many simulated studies: the share in which something was found, and in which a score was above chance alone."""
    found = [study(seed) for seed in range(count)]
    return float(np.mean([each.found for each in found])), float(np.mean([each.p_chance < 0.05 for each in found]))


@pytest.mark.parametrize(
    ("trials", "epochs", "spread", "videos", "count"),
    [(8, 64, 0.0, 15, 60), (8, 64, 0.15, 15, 60), (2, 4, 0.15, 15, 200), (1, 1, 0.1, 15, 300), (4, 8, 0.1, 6, 200)],
)
def test_studies_at_chance_are_not_found(trials: int, epochs: int, spread: float, videos: int, count: int) -> None:
    def study(seed: int) -> SignificanceFinding:
        made = Simulated(seed, videos=videos)
        rates = [made.rates(spread) if spread else (CHANCE, CHANCE) for _ in range(trials)]
        return made.finding([made.trial(n, epochs, *rate) for n, rate in enumerate(rates)])

    found, above_chance = share_found(count, study)
    assert found <= 0.05
    assert above_chance <= 0.05 + 2 * (0.05 * 0.95 / count) ** 0.5


def test_maps_that_gain_without_the_audio_are_not_found() -> None:
    """Scenes that give themselves away raise real and shuffled scores alike: far above chance, but nothing listens."""
    studies = [Simulated(seed) for seed in range(60)]
    found = [each.finding([each.trial(n, 16, 0.35, 0.35) for n in range(4)]) for each in studies]
    assert all(each.p_chance < 1e-3 for each in found)
    assert np.mean([each.found for each in found]) <= 0.05
    assert "its shuffled-audio control" in next(each.headline for each in found if not each.found)


@pytest.mark.parametrize(
    ("trials", "epochs", "learned", "least"),
    [(8, 64, 10, 1.0), (8, 64, 4, 0.98), (8, 20, 3, 0.98), (2, 4, 1, 0.85), (1, 1, 1, 0.95)],
)
def test_a_learned_trial_is_found(trials: int, epochs: int, learned: int, least: float) -> None:
    """.45 against .17 in the last epochs of one trial; the others stay at chance."""

    def study(seed: int) -> SignificanceFinding:
        made = Simulated(seed)
        rising = np.where(np.arange(epochs) >= epochs - learned, 0.45, CHANCE)[:, None]
        return made.finding([made.trial(0, epochs, rising, 0.17), *(made.trial(n, epochs) for n in range(1, trials))])

    assert share_found(60, study)[0] >= least


def test_p_values_of_one_epoch_by_hand() -> None:
    """Scenes without a common video: the binomial tail, and a paired z-test; the larger counts."""
    made = SceneVideos.of([(f"a{n}", f"b{n}") for n in range(40)], np.roll(np.arange(40), 1))
    real, shuffled = np.zeros((1, 40), bool), np.zeros((1, 40), bool)
    real[0, :16], shuffled[0, 10:18] = True, True
    system = ScoredOutcomes("one", METRIC, made, CHANCE, [1], real, shuffled)
    chance_W, control_W, effect = p_values([system])
    assert effect == 1.0
    assert chance_W == pytest.approx([stats.binom.sf(15, 40, CHANCE)])
    difference = real[0].astype(int) - shuffled[0].astype(int)  # 10 times 1, 2 times -1
    assert control_W == pytest.approx([stats.norm.sf(0.2 / (difference.std(ddof=1) / 40**0.5))])
    found = find_above_chance([system], "val", "")
    assert found is not None and found.p == pytest.approx(max(chance_W[0], control_W[0]))
    assert (found.best, found.shuffled, found.scenes, found.videos) == (0.4, 0.2, 40, 80)
    twice = find_above_chance([system, system], "val", "")
    assert twice is not None and twice.p == pytest.approx(2 * found.p) and twice.epochs == 2


def test_too_few_videos_are_never_enough() -> None:
    made = SceneVideos.of([("a", "b"), ("c", "d")] * 50, np.roll(np.arange(100), 1))
    sure = ScoredOutcomes("one", METRIC, made, CHANCE, [1], np.ones((1, 100), bool), np.zeros((1, 100), bool))
    found = find_above_chance([sure], "val", "")
    assert found is not None and found.p == 1 / 16 and not found.found


def test_design_effect() -> None:
    rng = np.random.default_rng(0)
    alone = rng.random((200, 60)) < 0.3
    assert design_effect(alone, BootstrapClusters.of(np.arange(60))) == pytest.approx(1, abs=0.05)
    assert design_effect(alone, BootstrapClusters.of(np.repeat(np.arange(20), 3))) == pytest.approx(1, abs=0.06)
    threefold = np.repeat(rng.random((200, 20)) < 0.3, 3, axis=1)  # three equal scenes of a video are worth one
    assert design_effect(threefold, BootstrapClusters.of(np.repeat(np.arange(20), 3))) == pytest.approx(3, abs=0.15)
    assert design_effect(np.zeros((4, 6)), BootstrapClusters.of(np.arange(6))) == 1.0  # no variance
    assert design_effect(alone[:, :6], BootstrapClusters.of(np.zeros(6))) == 1.0  # one video: nothing to estimate from


def test_windows_are_epochs_and_means_of_powers_of_two() -> None:
    values = np.arange(5.0)[:, None]
    assert window_means(values).ravel().tolist() == [0, 1, 2, 3, 4, 0.5, 2.5, 1.5]


def test_reach_is_what_the_best_of_many_stays_below() -> None:
    rng = np.random.default_rng(1)
    best = rng.binomial(SCENES, CHANCE, (4000, 64)).max(axis=1) / SCENES
    limit = best_chance_score(SCENES, CHANCE, 64)
    assert 0.25 < limit < 0.32 and (best > limit).mean() <= 0.05 < (best > limit - 0.02).mean()
    values = [best_chance_score(SCENES, CHANCE, epochs) for epochs in (1, 8, 64, 512)]
    assert all(low < high for low, high in pairwise(values))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 96, 100])
def test_outcomes_are_packed(count: int) -> None:
    success = np.random.default_rng(count).random(count) < 0.4
    text = pack_outcomes(success)
    assert len(text) == 2 * -(-count // 8) and np.array_equal(unpack_outcomes(text, count), success)
    with pytest.raises(ValueError, match=r"outcomes of \d+ scenes"):
        unpack_outcomes(text, count + 8)


def a_study(
    root: Path, trials: list[ScoredOutcomes], made: Simulated, outcomes: bool = True, **config: Any
) -> EventLog:
    """A study's event_log as a search writes it; without outcomes as older versions did."""
    event_log = EventLog(str(root / "studies/mine"))
    about = {"name": "mine", "objective": METRIC, "mode": "max", "planned": len(trials), "space_hash": "x", "seed": 0}
    event_log.append("study", {**about, "config": config})
    if outcomes:
        event_log.append("scenes", scene_outcome_record(METRIC, CHANCE, "abc", made.own.tolist(), made.index_N))
    for number, trial in enumerate(trials):
        event_log.append("trial_started", {"trial": number, "params": {"training.batch_size": 12}})
        for place, epoch in enumerate(trial.epochs):
            real, shuffled = trial.real_EN[place], trial.shuffled_EN[place]
            metrics = {METRIC: float(real.mean()), f"{METRIC}_shuffled": float(shuffled.mean())}
            of = {"outcomes": {"scenes_hash": "abc", "real": pack_outcomes(real), "shuffled": pack_outcomes(shuffled)}}
            event_log.append(
                "epoch_scored", {"trial": number, "epoch": epoch, "metrics": metrics} | (of if outcomes else {})
            )
        event_log.append("trial_ended", {"trial": number, "state": "completed"})
    return event_log


CONFIG = {
    "evaluation": {"scenes": SCENES},
    "training": {"epochs": 16},
    "method": {"name": "cycle"},
    "dataset": {"prepared": "/clips/mine"},
}


def said(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> str:
    assert leaderboard.main(["mine", "--root", str(root), *words]) == 0
    return capsys.readouterr().out


def test_a_leaderboard_says_that_nothing_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Simulated(3)
    trials = [made.trial(n, 16) for n in range(2)]
    event_log = a_study(tmp_path, trials, made, **CONFIG)
    best = max(float(each.real_EN.mean(axis=1).max()) for each in trials)
    last = said(capsys, tmp_path).splitlines()[-1]
    assert last.startswith(f"warning: no trial is above chance on the val split: best {METRIC} {best:.3f} (trial ")
    assert " with shuffled audio) on 96 scenes of 15 videos, where chance is 0.167 and the best of 32 epochs " in last
    assert last.endswith(
        "; try a new study with longer training (training.epochs=32) or another method (method=corre), or check the data "
        "(python -m raymix.prepare inspect=/clips/mine)"
    )
    (document,) = json.loads(said(capsys, tmp_path, "--json"))
    assert document["above_chance"]["found"] is False and document["above_chance"]["sentence"] == last
    found = study_significance(event_log.read())
    whole = find_above_chance(trials, "val", "")
    assert found is not None and whole is not None and (found.p, found.best) == (whole.p, whole.best)


def test_a_leaderboard_of_a_learned_study_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Simulated(4)
    a_study(tmp_path, [made.trial(0, 8, 0.5), made.trial(1, 8)], made, **CONFIG)
    assert "warning" not in said(capsys, tmp_path)
    assert json.loads(said(capsys, tmp_path, "--json"))[0]["above_chance"]["found"] is True


def test_an_old_ledger_is_judged_by_its_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Simulated(5)
    flat = a_study(tmp_path / "flat", [made.trial(n, 16) for n in range(2)], made, outcomes=False, **CONFIG)
    assert " on 96 scenes, where chance is 0.167" in said(capsys, tmp_path / "flat").splitlines()[-1]
    found = study_significance(flat.read())
    assert found is not None and found.videos is None and not found.found
    a_study(tmp_path / "good", [made.trial(0, 8, 0.5)], made, outcomes=False, **CONFIG)
    assert "warning" not in said(capsys, tmp_path / "good")
    a_study(tmp_path / "bare", [made.trial(0, 8)], made, outcomes=False)  # how many scenes is unknown
    assert "warning" not in said(capsys, tmp_path / "bare")


def test_an_old_study_that_goes_on_is_judged_by_all_its_means(tmp_path: Path) -> None:
    made = Simulated(6)
    event_log = a_study(tmp_path, [made.trial(0, 4)], made, **CONFIG)
    event_log.append("epoch_scored", {"trial": 0, "epoch": 5, "metrics": {METRIC: 0.3, f"{METRIC}_shuffled": 0.1}})
    found = study_significance(event_log.read())
    assert found is not None and (found.epochs, found.best, found.where) == (5, 0.3, "trial 0, epoch 5")


def test_failed_trials_do_not_count_and_an_unfinished_study_says_so_far(tmp_path: Path) -> None:
    made = Simulated(7)
    event_log = a_study(tmp_path, [made.trial(0, 4)], made, **CONFIG)
    event_log.append("extended", {"planned": 3})
    good = made.trial(1, 4, 0.9)
    for epoch in range(4):
        of = {
            "scenes_hash": "abc",
            "real": pack_outcomes(good.real_EN[epoch]),
            "shuffled": pack_outcomes(good.shuffled_EN[epoch]),
        }
        event_log.append("epoch_scored", {"trial": 1, "epoch": epoch + 1, "metrics": {METRIC: 0.9}, "outcomes": of})
    found = study_significance(event_log.read())
    assert found is not None and found.found and significance_sentences(event_log.read()) == []
    event_log.append("trial_ended", {"trial": 1, "state": "failed"})
    (sentence,) = significance_sentences(event_log.read())
    assert "on the val split so far: best" in sentence and "(trial 0," in sentence
