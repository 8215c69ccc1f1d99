"""What of a tensor that fully_shard has spread over ranks? Gathered, spread, or combined with what every rank has."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn


def whole(tensor: Tensor, *, averaged: bool = False) -> Tensor:
    """Return a tensor that ``fully_shard`` has spread over ranks as one plain tensor, differentiably; others as is.

    Its gradient is taken to be the same on every rank, or is ``averaged`` over them. All ranks have to call this.
    """
    if not sharded(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    placements = [Partial("avg")] * tensor.device_mesh.ndim if averaged else None  # type: ignore[attr-defined]
    full: Tensor = tensor.full_tensor(grad_placements=placements)  # type: ignore[attr-defined]
    return full


def sharded(tensor: Tensor) -> bool:
    """Tell whether ``fully_shard`` has spread a tensor over ranks."""
    return hasattr(tensor, "full_tensor")


def reshard(model: nn.Module) -> None:
    """Have ``fully_shard`` put back the parameters that a forward without a backward, an evaluation, left gathered.

    What is written to gathered parameters is lost, and no optimizer knows them.
    """
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def replicated(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor``, equal on every rank, as what can be combined with ``like`` where that is spread over ranks."""
    if not sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor``, equal on every rank, spread over them as ``like`` is."""
    if not sharded(like):
        return tensor
    made: Tensor = replicated(tensor, like).redistribute(like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return made
