"""Shards of a batch on two processes: gradients that are averaged, as PyTorch does, and gradients that are added."""

from __future__ import annotations

import multiprocessing
import re
import socket
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import mithril_losses as ml

RANKS = 2
IGNORED = -100
PAGE = Path(__file__).parents[2] / "docs/pytorch.md"


def _problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, labels of which the second rank ignores more than the first, and the weight of a linear layer."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 8)
    labels[[1, 4, 5, 7]] = IGNORED
    return generator.standard_normal((8, 5)), labels, generator.standard_normal((3, 5))


def _rank(rank: int, port: int, results: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    try:
        results.put((rank, _train(rank)))
    finally:
        torch.distributed.destroy_process_group()


def _train(rank: int) -> dict[str, Any]:
    inputs, labels, weight = (torch.tensor(x) for x in _problem())
    own = slice(4 * rank, 4 * rank + 4)
    kept = (labels[own] != IGNORED).sum()
    torch.distributed.all_reduce(kept)

    model = torch.nn.Linear(5, 3, bias=False, dtype=torch.float64)
    model.weight.data.copy_(weight)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    found = {}
    for name, options in (
        ("count / ranks", {"normalizer": float(kept) / RANKS}),
        ("count", {"normalizer": float(kept)}),
        ("own count", {}),
    ):
        parallel.zero_grad()
        logits = parallel(inputs[own])
        gradient = ml.cross_entropy_with_logits_gradient(logits.detach(), labels[own], ignore_index=IGNORED, **options)
        logits.backward(gradient)
        found[name] = model.weight.grad.numpy().copy()
        summed = gradient.T @ inputs[own]
        torch.distributed.all_reduce(summed)
        found[f"{name}, added"] = summed.numpy()

        parallel.zero_grad()
        ml.cross_entropy_with_logits(parallel(inputs[own]), labels[own], ignore_index=IGNORED, **options).backward()
        found[f"{name}, by the loss"] = model.weight.grad.numpy().copy()
    found["distributed tensors"] = _of_distributed_tensors(logits.detach(), labels[own])
    _step_on_the_page()(parallel, torch.optim.SGD(parallel.parameters(), lr=1.0), inputs[own], labels[own])
    found["step"] = (weight - model.weight.detach()).numpy()
    return found


def _step_on_the_page() -> Callable[..., None]:
    """Return the last function on the page about PyTorch."""
    *_, block = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"torch": torch, "ml": ml}
    exec(compile(block, PAGE, "exec"), names)
    return cast(Callable[..., None], names["train_step"])


def _of_distributed_tensors(logits: torch.Tensor, labels: torch.Tensor) -> str:
    """Return the message for labels of which nothing says how they are split."""
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (RANKS,))
    try:
        ml.lovasz_softmax_loss(
            *(distribute_tensor(x, mesh, [Shard(0)]) for x in (logits.softmax(-1), labels.abs() % 3))
        )
    except TypeError as error:
        return str(error)
    return ""


@pytest.mark.exhaustive  # the processes import for long; by default those of `tests/shards` compute as much
class TwoProcesses(unittest.TestCase):
    found: dict[int, dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        processes = [context.Process(target=_rank, args=(rank, port, results)) for rank in range(RANKS)]
        for process in processes:
            process.start()
        try:
            cls.found = dict(results.get(timeout=240) for _ in processes)
        finally:
            for process in processes:
                process.join(timeout=30)
                process.kill()
        inputs, labels, weight = _problem()
        cls.whole = ml.cross_entropy_with_logits_gradient(inputs @ weight.T, labels, ignore_index=IGNORED).T @ inputs

    def test_averaged_gradients_take_the_count_of_all_ranks_over_their_number(self) -> None:
        for found in self.found.values():
            np.testing.assert_allclose(found["count / ranks"], self.whole, rtol=1e-12)
            np.testing.assert_allclose(found["count"], self.whole / RANKS, rtol=1e-12)

    def test_a_backward_pass_from_the_loss_gives_the_same(self) -> None:
        for found in self.found.values():
            np.testing.assert_allclose(found["count / ranks, by the loss"], self.whole, rtol=1e-12)
            for name in ("count", "own count"):
                np.testing.assert_allclose(found[f"{name}, by the loss"], found[name], rtol=1e-12)

    def test_the_step_on_the_page_is_that_of_the_whole_batch(self) -> None:
        for found in self.found.values():
            np.testing.assert_allclose(found["step"], self.whole, rtol=1e-12, atol=1e-15)

    def test_added_gradients_take_the_count_of_all_ranks(self) -> None:
        for found in self.found.values():
            np.testing.assert_allclose(found["count, added"], self.whole, rtol=1e-12)

    def test_counts_of_the_ranks_alone_are_another_loss(self) -> None:
        """Otherwise none of this would be needed."""
        for found in self.found.values():
            self.assertGreater(np.abs(found["own count"] - self.whole).max(), 0.01)

    def test_class_indices_that_are_shards_are_refused_in_words(self) -> None:
        for found in self.found.values():
            self.assertRegex(found["distributed tensors"], r"cannot be a DTensor: hand over the local parts")
