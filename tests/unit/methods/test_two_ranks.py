"""Every system on one rank and on two with one global batch: the same loss, the same gradients, the same state of a stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from raymix.methods import METHODS, build_method
from raymix.methods.label_matching import unpack_state
from raymix.runtime.distributed import (
    all_gather_objects,
    all_gather_variable_length,
    broadcast_from_rank_zero,
    convert_sync_batch_norm,
    next_rows_as_negatives,
)
from tests.conformance.test_method_contract import SMALL, make_mixture, sizes
from tests.support.torch_ranks import on_ranks
from tests.unit.methods.test_single_source_losses import WIDE
from tests.unit.methods.test_staged_methods import ENCODER, SMALL_PIXELS, TOY, batches, share

pytestmark = pytest.mark.slow  # fixtures of the module take more than 5 s

# Four epochs of each: clusters of DSOL are found after the first, its second stage begins after the second, and its class maps
# are masked from the fourth on. Composites of four lie in 24 arrangements, by the place of a group in the batch of all ranks.
STAGED: dict[str, dict[str, Any]] = {"dsol": {**TOY, "first_stage": 0.5}, "sound_of_pixels": SMALL_PIXELS}
STAGES = {"dsol": ("dsol", 2), "dsol of four": ("dsol", 4), "sound_of_pixels": ("sound_of_pixels", 2)}
KNOBS: dict[str, dict[str, Any]] = {
    **WIDE,
    "slavc": {"image_dropout": 0.5},
    "fnac": {"warm_up_epochs": 0, "image_dropout": 0.5},
}
SECOND: dict[str, dict[str, Any]] = {"ots": {"loss": "infonce"}, "ots_mix": {"loss": "infonce"}, "cycle": {"k": 4}}
CASES = {name: (name, KNOBS.get(name, {})) for name in METHODS if name not in STAGED}
CASES |= {f"{name}, {knobs}": (name, knobs) for name, knobs in SECOND.items()}

Step = dict[str, Any]


def step(wrapped: Any, method: Any, mixture: Any) -> Step:
    """Loss and gradients of one batch."""
    method.zero_grad()
    loss, _ = wrapped.train()(mixture)
    loss.backward()
    gradient = {n: p.grad.tolist() for n, p in method.named_parameters() if p.requires_grad}
    return {"loss": loss.item(), "gradient": gradient}


def ready(name: str, knobs: dict[str, Any], sizes: dict[str, Any], world: int, k: int = 2) -> tuple[Any, Any]:
    torch.manual_seed(0)
    method = convert_sync_batch_norm(build_method(name, k, sizes, knobs), "cpu")
    return (DistributedDataParallel(method) if world > 1 else method), method


def of_one_stage(rank: int, world: int) -> dict[str, list[Step]]:
    found = {}
    for label, (name, knobs) in CASES.items():
        knobs = dict(knobs)
        k = knobs.pop("k", 2)
        wrapped, method = ready(name, sizes(name) | knobs, SMALL | {"blocks": 1, "stages": 3}, world, k)
        part = slice(rank * 4 // world, (rank + 1) * 4 // world)
        torch.manual_seed(3)  # of dropout
        found[label] = [step(wrapped, method, make_mixture(4, k)._each(lambda tensor, part=part: tensor[part]))]
    return found


def of_stages(rank: int, world: int) -> dict[str, list[Step]]:
    """Four epochs of one batch and its update, of unequal shares of 24 examples, and what each system keeps after each."""
    found: dict[str, list[Step]] = {}
    for label, (name, k) in STAGES.items():
        wrapped, method = ready(name, STAGED[name], ENCODER, world, k)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
        for epoch in range(1, 5):
            mixture = next(batches(k, epoch, 24))
            part = slice(rank * (24 // k) // world, (rank + 1) * (24 // k) // world)
            took = step(wrapped, method, mixture._each(lambda tensor, part=part: tensor[part]))
            optimizer.step()
            method.on_epoch_end(epoch, 4, lambda: share(rank, world))
            kept = {n: value.tolist() for n, value in method.named_buffers() if n.endswith("_MF")}
            found.setdefault(label, []).append({**took, "kept": kept, "extra": method.get_extra_state().tolist()})
    return found


def everything(rank: int, world: int) -> dict[str, Any]:
    own = torch.arange(6.0).view(6, 1)[rank * 4 :][: 4 if world > 1 else 6]
    none = torch.zeros(2, 3, dtype=torch.int64)[: 2 - 2 * rank]
    return {
        "rows": all_gather_variable_length(own).tolist(),
        "none": all_gather_variable_length(none).tolist(),
        "words": all_gather_objects(["a", "b"] if rank == 0 else ["c"]),
        "first": broadcast_from_rank_zero(lambda: rank),
        "following": next_rows_as_negatives(torch.arange(4.0).chunk(world)[rank]).tolist(),
        "steps": of_one_stage(rank, world) | of_stages(rank, world),
    }


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    [[one], two] = on_ranks(everything, (1, 2), tmp_path_factory.mktemp("ranks"))
    return one, two


@pytest.mark.parametrize("label", [*CASES, *STAGES])
def test_two_ranks_train_as_one(label: str, groups: Any) -> None:
    one, two = groups
    for at, whole in enumerate(one["steps"][label]):
        halves = [rank["steps"][label][at] for rank in two]
        assert np.mean([half["loss"] for half in halves]) == pytest.approx(whole["loss"], rel=1e-4)
        for half in halves:
            assert half.get("extra") == whole.get("extra")
            close(half["gradient"], whole["gradient"])
            close(half.get("kept", {}), whole.get("kept", {}))


@pytest.mark.parametrize("label", ["dsol", "dsol of four"])
def test_the_second_stage_ran_on_two_ranks(label: str, groups: Any) -> None:
    """Without and with the mask: what it alone trains got a gradient, and the heads of the first stage none."""
    _, two = groups
    for steps in (rank["steps"][label] for rank in two):
        states = [unpack_state(torch.tensor(each["extra"], dtype=torch.uint8)) for each in steps]
        assert [state["since"] for state in states] == [0, 2, 2, 2]
        assert [state["masked"] for state in states] == [False, False, True, True]
        for name, trained in (("slope", [3, 4]), ("heard.weight", [2])):
            moved = [epoch for epoch, each in enumerate(steps, 1) if np.any(each["gradient"][name])]
            assert moved == trained, name


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        a, b = torch.tensor(found[name]), torch.tensor(value)
        slack = 1e-3 * max(1e-2, float(b.abs().max()))
        torch.testing.assert_close(a, b, atol=slack, rtol=0, msg=lambda m, at=name: f"{at}: {m}")


def test_what_is_collected_stands_in_one_order(groups: Any) -> None:
    one, two = groups
    for rank in two:
        assert rank["rows"] == one["rows"] and rank["none"] == [[0, 0, 0]] * 2 and rank["none"] == one["none"]
        assert rank["words"] == ["a", "b", "c"] and rank["first"] == 0
    assert one["following"] == [1, 2, 3, 0] and [rank["following"] for rank in two] == [[1, 2], [3, 0]]
