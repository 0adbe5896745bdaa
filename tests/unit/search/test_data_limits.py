"""What the clips cannot carry is cut from a search space, the same way each time, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from raymix.config import ConfigError, TuneConfig, config_to_plain, flatten_config
from raymix.data.mixing import can_group_clips, group_clips
from raymix.search import data_limits
from raymix.search.space import SearchSpace
from raymix.search.space_file import parse_search_space
from tests.unit.cli.test_recipes import searched


def space_of(text: str, config: TuneConfig) -> SearchSpace:
    return parse_search_space({"space": yaml.safe_load(text)}, config_to_plain(config))


def small(**fit: int) -> TuneConfig:
    config = TuneConfig()
    config.method = {"name": "cycle", "temperature": 0.1}
    for name, value in fit.items():
        setattr(config.training, name, value)
    return config


def videos(clips: int, of: int) -> list[str]:
    return [f"v{number % of}" for number in range(clips)]


def test_batches_that_the_clips_do_not_fill_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, _ = searched(monkeypatch, "dataset=folder", "dataset.root=/videos")
    left, base, notes = data_limits.fit_space_to_data(space, config, videos(41, 14))
    assert left.bounds()["training.batch_size"] == [12, 24] and left.bounds()["mixture.k"] == [2, 3] and base == {}
    assert notes == ["cut from the search space: training.batch_size 48 (more than the 41 training clips)"]
    assert left.initial_points == space.initial_points and left.initial_points[0]["training.batch_size"] == 24
    again = data_limits.fit_space_to_data(space, config, videos(41, 14)[::-1])[0]
    assert again.hash == left.hash != space.hash  # so the same command resumes
    whole, _, notes = data_limits.fit_space_to_data(space, config, videos(48, 14))
    assert whole.hash == space.hash and notes == []


def test_one_value_that_is_left_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, _ = searched(monkeypatch, "dataset=folder", "dataset.root=/videos")
    left, base, notes = data_limits.fit_space_to_data(space, config, videos(20, 20))
    assert (
        "training.batch_size" not in left.names
        and left.fixed["training.batch_size"] == 12
        and base == {"training.batch_size": 12}
    )
    assert notes == ["cut from the search space: training.batch_size 24, 48 (more than the 20 training clips)"]


def test_where_nothing_is_left_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, _ = searched(monkeypatch, "dataset=folder", "dataset.root=/videos", "recipe=paper")
    with pytest.raises(ConfigError) as refused:
        data_limits.fit_space_to_data(space, config, videos(41, 14))
    assert str(refused.value) == (
        "search space training.batch_size: 48, 96, 128, 192: more than the 41 training clips; training.batch_size=40 fits"
    )


def test_groups_that_the_videos_do_not_give_are_cut() -> None:
    space = space_of("{mixture.k: {int: [2, 5]}, training.batch_size: {categorical: [20, 30]}}", small(batch_size=30))
    left, base, notes = data_limits.fit_space_to_data(space, small(batch_size=30), videos(60, 4))
    assert left.bounds() == {"mixture.k": [2, 4], "training.batch_size": [20, 30]} and base == {}
    assert notes == ["cut from the search space: mixture.k 5 (more than the 4 training videos)"]
    assert [rule.text for rule in left.constraints] == ["training.batch_size % (mixture.k * 1) == 0"]  # 20 % 3, 30 % 4
    uneven = ["long"] * 50 + ["a", "b", "c"]
    with pytest.raises(ConfigError, match="53 clips of 4 videos give no groups of different videos"):
        data_limits.fit_space_to_data(space, small(batch_size=30), uneven)


def test_groups_that_the_batch_of_the_command_line_does_not_hold_are_cut() -> None:
    space = space_of("{mixture.k: {int: [2, 4]}, method.temperature: {float: [0.1, 0.2]}}", small(batch_size=8))
    left, base, notes = data_limits.fit_space_to_data(space, small(batch_size=8), videos(41, 41))
    assert left.bounds()["mixture.k"] == [2, 4] and left.rejected_share(64) == 0
    assert notes == ["cut from the search space: mixture.k 3 (training.batch_size=8 holds no whole groups)"]
    config = small(batch_size=8)
    config.cluster.workers = 2
    left, base, notes = data_limits.fit_space_to_data(space, config, videos(41, 41))
    assert (
        notes == ["cut from the search space: mixture.k 3 (training.batch_size=8 holds no whole groups)"] and base == {}
    )


def test_trials_start_from_a_batch_that_the_clips_fill() -> None:
    """The setting of a searched parameter is not in force, but what is asked of it (and refused) goes by its value."""
    space = space_of(
        "{training.batch_size: {categorical: [8, 16, 128]}, mixture.k: {int: [2, 3]}}", small(batch_size=128)
    )
    left, base, _ = data_limits.fit_space_to_data(space, small(batch_size=128), videos(20, 20))
    assert base == {"training.batch_size": 16} and left.fixed == {"mixture.k": 2}


def test_clusters_of_clips_are_no_more_than_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("dataset=folder", "dataset.root=/videos", "method=dsol", "training.batch_size=8", "method.first_stage=0.5")
    config, space, _ = searched(monkeypatch, *words)
    left, _, notes = data_limits.fit_space_to_data(space, config, videos(15, 15))
    assert left.bounds()["method.clusters"] == [4, 15]
    assert notes == ["cut from the search space: method.clusters 16, 17, 18, 19, 20 (more than the 15 training clips)"]


def test_a_point_to_try_first_moves_to_what_is_left() -> None:
    config = small(batch_size=128)
    mapping: dict[str, Any] = {
        "space": {"training.batch_size": {"categorical": [12, 24, 128]}, "method.temperature": {"float": [0.1, 0.2]}},
        "initial_points": [{"training.batch_size": 128, "method.temperature": 0.1}],
    }
    left, _, _ = data_limits.fit_space_to_data(
        parse_search_space(mapping, config_to_plain(config)), config, videos(41, 41)
    )
    assert left.initial_points == [{"training.batch_size": 24, "method.temperature": 0.1}]


@pytest.mark.parametrize("seed", range(60))
def test_groups_exist_where_it_says_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"v{number}" for number in rng.integers(0, rng.integers(1, 6), rng.integers(1, 25))]
    k = int(rng.integers(1, 5))
    try:
        found = group_clips(names, k, np.random.default_rng(seed))
    except ValueError:
        assert not can_group_clips(names, k)
    else:
        assert can_group_clips(names, k)
        assert all(len({names[place] for place in row}) == k for row in found)


def test_flat_settings_of_doubts() -> None:
    config = small(batch_size=128)
    space = space_of("{method.temperature: {float: [0.2, 0.3]}}", config)
    (said,) = data_limits.space_warnings(space, flatten_config(config_to_plain(config)), 64, 0.1)
    assert said == "search space: method.temperature is searched in 0.2 to 0.3, without your setting 0.1"
