"""PyTorch: shards on the processes of a group, of tensors and of NumPy arrays."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from mithril_losses.backends.namespaces import Array


class Group:
    """The shards on the processes of a group.

    Attributes:
        size: the number of processes.
    """

    def __init__(self, group: Any, rank: int, size: int) -> None:
        self._group, self._rank, self.size = group, rank, size

    @staticmethod
    def of(across: Any) -> Group:
        """Return the shards of a `ProcessGroup`, or of a `DeviceMesh` of one dimension.

        Raises:
            ValueError: the group does not exist any more, or this process is not in it.
            TypeError: this is neither a group nor a mesh.
        """
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError("across needs a process group: call torch.distributed.init_process_group first")
        group = across
        if not isinstance(group, dist.ProcessGroup) and hasattr(across, "get_group"):
            if across.ndim != 1:
                raise ValueError(
                    f"across takes a mesh of one dimension, got {across.ndim}: choose one, such as mesh['data']"
                )
            group = across.get_group()
        if not isinstance(group, dist.ProcessGroup):
            if group == dist.GroupMember.NON_GROUP_MEMBER:
                raise ValueError("across is a group that this process is not in")
            raise TypeError(
                f"across must be a process group or a mesh of torch.distributed, or Split of these, got {across!r}"
            )
        try:
            return Group(group, dist.get_rank(group), dist.get_world_size(group))
        except ValueError as error:
            raise ValueError(f"across is a process group that does not exist any more ({error})") from None

    def rank(self) -> int:
        """As in `Shards`."""
        return self._rank

    def sum(self, x: Array) -> Array:
        """As in `Shards`."""
        return _as_tensor(x, lambda tensor: _Replicated.apply(tensor, self, dist.ReduceOp.SUM))

    def largest(self, x: Array) -> Array:
        """As in `Shards`."""
        return _as_tensor(x, lambda tensor: _Replicated.apply(tensor, self, dist.ReduceOp.MAX))

    def apart(self, x: Array) -> Array:
        """As in `Shards`."""
        return _Apart.apply(x, self) if isinstance(x, torch.Tensor) and x.requires_grad else x

    def reduce(self, x: torch.Tensor, operation: Any) -> torch.Tensor:
        """Return the tensors of all processes reduced into one, in new memory."""
        found = x.detach().clone(memory_format=torch.contiguous_format)
        with self._naming(f"all_reduce of {_described(found)}"):
            dist.all_reduce(found, operation, group=self._group)
        return found

    def shift(self, blocks: Sequence[Array], length: int | None = None) -> list[Array]:
        """As in `Shards`."""
        if self.size == 1:
            return list(blocks)
        are_numpy = [isinstance(x, np.ndarray) for x in blocks]
        leaving = [
            torch.from_numpy(np.ascontiguousarray(x)) if n else x for x, n in zip(blocks, are_numpy, strict=True)
        ]
        leaving = [x.detach().contiguous() for x in leaving]
        arriving = []
        for x in leaving:
            arriving.append(x.new_empty((len(x) if length is None else length, *x.shape[1:])))
        after, before = ((self._rank + step) % self.size for step in (1, -1))
        peers = [dist.get_global_rank(self._group, rank) for rank in (after, before)]
        with self._naming(f"exchange of {_described(leaving[0])} with its neighbours"):
            operations = [dist.P2POp(dist.isend, x, peers[0], self._group, tag=i) for i, x in enumerate(leaving)]
            operations += [dist.P2POp(dist.irecv, x, peers[1], self._group, tag=i) for i, x in enumerate(arriving)]
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        return [x.numpy() if n else x for x, n in zip(arriving, are_numpy, strict=True)]

    def gather(self, x: Array, lengths: Sequence[int]) -> Array:
        """As in `Shards`."""
        return _as_tensor(x, lambda tensor: self._all(tensor, lengths))

    def _all(self, x: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        own = x.new_zeros((max(lengths), *x.shape[1:]))  # gloo takes parts of one size
        own[: len(x)] = x.detach()
        every = [torch.empty_like(own) for _ in lengths]
        with self._naming(f"all_gather of {_described(own)}"):
            dist.all_gather(every, own, group=self._group)
        return torch.cat([part[:length] for part, length in zip(every, lengths, strict=True)])

    def scatter(self, x: Array, lengths: Sequence[int]) -> Array:
        """As in `Shards`."""
        first = sum(lengths[: self._rank])
        return self.sum(x)[first : first + lengths[self._rank]]

    def lengths(self, length: int, facts: str) -> tuple[int, ...]:
        """As in `Shards`."""
        own = torch.tensor([length, zlib.crc32(facts.encode())], dtype=torch.int64, device=self._device())
        every = [torch.empty_like(own) for _ in range(self.size)]
        with self._naming("comparison of the shards"):
            dist.all_gather(every, own, group=self._group)
            found = [x.tolist() for x in every]
            if len({code for _, code in found}) > 1:
                said = self.gathered(facts)
                kinds = {text: [rank for rank, other in enumerate(said) if other == text] for text in said}
                listed = "; ".join(f"{text} on rank {', '.join(map(str, ranks))}" for text, ranks in kinds.items())
                raise ValueError(f"the shards of this call do not fit together: {listed}")
        return tuple(int(n) for n, _ in found)

    def gathered(self, x: Any) -> list[Any]:
        """Return the objects of all processes, which are small, in the order of the ranks."""
        every: list[Any] = [None] * self.size
        with self._naming("exchange of facts"):
            dist.all_gather_object(every, x, group=self._group)
        return every

    def _device(self) -> str:
        """Return a device for small numbers that the host reads: the CPU, if the group can use it."""
        config = str(dist.get_backend_config(self._group))
        return "cpu" if "cpu" in config or "gloo" in config else torch.accelerator.current_accelerator().type

    @contextlib.contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """Say in one line what failed, where another process has ended or does not answer in time."""
        try:
            yield
        except ValueError:
            raise
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RuntimeError(
                f"{what} failed on rank {self._rank} of {self.size}: another process has ended, raised an error, or "
                f"did not make the same call within the time-out of the group ({cause[:200]})"
            ) from error


class _Replicated(torch.autograd.Function):  # type: ignore[misc]  # PyTorch has no types here
    """A reduction over all processes, whose result all of them go on to compute the same loss with.

    Each process differentiates its own copy of the loss, so what flows in is equal on all of them already: it is the
    derivative of the one loss. To add it up would multiply gradients by the number of processes.
    """

    @staticmethod
    def forward(x: torch.Tensor, group: Group, operation: Any) -> torch.Tensor:
        return group.reduce(x, operation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.is_sum = inputs[2] == dist.ReduceOp.SUM

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        return upstream if ctx.is_sum else torch.zeros_like(upstream), None, None


class _Apart(torch.autograd.Function):  # type: ignore[misc]  # PyTorch has no types here
    """The transpose of a sum over all processes, whose transpose is the sum."""

    @staticmethod
    def forward(x: torch.Tensor, group: Group) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        return ctx.group.sum(upstream), None


def _as_tensor(x: Array, function: Callable[[torch.Tensor], torch.Tensor]) -> Array:
    """Return the result of a function of tensors for a tensor, or for an array or number of NumPy."""
    if isinstance(x, torch.Tensor):
        return function(x)
    found = function(torch.from_numpy(np.array(x))).numpy()
    return found if isinstance(x, np.ndarray) else found[()]


def _described(x: torch.Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
