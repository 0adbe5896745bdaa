"""Collectives across ranks: all-gather with gradient, BatchNorm over all clips, DDP.

One law holds for all of it. DistributedDataParallel averages gradients, so the parameters follow the gradient of the *mean*
of the ranks' losses; whatever crosses ranks on the way must therefore carry back the *sum* of what all ranks' losses ask
for. With that, N ranks on a batch take the step of one process on the whole batch. Without a process group, or in a
group of one, everything here leaves its argument as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather, all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")


def world_size() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_offset(count: int) -> int:
    """Index of this rank's first row in the batch of all ranks, each of which has `count` rows."""
    return dist.get_rank() * count if world_size() > 1 else 0


def global_indices(rows: Tensor) -> Tensor:
    """Indices of this rank's rows in the batch of all ranks: int64 (N,)."""
    return global_offset(len(rows)) + torch.arange(len(rows), device=rows.device)


@torch.compiler.disable  # torch 2.11 would compile the collective, but lose its gradient
def all_gather_with_grad(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order, (N, ...) -> (ranks x N, ...), with a gradient to every rank's rows.

    A loss on the gathered batch, computed by every rank alike (or by each rank for its own rows, as a mean), has the value
    and, under DDP, the parameter gradient of one process with the whole batch: a row gets the sum over ranks of equal
    gradients, which DDP's average divides by the number of ranks again.

    All ranks must give rows of one shape. On the CPU another shape is a ValueError, on every rank; on a GPU looking
    would make Python wait each step, so there it is the caller's word.
    """
    if world_size() == 1:
        return rows
    if rows.device.type == "cpu":
        _refuse_unequal(rows)
    every = torch.cat(all_gather(rows))
    if every.requires_grad:
        # torch 2.11 sends a gradient in memory order: one with other strides (of a transpose) would arrive scrambled.
        every.register_hook(torch.Tensor.contiguous)
    return every


def next_rows_as_negatives(rows: Tensor) -> Tensor:
    """For each row of this rank the next one in the batch of all ranks, round in a circle: another pair's, as a negative.

    A mean over own rows that uses it keeps the law of `all_gather_with_grad`. A batch of one row has no other: ValueError.
    """
    first, every = global_offset(len(rows)), all_gather_with_grad(rows)
    if len(every) < 2:
        raise ValueError("a batch of one over all workers has no negatives: training.batch_size must be larger")
    return every.roll(-1, 0)[first : first + len(rows)]


@torch.no_grad()
def all_gather_variable_length(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order, without gradient, however many each has (a rank may have none).

    They travel by the group's own transport (CPU for gloo, CUDA for nccl) and come back to the device of `rows`. Rows must
    have one shape and dtype on all ranks that have any.
    """
    if world_size() == 1:
        return rows.detach()
    shapes = all_gather_objects([(tuple(rows.shape), rows.dtype)])
    most = max(shape[0] for shape, _ in shapes)
    row, dtype = next(((shape[1:], dtype) for shape, dtype in shapes if shape[0]), (rows.shape[1:], rows.dtype))
    carrier = torch.zeros(most, *row, dtype=dtype, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    if len(rows):
        carrier[: len(rows)] = rows.to(carrier.device)
    parts = [torch.empty_like(carrier) for _ in shapes]
    dist.all_gather(parts, carrier)
    return torch.cat([part[: shape[0]] for part, (shape, _) in zip(parts, shapes, strict=True)]).to(rows.device)


def all_gather_objects(own: list[T]) -> list[T]:
    """The lists of all ranks, joined in rank order: words, shapes, and other small things that can be pickled."""
    if world_size() == 1:
        return list(own)
    every: list[list[T]] = [[]] * world_size()
    dist.all_gather_object(every, own)
    return [each for part in every for each in part]


@torch.no_grad()
def all_reduce_max(values: Tensor) -> Tensor:
    """The elementwise maximum over all ranks of equally shaped tensors, on the device of `values`.

    Where the group communicates over nccl, Python does not wait for it.
    """
    if world_size() == 1:
        return values
    carrier = values.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    dist.all_reduce(carrier, op=dist.ReduceOp.MAX)
    return carrier.to(values.device)


def broadcast_from_rank_zero(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, on every rank: two machines may round a decision differently."""
    if world_size() == 1:
        return make()
    line: list[T | None] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(line, src=0)
    answer: T = line[0]  # type: ignore[assignment]
    return answer


def _refuse_unequal(rows: Tensor) -> None:
    shape = torch.tensor([rows.dim(), *rows.shape, *[0] * (8 - rows.dim())])  # of one length, whatever the shape is
    shapes = [torch.empty_like(shape) for _ in range(world_size())]
    dist.all_gather(shapes, shape)
    if any(not torch.equal(shape, other) for other in shapes):
        listed = ", ".join(str(tuple(other[1 : 1 + int(other[0])].tolist())) for other in shapes)
        raise ValueError(f"gather: the ranks' rows have different shapes, {listed}; each must give as many")


class CrossRankBatchNorm(_BatchNorm):
    """BatchNorm1d and 2d over the clips of all ranks, for the CPU, where torch's SyncBatchNorm refuses to run.

    In training mode mean and variance are those of the whole batch, whatever share of it each rank holds, in float32 (and
    without autocast); the gradient flows to all ranks' clips; the running variance is unbiased by the whole count. In
    evaluation mode it is nn.BatchNorm, as are the names of its parameters and buffers.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"BatchNorm: expected at least 2 dimensions, got {input.dim()}")

    @torch.compiler.disable  # as in `all_gather_with_grad`
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        with torch.autocast(input.device.type, enabled=False):
            return self._normalised(input if input.dtype == torch.float64 else input.float()).to(input.dtype)

    def _normalised(self, x: Tensor) -> Tensor:
        over, per_channel = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        own = x.new_tensor([x.numel() // x.shape[1]])
        total_C, count = all_reduce(torch.cat([x.sum(over), own])).split([x.shape[1], 1])
        if count <= 1:
            raise ValueError(f"BatchNorm: needs more than 1 value per channel over all ranks, got {tuple(x.shape)}")
        mean_C = total_C / count
        # Squares of what is centred on the mean of all ranks: E[x^2] - E[x]^2 would lose digits where the mean is large.
        centred = x - mean_C.view(per_channel)
        variance_C = all_reduce(centred.square().sum(over)) / count
        self._track(mean_C, variance_C * (count / (count - 1)))
        out = centred * (variance_C + self.eps).rsqrt().view(per_channel)
        return out * self.weight.view(per_channel) + self.bias.view(per_channel) if self.affine else out

    @torch.no_grad()
    def _track(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), share)


def convert_sync_batch_norm(module: nn.Module, device: torch.device | str) -> nn.Module:
    """The module with every BatchNorm in it taken over all ranks; parameters, buffers and all names stay the same.

    On CUDA they become torch's SyncBatchNorm, elsewhere `CrossRankBatchNorm`. Children are replaced in place; only where `module` is
    a BatchNorm itself is the result another object.
    """
    if torch.device(device).type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return synchronised
    if isinstance(module, _BatchNorm):
        return _over_all_ranks(module)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batch_norm(child, device))
    return module


def _over_all_ranks(norm: _BatchNorm) -> CrossRankBatchNorm:
    other = CrossRankBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    other.weight, other.bias = norm.weight, norm.bias  # the same tensors: an optimizer may hold them already
    other.running_mean, other.running_var = norm.running_mean, norm.running_var
    other.num_batches_tracked = norm.num_batches_tracked
    return other.train(norm.training)
