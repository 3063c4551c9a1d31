"""The model of `split_processes.py` on a mesh of eight devices: a quarter of the rows, half of the vocabulary each."""

import os
from functools import partial

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax  # which reads these flags when it is first used
import jax.numpy as jnp
import numpy as np
import typer
from common import next_characters
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mithril_losses import Split, linear_cross_entropy


def train(layers, inputs, labels, steps, across=None):
    """Return the weights after some steps, and the loss of each step."""

    def loss_of(layers):
        return linear_cross_entropy(jnp.tanh(inputs @ layers[0]), layers[1], labels, across=across)

    def step(layers, _):
        loss, slopes = jax.value_and_grad(loss_of)(layers)  # JAX adds what other rows contribute
        return jax.tree.map(lambda x, slope: x - 3.0 * slope, layers, slopes), loss

    return jax.lax.scan(step, layers, length=steps)


def main(steps: int = 20) -> None:
    jax.config.update("jax_enable_x64", True)
    inputs, labels, hidden, classes = next_characters()
    whole, losses = jax.jit(partial(train, steps=steps))((hidden, classes), inputs, labels)
    print(f"one device: cross-entropy {losses[0]:.4f}, after {steps} steps {losses[-1]:.4f}")
    mesh = jax.make_mesh((4, 2), ("rows", "classes"))
    layers = P(), P("classes")
    given = {"mesh": mesh, "in_specs": (layers, P("rows"), P("rows")), "out_specs": (layers, P())}
    split = jax.shard_map(partial(train, steps=steps, across=Split(rows="rows", classes="classes")), **given)
    arrays = (hidden, classes), inputs, labels
    placed = jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), arrays, given["in_specs"])
    found = jax.jit(split)(*placed)
    gaps = jax.tree.map(lambda x, y: float(abs(np.asarray(x) - np.asarray(y)).max()), found, (whole, losses))
    difference = max(jax.tree.leaves(gaps))
    print(f"eight devices: the same weights and losses, to {difference:.1e}")
    if not difference <= 1e-6:
        raise SystemExit("the devices do not train the same model")


if __name__ == "__main__":
    typer.run(main)
