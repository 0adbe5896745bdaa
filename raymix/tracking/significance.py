"""Significance of a study's scores: above chance, and above the same checkpoint with shuffled audio?

The best of many epochs of many trials is the largest of many noisy numbers: 64 epochs of a network that has learned nothing
have one at .25 where chance is .167. So each epoch, and the mean of each 2, 4, 8, ... consecutive epochs of a trial, is tested
twice, one-sided: against chance, and against its own shuffled-audio control. Of both p-values the larger counts, and the
smallest of all is multiplied by the number of tests (Bonferroni). Scenes of one video are not independent of each other: the
number of scenes is divided by the design effect (Kish, 1965) of scenes that share a video, as their residuals show it. Fewer
than 5 videos are never enough: no test that takes the video as its unit goes below p = 2^-videos.

Simulated (tests/unit/tracking/test_significance.py): of studies at chance, 64 epochs by 8 trials, at most 5 % pass; a model of .45 against
.17 on 96 scenes of 15 videos is recognised once a few of its epochs are that good. Needs neither torch nor Ray.
Axes: E epochs, N scenes, W windows of epochs, C combinations of videos, V videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import betainc, ndtr

from raymix.metrics.bootstrap import BootstrapClusters
from raymix.tracking.study import SHUFFLED_SUFFIX, StudyState, TrialRecord

SIGNIFICANCE_LEVEL = 0.05

_ROWS = 256  # rows of residuals that the design effect is estimated from

_CHANCE = {"sounding_accuracy": 1 / 6, "solo2x2/sounding_accuracy": 1 / 4}  # two of four panels sound, or one


def pack_outcomes(success_N: np.ndarray) -> str:
    """Successes of N scenes as hexadecimal digits, four scenes each."""
    return np.packbits(np.asarray(success_N, bool)).tobytes().hex()


def unpack_outcomes(text: str, count: int) -> np.ndarray:
    """The successes of `count` scenes, bool (N,); ValueError where the text is of another number of scenes."""
    bits_N = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    if len(bits_N) != (count + 7) // 8 * 8:
        raise ValueError(f"outcomes of {len(bits_N)} scenes where {count} are expected")
    return bits_N[:count].astype(bool)


def scene_outcome_record(
    metric: str, chance: float, scenes_hash: str, videos: Sequence[Sequence[str]], index_N: np.ndarray
) -> dict[str, Any]:
    """The `scenes` record of a event log: what the outcomes of every epoch on these scenes share.

    Args: the videos that sound in each scene, and the scene whose audio each scene gets in the control. The videos are
    written as numbers.
    """
    names = {name: number for number, name in enumerate(sorted({name for row in videos for name in row}))}
    return {
        "scenes_hash": scenes_hash,
        "metric": metric,
        "chance": chance,
        "videos": [[names[name] for name in row] for row in videos],
        "shuffled": [int(index) for index in index_N],
    }


@dataclass(frozen=True, eq=False)
class SceneVideos:
    """The videos that sound in each of N scenes, with its own audio and with the audio of its control."""

    own: BootstrapClusters
    shuffled: BootstrapClusters

    @staticmethod
    def of(videos: Sequence[Sequence[Any]], index_N: Sequence[int] | np.ndarray) -> SceneVideos:
        """From the videos of each scene and the scene whose audio each gets in the control."""
        named = [tuple(map(str, row)) for row in videos]
        return SceneVideos(BootstrapClusters.of(named), BootstrapClusters.of([named[index] for index in index_N]))


@dataclass(frozen=True, eq=False)
class ScoredOutcomes:
    """Successes of one system on N scenes in E epochs, bool (E, N), with their own audio and with shuffled audio."""

    system: str
    metric: str
    units: SceneVideos
    chance: float
    epochs: Sequence[int]
    real_EN: np.ndarray
    shuffled_EN: np.ndarray


@dataclass(frozen=True)
class SignificanceFinding:
    """Whether any system is above chance and above its shuffled-audio control, and the numbers behind it.

    `p` is of both together, `p_chance` of chance alone. `best`, `shuffled` and `where` are of the epoch with the highest
    score. `videos` is None for ledgers without the outcomes of each scene. `reach` is what the best of so many epochs stays
    below, with 95 % probability, where nothing was learned.
    """

    p: float
    p_chance: float
    metric: str
    split: str
    best: float
    shuffled: float
    chance: float
    where: str
    scenes: int
    videos: int | None
    epochs: int
    reach: float
    advice: str
    finished: bool = True

    @property
    def found(self) -> bool:
        return self.p < SIGNIFICANCE_LEVEL

    def record(self) -> dict[str, Any]:
        """Plain values for JSON, with the sentence."""
        return {"found": self.found, **asdict(self), "sentence": self.sentence}

    @property
    def headline(self) -> str:
        """What was not found, in a few words for a picture; '' where something was."""
        if self.found:
            return ""
        system = "trial" if self.split == "val" else "checkpoint"
        above = "chance" if self.p_chance >= SIGNIFICANCE_LEVEL else "its shuffled-audio control"
        return f"no {system} is above {above} on the {self.split} split"

    @property
    def sentence(self) -> str:
        """The same with the numbers and what to try; '' where something was found."""
        if self.found:
            return ""
        of = f"{self.scenes} scenes" + (f" of {self.videos} videos" if self.videos else "")
        chance = f"chance is {self.chance:.3f}"
        if self.epochs > 1:
            many = f"{self.epochs} {'epochs' if self.split == 'val' else 'checkpoints'}"
            chance += f" and the best of {many} without learning reaches up to {self.reach:.3f}"
        return (
            f"warning: {self.headline}{'' if self.finished else ' so far'}: best {self.metric} {self.best:.3f} "
            f"({self.where}; {self.shuffled:.3f} with shuffled audio) on {of}, where {chance}; {self.advice}"
        )


def search_advice(config: Mapping[str, Any]) -> str:
    """What to try when nothing was found, in the words of a command line; `config` is the study's, or empty."""
    epochs = config.get("training", {}).get("epochs")
    method = config.get("method", {}).get("name")
    prepared = config.get("dataset", {}).get("prepared")
    longer = f" (training.epochs={2 * epochs})" if epochs else " (training.epochs=)"
    other = "cycle" if method == "corre" else "corre"
    return (
        f"try a new study with longer training{longer} or another method (method={other}), or check the data "
        f"(python -m raymix.prepare inspect={prepared or 'FOLDER'})"
    )


def design_effect(values_RN: np.ndarray, units: BootstrapClusters) -> float:
    """How many times larger the variance of a mean over scenes is than if all scenes were independent; at least 1.

    Scenes that share a video may depend on each other, others do not. Each row is one sample of the same scenes.
    """
    values_RN = values_RN[:: -(-len(values_RN) // _ROWS)].astype(np.float64)
    residual_RN = values_RN - values_RN.mean(axis=1, keepdims=True)
    n, total = residual_RN.shape[1], float((residual_RN**2).sum())
    c = len(units.combination_CJ)
    has_CV = np.zeros((c, units.total + 1))
    np.put_along_axis(has_CV, units.combination_CJ, 1.0, axis=1)
    share_CC = (has_CV[:, : units.total] @ has_CV[:, : units.total].T > 0).astype(np.float64)
    size_C = np.bincount(units.row_N, minlength=c).astype(np.float64)
    free = n - float(size_C @ share_CC @ size_C) / n  # what is expected of the sum below, times the variance
    if total == 0 or free <= 0 or n < 2:
        return 1.0
    sums_RC = np.zeros((len(residual_RN), c))
    np.add.at(sums_RC.T, units.row_N, residual_RN.T)
    return max(1.0, float((sums_RC @ share_CC * sums_RC).sum()) / free / (total / (n - 1)))


def window_means(values_EN: np.ndarray) -> np.ndarray:
    """Each epoch, and the mean of each 2, 4, 8, ... consecutive ones, (W, N)."""
    parts, length = [], 1
    while length <= len(values_EN):
        whole = len(values_EN) // length * length
        parts.append(values_EN[:whole].reshape(-1, length, values_EN.shape[1]).mean(axis=1))
        length *= 2
    return np.concatenate(parts)


def _above_chance(mean_W: np.ndarray, count: float, chance: float) -> np.ndarray:
    """P(at least so many successes of `count` at chance): the binomial tail, also for a count that is not whole."""
    hits_W = mean_W * count
    tail_W = betainc(np.maximum(hits_W, 1e-9), np.maximum(count - hits_W, 0) + 1, chance)
    return np.where(hits_W > 0, tail_W, 1.0)


def _above_control(difference_W: np.ndarray, variance_W: np.ndarray) -> np.ndarray:
    """P(a difference at least this large) of a normal variable of mean 0; 1 where it is not positive."""
    z_W = difference_W / np.sqrt(np.maximum(variance_W, 1e-12))
    return np.where(difference_W > 0, ndtr(-z_W), 1.0)


def p_values(group: Sequence[ScoredOutcomes]) -> tuple[np.ndarray, np.ndarray, float]:
    """Of systems on the same scenes: p-values against chance and against the control, (W,) each, and the design effect."""
    units, n = group[0].units, group[0].real_EN.shape[1]
    real = design_effect(np.concatenate([each.real_EN for each in group]), units.own)
    control = design_effect(np.concatenate([each.shuffled_EN for each in group]), units.shuffled)
    chance_W, control_W = [], []
    for each in group:
        real_WN, shuffled_WN = window_means(each.real_EN.astype(float)), window_means(each.shuffled_EN.astype(float))
        difference_WN = real_WN - shuffled_WN
        variance_W = difference_WN.var(axis=1) + real_WN.var(axis=1) * (real - 1)
        variance_W += shuffled_WN.var(axis=1) * (control - 1)
        chance_W.append(_above_chance(real_WN.mean(axis=1), n / real, each.chance))
        control_W.append(_above_control(difference_WN.mean(axis=1), variance_W / max(1, n - 1)))
    return np.concatenate(chance_W), np.concatenate(control_W), real


def best_chance_score(count: float, chance: float, epochs: int) -> float:
    """What the best of so many independent shares of `count` scenes at chance stays below, with 95 % probability."""
    shares = np.arange(0, 1.001, 0.001)
    beyond = _above_chance(shares, count, chance) * epochs < SIGNIFICANCE_LEVEL
    return float(shares[beyond.argmax()]) if beyond.any() else 1.0


def find_above_chance(
    systems: Sequence[ScoredOutcomes], split: str, advised: str, finished: bool = True
) -> SignificanceFinding | None:
    """Test whether any of these systems is above chance and above its control; None without a scored epoch.

    Args: systems, of which those on the same scenes share one `SceneVideos` object; the split of their scenes; what to try
    where nothing is found (`search_advice`); whether the study is at its end.
    """
    systems = [each for each in systems if len(each.epochs)]
    if not systems:
        return None
    groups: dict[int, list[ScoredOutcomes]] = {}
    for each in systems:
        groups.setdefault(id(each.units), []).append(each)
    tested = {key: p_values(group) for key, group in groups.items()}
    chance_W, control_W = (np.concatenate([each[place] for each in tested.values()]) for place in (0, 1))
    best = max(systems, key=lambda each: each.real_EN.mean(axis=1).max() - each.chance)
    at, count = int(best.real_EN.mean(axis=1).argmax()), best.real_EN.shape[1]
    epochs, videos = sum(len(each.epochs) for each in systems), best.units.own.total
    return SignificanceFinding(
        p=_corrected(np.maximum(chance_W, control_W), videos),
        p_chance=_corrected(chance_W, videos),
        metric=best.metric,
        split=split,
        best=float(best.real_EN[at].mean()),
        shuffled=float(best.shuffled_EN[at].mean()),
        chance=best.chance,
        where=best.system + (f", epoch {best.epochs[at]}" if best.epochs[at] else ""),
        scenes=count,
        videos=videos,
        epochs=epochs,
        reach=best_chance_score(count / tested[id(best.units)][2], best.chance, epochs),
        advice=advised,
        finished=finished,
    )


def _corrected(p_W: np.ndarray, videos: int = 1000) -> float:
    """The smallest p-value, corrected for the number of tests, and never below that of `videos` signs that all agree."""
    return max(min(1.0, float(p_W.min()) * len(p_W)), 2.0**-videos)


def study_significance(study: StudyState) -> SignificanceFinding | None:
    """What the search's own scores on validation scenes imply for all its trials; None where no statement is possible.

    Where the event log does not have the outcomes of each scene (of an older version, for some epoch), the means are tested as if all
    scenes were independent and the control not paired with them: that finds too much rather than too little.
    """
    rows = [row for row in study.trials.values() if row.state != "failed" and row.epochs]
    try:
        systems = list(_outcomes(study, rows))
    except (KeyError, ValueError):
        return _of_means(study, rows)
    return find_above_chance(systems, "val", search_advice(study.config), study.finished)


def _outcomes(study: StudyState, rows: Sequence[TrialRecord]) -> Iterator[ScoredOutcomes]:
    """The outcomes of each trial, apart for each set of scenes; KeyError or ValueError where some epoch has none."""
    units = {key: SceneVideos.of(of["videos"], of["shuffled"]) for key, of in study.scenes.items()}
    for row in rows:
        epochs: dict[str, list[int]] = {}
        for number in sorted(row.epochs):
            epochs.setdefault((row.epochs[number].outcomes or {})["scenes_hash"], []).append(number)
        for key, numbers in epochs.items():
            of, count = study.scenes[key], len(study.scenes[key]["videos"])
            own = [row.epochs[number].outcomes or {} for number in numbers]
            real_EN, shuffled_EN = (
                np.stack([unpack_outcomes(each[name], count) for each in own]) for name in ("real", "shuffled")
            )
            yield ScoredOutcomes(
                f"trial {row.number}", of["metric"], units[key], of["chance"], numbers, real_EN, shuffled_EN
            )


def _of_means(study: StudyState, rows: Sequence[TrialRecord]) -> SignificanceFinding | None:
    metric, split = study.objective, study.objective.partition("/")[0]
    chance = _CHANCE.get(metric.partition("/")[2])
    count = study.config.get("evaluation", {}).get("scenes")
    scored = [
        (float(real), float(control), f"trial {row.number}, epoch {number}")
        for row in rows
        for number, epoch in row.epochs.items()
        if (real := epoch.metrics.get(metric)) is not None
        and (control := epoch.metrics.get(metric + SHUFFLED_SUFFIX)) is not None
    ]
    if not scored or chance is None or not count:
        return None
    real_W, control_W = (np.array([each[place] for each in scored]) for place in (0, 1))
    variance_W = (real_W * (1 - real_W) + control_W * (1 - control_W)) / count
    p_W = _above_chance(real_W, count, chance)
    best = scored[int(real_W.argmax())]
    return SignificanceFinding(
        p=_corrected(np.maximum(p_W, _above_control(real_W - control_W, variance_W))),
        p_chance=_corrected(p_W),
        metric=metric,
        split=split,
        best=best[0],
        shuffled=best[1],
        chance=chance,
        where=best[2],
        scenes=count,
        videos=None,
        epochs=len(scored),
        reach=best_chance_score(count, chance, len(scored)),
        advice=search_advice(study.config),
        finished=study.finished,
    )


def significance_sentences(study: StudyState) -> list[str]:
    """The notes below a leaderboard: no significant score in the search, or on a later test split."""
    finding = study_significance(study)
    later = [record["above_chance"] for record in study.evaluations if record.get("above_chance")]
    sentences = [finding.sentence] if finding else []
    sentences += [later[-1]["sentence"]] if later else []
    return [sentence for sentence in sentences if sentence]
