"""The solvers of `_transport` as operators of PyTorch, so that `torch.compile` and `vmap` take each for one step."""

from typing import Any

import torch

from mithril_losses._transport import assignment_on_host


def _batched(info: Any, in_dims: tuple[int | None, ...], arrays: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Return arrays with the mapped axis in front."""
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(arrays, in_dims, strict=True)
    ]


def _assignment(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the partners of the points of x among those of y; on an accelerator, by way of the host."""
    return torch.from_numpy(assignment_on_host(x.cpu().numpy(), y.cpu().numpy())).to(x.device)


assignment: Any = torch.library.custom_op("mithril_losses::assignment", _assignment, mutates_args=())
assignment.register_fake(lambda x, y: x.new_empty(x.shape[:-1], dtype=torch.int64))
assignment.register_vmap(lambda info, in_dims, *points: (assignment(*_batched(info, in_dims, points)), 0))
