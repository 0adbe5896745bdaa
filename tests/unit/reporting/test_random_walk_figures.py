"""Walks drawn as graphs: probabilities become widths, and what is no walk is refused."""

from __future__ import annotations

import numpy as np
import pytest

from raymix.reporting.figures import figure_to_png
from raymix.reporting.paper_figures import RandomWalkGraph, draw_random_walks

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)
OUT, HOME = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.97, 0.03], [0.4, 0.6]])


def test_an_edge_is_as_wide_as_it_is_likely() -> None:
    figure = draw_random_walks([RandomWalkGraph("bell with drum", FRAMES, OUT, HOME)], "test")
    lines = figure.axes[0].lines
    assert len(lines) == 8  # 2 x 2 out, 2 x 2 home
    width = {
        (round(float(x0), 1), y0, y1): line.get_linewidth() for line in lines for (x0, _), (y0, y1) in [line.get_data()]
    }
    assert width[0.2, 0, 0] == pytest.approx(9 * width[0.2, 0, 1]) and width[0.2, 1, 1] > width[0.2, 1, 0]
    assert width[1.4, 0, 0] > width[1.4, 1, 1] > width[1.4, 1, 0]  # home from image 0, from image 1 to s2, and to s1
    assert figure_to_png(figure).startswith(b"\x89PNG")


def test_the_way_home_by_hand() -> None:
    returns_I = RandomWalkGraph("", FRAMES, OUT, HOME).returns_I
    np.testing.assert_allclose(returns_I, [0.9 * 0.97 + 0.1 * 0.4, 0.2 * 0.03 + 0.8 * 0.6])


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"walk x: A_SI .* is no matrix of transitions of 2 nodes"):
        RandomWalkGraph("x", FRAMES, OUT.T, HOME)
    with pytest.raises(ValueError, match="walk x: A_IS"):
        RandomWalkGraph("x", FRAMES, OUT, np.eye(3))
    with pytest.raises(ValueError, match="no walks"):
        draw_random_walks([])
