"""What scoring costs under all protocols at once, beside its floor: each map upsampled once a kind and sorted once.

    python tests/benchmarks/scoring_speed.py                  the paper's sizes: 224x224, 448x224 with two sources
    python tests/benchmarks/scoring_speed.py --scenes 200     a longer run
    python tests/benchmarks/scoring_speed.py --parts          also where the time goes

The floor makes, for each kind of upsampling that the protocols of a layout ask for, the pixels of every map, and sorts them
with the truths that they belong to; nothing else. "all" is `score_all` under every protocol that takes the layout, "apart"
the same protocols one by one. CPU time of this process, best of several runs, floor and scoring taken in turns. Then what
the intervals of 5,000 scenes and 40 columns cost, of one video each and of two. Exit code 1 where all protocols together
cost more than twice the floor.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from raymix.metrics.functional import minmax_normalize, pack_truth_bits, resize_maps, sorted_pixels
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS, EvaluationProtocol
from raymix.metrics.scoring import ScoreTable, score_maps, score_maps_under_protocols, summarize_scores

LIMIT = 2.0
CELLS = 14  # of a map, along the side of a 224-pixel frame
AT_A_TIME = 8  # scenes that the floor holds


def scenes(count: int, sources: int, maps: int) -> tuple[np.ndarray, SceneGroundTruth]:
    """Maps that know a little, and boxes of 12 % of a frame."""
    rng, size = np.random.default_rng(0), 224
    masks = np.zeros((count, sources, size, size * sources), bool)
    said = rng.random((count, maps, CELLS, CELLS * sources)).astype(np.float32)
    for i, s in np.ndindex(count, sources):
        y, x = rng.integers(0, size - 78, 2)
        masks[i, s, y : y + 78, s * size + x : s * size + x + 78] = True
    for which in range(min(maps, sources)):
        blocks = masks[:, which].reshape(count, CELLS, 16, CELLS * sources, 16)
        said[:, which] += blocks.mean(axis=(2, 4)).astype(np.float32)
    rects = np.array([[s * size, 0, (s + 1) * size, size] for s in range(sources)])
    ids = tuple(f"{i:05d}" for i in range(count))
    truth = SceneGroundTruth(
        ids=ids,
        videos=tuple((name,) for name in ids),
        layout="single" if sources == 1 else "hconcat",
        canvas=masks.shape[2:],
        panels_NS=np.tile(np.arange(sources), (count, 1)),
        rects_P4=rects,
        masks_NSYX=masks,
        has_truth_N=np.ones(count, bool),
        scenes_hash="made",
    )
    return said, truth


def floor(maps_NMHW: np.ndarray, truth: SceneGroundTruth, protocols: list[EvaluationProtocol]) -> None:
    """Nothing but the upsampling and the sorting that no sharing can save."""
    kinds = {(each.upsample, each.align_corners) for each in protocols}
    for start in range(0, len(truth), AT_A_TIME):
        part = slice(start, start + AT_A_TIME)
        maps, masks = maps_NMHW[part], truth.masks_NSYX[part]
        labels = pack_truth_bits(masks.reshape(*masks.shape[:2], -1))
        for upsample, align_corners in kinds:
            pixels = resize_maps(minmax_normalize(maps), truth.canvas, align_corners, upsample == "bicubic")
            sorted_pixels(pixels.reshape(*maps.shape[:2], -1), labels)


def least(runs: int, *works: Callable[[], object]) -> list[float]:
    """The least CPU seconds of each work, taken in turns."""
    best = [float("inf")] * len(works)
    for _ in range(runs):
        for place, work in enumerate(works):
            start = time.process_time()
            work()
            best[place] = min(best[place], time.process_time() - start)
    return best


def intervals(videos: int, runs: int, count: int = 5000, columns: int = 40) -> None:
    """What 2,000 resamples cost where one video is heard in a scene, and where two are."""
    rng = np.random.default_rng(0)
    first_N = rng.permutation(count) % videos
    video_N2 = np.stack([first_N, (first_N + rng.integers(1, videos, count)) % videos], axis=1)
    values = {f"column {which}": rng.random(count) for which in range(columns)}
    parts = np.zeros((count, 1)), np.zeros((count, 1)), np.zeros((count, 1), np.int64)
    ids = tuple(f"{i:05d}" for i in range(count))
    tables = [
        ScoreTable(
            "made", "hconcat", "made", ids, tuple(tuple(map(str, names)) for names in heard.tolist()), values, *parts
        )
        for heard in (video_N2[:, :1], video_N2)
    ]
    one, two = least(runs, *(partial(summarize_scores, table) for table in tables))
    print(f"intervals, {videos} videos: of one each {1000 * one:.0f} ms, of two {1000 * two:.0f} ms, {two / one:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parts", action="store_true", help="a profile of scoring under all protocols")
    asked, slow = parser.parse_args(), 0
    print(f"{'scenes':24} {'protocols':>9} {'floor':>9} {'all':>9} {'apart':>9} {'all/floor':>9} {'apart/all':>9}")
    for sources, maps in ((1, 1), (1, 2), (2, 2), (2, 3)):
        said, truth = scenes(asked.scenes, sources, maps)
        chosen = [each for each in PROTOCOLS.values() if each.declines(sources) is None]

        def together(
            said: np.ndarray = said, truth: SceneGroundTruth = truth, chosen: list[EvaluationProtocol] = chosen
        ) -> None:
            score_maps_under_protocols(said, truth, chosen)

        def apart(
            said: np.ndarray = said, truth: SceneGroundTruth = truth, chosen: list[EvaluationProtocol] = chosen
        ) -> None:
            for each in chosen:
                score_maps(said, truth, each)

        def least_work(
            said: np.ndarray = said, truth: SceneGroundTruth = truth, chosen: list[EvaluationProtocol] = chosen
        ) -> None:
            floor(said, truth, chosen)

        low, whole, single = least(asked.runs, least_work, together, apart)
        name = f"{asked.scenes} of {sources}, {maps} map{'s' if maps > 1 else ''}"
        times = "".join(f" {1000 * each / asked.scenes:>6.1f} ms" for each in (low, whole, single))
        print(f"{name:24} {len(chosen):>9}{times} {whole / low:>9.2f} {single / whole:>9.2f}", flush=True)
        slow += whole > LIMIT * low
        if asked.parts:
            with cProfile.Profile(time.process_time) as profile:
                together()
            pstats.Stats(profile).sort_stats("tottime").print_stats(14)
    for videos in (5000, 500):
        intervals(videos, asked.runs)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
