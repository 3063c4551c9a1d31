"""A model of the next character on four processes: each has half of the rows and half of the vocabulary."""

import tempfile

import torch
import torch.distributed as dist
import typer
from common import next_characters
from torch.distributed.device_mesh import init_device_mesh

from mithril_losses import Split, linear_cross_entropy


def train(inputs, labels, hidden, classes, steps, across=None):
    """Return the weights after some steps, and the loss of each step."""
    hidden, classes = hidden.clone().requires_grad_(), classes.clone().requires_grad_()
    optimizer, losses = torch.optim.Adam([hidden, classes], lr=0.03), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = linear_cross_entropy(torch.tanh(inputs @ hidden), classes, labels, across=across)
        loss.backward()
        if across is not None:  # what other rows contribute; the gradient of the classes is whole already
            dist.all_reduce(hidden.grad, group=across.rows)
        optimizer.step()
        losses.append(loss.item())
    return hidden.detach(), classes.detach(), torch.tensor(losses, dtype=torch.float64)


def work(rank, store, arrays, whole, steps, differences):
    """Train on the part of one process, and note how far it ends from that part of the whole."""
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "classes"))
    across = Split(rows=mesh.get_group("rows"), classes=mesh.get_group("classes"))
    row, column = mesh.get_local_rank("rows"), mesh.get_local_rank("classes")
    inputs, labels, hidden, classes = arrays
    parts = inputs.chunk(2)[row], labels.chunk(2)[row], hidden, classes.chunk(2)[column]
    found = train(*parts, steps, across)
    expected = whole[0], whole[1].chunk(2)[column], whole[2]
    differences[rank] = max(float((x - y).abs().max()) for x, y in zip(found, expected, strict=True))
    dist.destroy_process_group()


def main(steps: int = 20) -> None:
    arrays = [torch.tensor(x) for x in next_characters()]
    whole = train(*arrays, steps)
    print(f"one process: cross-entropy {whole[2][0]:.4f}, after {steps} steps {whole[2][-1]:.4f}")
    differences = torch.full((4,), torch.inf, dtype=torch.float64).share_memory_()
    with tempfile.TemporaryDirectory() as folder:
        given = f"file://{folder}/store", arrays, whole, steps, differences
        torch.multiprocessing.spawn(work, given, nprocs=4)
    print(f"four processes: the same weights and losses, to {differences.max():.1e}")
    if not differences.max() <= 1e-6:
        raise SystemExit("the processes do not train the same model")


if __name__ == "__main__":
    typer.run(main)
