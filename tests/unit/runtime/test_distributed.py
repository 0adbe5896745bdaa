"""Across ranks: what one process computes on the whole batch, two compute on halves, gradients included."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raymix.config import EncoderConfig, TrainingConfig
from raymix.methods import build_method
from raymix.methods.encoders import AudioEncoder
from raymix.runtime import distributed
from raymix.runtime.distributed import CrossRankBatchNorm, all_gather_with_grad, convert_sync_batch_norm
from raymix.training.worker import wrap_ddp
from tests.support.torch_ranks import on_ranks

pytestmark = pytest.mark.slow  # fixtures of the module take more than 5 s

TIGHT = 1e-5


class Contrast(nn.Module):
    """InfoNCE over the whole batch: each picture against all sounds; a weight before the gather, and one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.sound = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), nn.Linear(5, 4)
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, pictures_NX: Tensor, sounds_NX: Tensor) -> Tensor:
        pictures_NC = all_gather_with_grad(F.normalize(self.picture(pictures_NX)))
        sounds_NC = all_gather_with_grad(F.normalize(self.sound(sounds_NX)))
        scores_NN = self.sharpness * pictures_NC @ sounds_NC.T
        return F.cross_entropy(scores_NN, torch.arange(len(scores_NN)))


def everything(rank: int, world: int) -> dict[str, Any]:
    """What a group is started for: both halves of this file in one go, since processes start slowly."""
    norms = normalise(rank) if world == 2 else {}
    return {"contrast": contrast(rank, world), "norms": norms, "turned": turned(rank, world)}


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    return on_ranks(everything, (1, 2), tmp_path_factory.mktemp("groups"))


def turned(rank: int, world: int) -> list[list[float]]:
    """The gradient of own rows where that of all rows is a transpose in memory, under a mean over ranks."""
    weight, share = torch.arange(12.0).view(3, 4), 4 // world
    rows = torch.ones(share, 3, requires_grad=True)
    (all_gather_with_grad(rows).T.contiguous() * weight).sum().backward()
    gradient: list[list[float]] = (rows.grad / world).tolist()
    return gradient


def test_a_gradient_that_is_not_contiguous_arrives_whole(groups: list[list[dict[str, Any]]]) -> None:
    [[one], two] = groups
    assert one["turned"] == torch.arange(12.0).view(3, 4).T.tolist() == two[0]["turned"] + two[1]["turned"]


def contrast(rank: int, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, share = Contrast(), 8 // world
    pictures_NX, sounds_NX = torch.randn(8, 6), torch.randn(8, 5)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    own = slice(rank * share, (rank + 1) * share)
    loss = wrapped(pictures_NX[own], sounds_NX[own])
    loss.backward()
    answer = {"loss": loss.item(), **{name: p.grad.tolist() for name, p in model.named_parameters()}}
    try:
        all_gather_with_grad(torch.zeros(2 + rank, 3))
    except ValueError as error:
        answer["refused"] = str(error)
    return answer


def test_a_loss_on_the_gathered_batch_trains_as_in_one_process(groups: list[list[dict[str, Any]]]) -> None:
    one = groups[0][0]["contrast"]
    for rank in [each["contrast"] for each in groups[1]]:
        assert (
            rank.pop("refused")
            == "gather: the ranks' rows have different shapes, (2, 3), (3, 3); each must give as many"
        )
        assert rank.keys() == one.keys() and len(one) == 8
        for name, value in one.items():
            torch.testing.assert_close(torch.tensor(rank[name]), torch.tensor(value), atol=TIGHT, rtol=0, msg=name)


# What goes through BatchNorm: the shape of one clip's part, the constructor of the plain layer, the shares of two ranks.
NORMS: dict[str, tuple[tuple[int, ...], functools.partial[Any], tuple[int, int]]] = {
    "pictures": ((3, 5, 4), functools.partial(nn.BatchNorm2d, 3), (4, 4)),
    "vectors": ((3,), functools.partial(nn.BatchNorm1d, 3), (4, 4)),
    "without scale": ((3,), functools.partial(nn.BatchNorm1d, 3, affine=False), (4, 4)),
    "unequal shares": ((3, 2, 2), functools.partial(nn.BatchNorm2d, 3), (7, 1)),
    "one clip each": ((3,), functools.partial(nn.BatchNorm1d, 3), (1, 1)),
    "plain average": ((3,), functools.partial(nn.BatchNorm1d, 3, momentum=None), (4, 4)),
    "far from zero": ((3, 4, 4), functools.partial(nn.BatchNorm2d, 3), (4, 4)),
}


def normalise(rank: int) -> dict[str, dict[str, float]]:
    """For each of NORMS the largest differences to the plain layer, which every rank runs on the whole batch."""
    return {name: differences(rank, name) for name in NORMS}


def differences(rank: int, name: str) -> dict[str, float]:
    shape, make, shares = NORMS[name]
    torch.manual_seed(1)
    plain, holder = make(), nn.Sequential(make())
    if plain.affine:
        nn.init.uniform_(plain.weight), nn.init.uniform_(plain.bias)
        holder[0].load_state_dict(plain.state_dict())
    ours = convert_sync_batch_norm(holder, "cpu")
    apart = {"out": 0.0, "input gradient": 0.0, "weight gradient": 0.0, "mean": 0.0, "variance": 0.0}
    begin = shares[0] * rank
    own = slice(begin, begin + shares[rank])

    def look(what: str, mine: Tensor, theirs: Tensor) -> None:
        apart[what] = max(apart[what], float((mine - theirs).detach().abs().max()))

    for _ in range(3):
        x = torch.randn(sum(shares), *shape) * 2 + (1000 if name == "far from zero" else 1)
        pull = torch.randn(x.shape) / 4
        whole, part = x.clone().requires_grad_(), x[own].clone().requires_grad_()
        expected, out = plain(whole), ours(part)
        (expected * pull).sum().backward()
        (out * pull[own]).sum().backward()
        look("out", out, expected[own])
        look("input gradient", part.grad, whole.grad[own])
        look("mean", ours[0].running_mean, plain.running_mean)
        look("variance", ours[0].running_var, plain.running_var)
    if plain.affine:
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.distributed.all_reduce(mine.grad)
            look("weight gradient", mine.grad, theirs.grad)
    look("out", ours.eval()(x), plain.eval()(x))
    assert ours[0].num_batches_tracked == plain.num_batches_tracked
    return apart


def test_batch_norm_over_two_ranks_is_batch_norm_of_the_whole_batch(groups: list[list[dict[str, Any]]]) -> None:
    for answer in [each["norms"] for each in groups[1]]:
        assert answer.keys() == NORMS.keys()
        for name, apart in answer.items():
            loose = 200 if name == "far from zero" else 1  # beside a thousand float32 has four digits for what varies
            assert max(apart.values()) < loose * TIGHT, (name, apart)


def test_one_process_alone_changes_nothing() -> None:
    x = torch.randn(6, 3, 2, 2)
    assert all_gather_with_grad(x) is x
    plain, ours = nn.BatchNorm2d(3), convert_sync_batch_norm(nn.BatchNorm2d(3), "cpu")
    assert isinstance(ours, CrossRankBatchNorm) and torch.equal(ours(x), plain(x))
    assert torch.equal(ours.running_var, plain.running_var)
    model = build_method("cycle", 2, {"width": 4}, {"embedding_size": 8})
    assert wrap_ddp(model, TrainingConfig(sync_batch_norm=True), torch.device("cpu")) is model
    assert not any(isinstance(module, CrossRankBatchNorm) for module in model.modules())


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # the conversion itself needs no GPU
def test_weights_keep_their_names_and_tensors(device: str) -> None:
    def encoder() -> AudioEncoder:
        return AudioEncoder(2, EncoderConfig(width=4), 8, batch_norm=True)

    plain, ours = encoder(), encoder()
    held = dict(ours.named_parameters())
    plain.trunk.bn1.eval(), ours.trunk.bn1.eval()
    assert convert_sync_batch_norm(ours, device) is ours
    kind = CrossRankBatchNorm if device == "cpu" else nn.SyncBatchNorm
    before = {name for name, module in plain.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert before == {name for name, module in ours.named_modules() if isinstance(module, kind)}
    assert "norm" in before and not ours.trunk.bn1.training and ours.trunk.layer1.training
    assert all(
        value is held[name] for name, value in ours.named_parameters()
    )  # an optimizer made before still holds them
    ours.load_state_dict(plain.state_dict())
    encoder().load_state_dict(ours.state_dict())


def test_half_precision_keeps_its_statistics_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor)
    norm, x = convert_sync_batch_norm(nn.BatchNorm2d(3), "cpu"), torch.randn(64, 3, 9, 9) + 7
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x.bfloat16().to(memory_format=torch.channels_last))
    assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=torch.channels_last)
    mean_C = x.bfloat16().float().mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, 0.1 * mean_C, atol=TIGHT, rtol=TIGHT)
    with pytest.raises(ValueError, match="more than 1 value per channel over all ranks"):
        norm(x[:1, :, :1, :1])


def test_compiled_parts_compute_the_same_under_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way but for code generation, which takes minutes here: tests/benchmarks/training_speed.py does that."""
    from tests.conformance.test_method_contract import make_mixture

    monkeypatch.setattr(
        nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager", fullgraph=True)
    )
    torch.manual_seed(0)
    model, mixture = (
        build_method("cycle", 2, {"width": 4, "blocks": 1, "stages": 3}, {"embedding_size": 8}),
        make_mixture(2, 2),
    )
    names, [loss, _] = list(model.state_dict()), model(mixture)
    compiled = wrap_ddp(model, TrainingConfig(compile=True), torch.device("cpu"))
    assert compiled.image._compiled_call_impl is not None
    torch.testing.assert_close(compiled(mixture)[0], loss)
    assert list(model.state_dict()) == names
