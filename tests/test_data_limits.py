"""What the clips cannot carry is cut from a search space, the same way each time, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from test_recipes import searched

from raymix import data_limits
from raymix.config import BadInput, Tune, flatten, to_plain
from raymix.mixture import can_group, group
from raymix.search_space import load
from raymix.space import SearchSpace


def space_of(text: str, config: Tune) -> SearchSpace:
    return load({"space": yaml.safe_load(text)}, to_plain(config))


def small(**fit: int) -> Tune:
    config = Tune()
    config.method = {"name": "cycle", "temperature": 0.1}
    for name, value in fit.items():
        setattr(config.fit, name, value)
    return config


def videos(clips: int, of: int) -> list[str]:
    return [f"v{number % of}" for number in range(clips)]


def test_batches_that_the_clips_do_not_fill_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, _ = searched(monkeypatch, "dataset=folder", "dataset.root=/videos")
    left, base, notes = data_limits.fitted(space, config, videos(41, 14))
    assert left.ends()["fit.batch"] == [12, 24] and left.ends()["mixture.k"] == [2, 3] and base == {}
    assert notes == ["cut from the search space: fit.batch 48 (more than the 41 training clips)"]
    assert left.first == space.first and left.first[0]["fit.batch"] == 24
    again = data_limits.fitted(space, config, videos(41, 14)[::-1])[0]
    assert again.hash == left.hash != space.hash  # so the same command resumes
    whole, _, notes = data_limits.fitted(space, config, videos(48, 14))
    assert whole.hash == space.hash and notes == []


def test_one_value_that_is_left_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, _ = searched(monkeypatch, "dataset=folder", "dataset.root=/videos")
    left, base, notes = data_limits.fitted(space, config, videos(20, 20))
    assert "fit.batch" not in left.names and left.fixed["fit.batch"] == 12 and base == {"fit.batch": 12}
    assert notes == ["cut from the search space: fit.batch 24, 48 (more than the 20 training clips)"]


def test_where_nothing_is_left_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, _ = searched(monkeypatch, "dataset=folder", "dataset.root=/videos", "recipe=paper")
    with pytest.raises(BadInput) as refused:
        data_limits.fitted(space, config, videos(41, 14))
    assert str(refused.value) == (
        "search space fit.batch: 48, 96, 128, 192: more than the 41 training clips; fit.batch=40 fits"
    )


def test_groups_that_the_videos_do_not_give_are_cut() -> None:
    space = space_of("{mixture.k: {int: [2, 5]}, fit.batch: {categorical: [20, 30]}}", small(batch=30))
    left, base, notes = data_limits.fitted(space, small(batch=30), videos(60, 4))
    assert left.ends() == {"mixture.k": [2, 4], "fit.batch": [20, 30]} and base == {}
    assert notes == ["cut from the search space: mixture.k 5 (more than the 4 training videos)"]
    assert [rule.text for rule in left.rules] == ["fit.batch % (mixture.k * 1) == 0"]  # 20 % 3, 30 % 4
    uneven = ["long"] * 50 + ["a", "b", "c"]
    with pytest.raises(BadInput, match="53 clips of 4 videos give no groups of different videos"):
        data_limits.fitted(space, small(batch=30), uneven)


def test_groups_that_the_batch_of_the_command_line_does_not_hold_are_cut() -> None:
    space = space_of("{mixture.k: {int: [2, 4]}, method.temperature: {float: [0.1, 0.2]}}", small(batch=8))
    left, base, notes = data_limits.fitted(space, small(batch=8), videos(41, 41))
    assert left.ends()["mixture.k"] == [2, 4] and left.rejected_share(64) == 0
    assert notes == ["cut from the search space: mixture.k 3 (fit.batch=8 holds no whole groups)"]
    config = small(batch=8)
    config.cluster.workers = 2
    left, base, notes = data_limits.fitted(space, config, videos(41, 41))
    assert notes == ["cut from the search space: mixture.k 3 (fit.batch=8 holds no whole groups)"] and base == {}


def test_trials_start_from_a_batch_that_the_clips_fill() -> None:
    """The setting of a searched parameter is not in force, but what is asked of it (and refused) goes by its value."""
    space = space_of("{fit.batch: {categorical: [8, 16, 128]}, mixture.k: {int: [2, 3]}}", small(batch=128))
    left, base, _ = data_limits.fitted(space, small(batch=128), videos(20, 20))
    assert base == {"fit.batch": 16} and left.fixed == {"mixture.k": 2}


def test_clusters_of_clips_are_no_more_than_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("dataset=folder", "dataset.root=/videos", "method=dsol", "fit.batch=8", "method.first_stage=0.5")
    config, space, _ = searched(monkeypatch, *words)
    left, _, notes = data_limits.fitted(space, config, videos(15, 15))
    assert left.ends()["method.clusters"] == [4, 15]
    assert notes == ["cut from the search space: method.clusters 16, 17, 18, 19, 20 (more than the 15 training clips)"]


def test_a_point_to_try_first_moves_to_what_is_left() -> None:
    config = small(batch=128)
    mapping: dict[str, Any] = {
        "space": {"fit.batch": {"categorical": [12, 24, 128]}, "method.temperature": {"float": [0.1, 0.2]}},
        "first": [{"fit.batch": 128, "method.temperature": 0.1}],
    }
    left, _, _ = data_limits.fitted(load(mapping, to_plain(config)), config, videos(41, 41))
    assert left.first == [{"fit.batch": 24, "method.temperature": 0.1}]


@pytest.mark.parametrize("seed", range(60))
def test_groups_exist_where_it_says_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"v{number}" for number in rng.integers(0, rng.integers(1, 6), rng.integers(1, 25))]
    k = int(rng.integers(1, 5))
    try:
        found = group(names, k, np.random.default_rng(seed))
    except ValueError:
        assert not can_group(names, k)
    else:
        assert can_group(names, k)
        assert all(len({names[place] for place in row}) == k for row in found)


def test_flat_settings_of_doubts() -> None:
    config = small(batch=128)
    space = space_of("{method.temperature: {float: [0.2, 0.3]}}", config)
    (said,) = data_limits.doubts(space, flatten(to_plain(config)), 64, 0.1)
    assert said == "search space: method.temperature is searched in 0.2 to 0.3, without your setting 0.1"
