"""A next-token model on the text of this repository's README: one head of causal attention over its characters."""

import textwrap
from pathlib import Path

import numpy as np
import typer
from common import Learner, panels
from scipy.special import softmax

from mithril_losses import Objective, Term, get_backend
from mithril_losses.models import compile_model

TEXT = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CHARACTERS, TOKENS = np.unique(list(TEXT), return_inverse=True)
LENGTH, WIDTH = 48, 64  # how many characters the model reads, and how many numbers it keeps of each
TRAINING, HELD_OUT = np.split(TOKENS, [-10 * LENGTH])
SHAPES = {"embedding": (len(CHARACTERS), WIDTH), "position": (LENGTH, WIDTH), "out": (WIDTH, len(CHARACTERS))}
SHAPES |= dict.fromkeys(["query", "key", "value", "up", "down"], (WIDTH, WIDTH))


def network(xp, params, data):
    """Return the logits of the next character at each position, from the characters up to there."""
    x = xp.matmul(data["one_hot"], params["embedding"]) + params["position"]
    query, key, value = (xp.matmul(x, params[name]) for name in ("query", "key", "value"))
    scores = xp.einsum("bqd,bkd->bqk", query, key) / WIDTH**0.5 + data["mask"]
    attention = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    x = x + xp.matmul(attention, value) / xp.sum(attention, axis=-1, keepdims=True)
    x = x + xp.matmul(xp.tanh(xp.matmul(x, params["up"])), params["down"])
    return {"logits": xp.matmul(x, params["out"])}


def read(backend, windows):
    """Return what the model and its loss take of windows of tokens."""
    causal = np.triu(np.full((LENGTH, LENGTH), -1e9), k=1)  # no position looks ahead
    arrays = {"one_hot": np.eye(len(CHARACTERS))[windows], "tokens": windows, "mask": causal}
    return {name: backend.array(x) for name, x in arrays.items()}


def train(backend, steps):
    """Return what has learnt; and step, loss on the training text and loss on the held-out text, now and then."""
    backend = get_backend(backend, seed=0)
    params = {name: backend.generator.standard_normal(shape) / shape[0] ** 0.5 for name, shape in SHAPES.items()}
    learner = Learner(compile_model(network, backend.name), params, backend, learning_rate=2e-3)
    objective, losses = Objective([Term("next", "next_token_cross_entropy", "logits", "tokens")]), []
    held_out, span = read(backend, HELD_OUT.reshape(-1, LENGTH)), np.arange(LENGTH)
    for step in range(steps):
        data = read(backend, TRAINING[backend.generator.integers(len(TRAINING) - LENGTH, size=(32, 1)) + span])
        result = objective.evaluate(learner.outputs(data), data)
        learner.learn(data, result.output_gradients)
        if step % 10 == 0:
            test = objective.evaluate(learner.outputs(held_out), held_out, gradients=False)
            losses.append((step, float(result.loss), float(test.loss)))
    return learner, np.array(losses)


def main(backend: str = "numpy", steps: int = 1000, written: int = 720, picture: Path = Path("language.png")) -> None:
    learner, losses = train(backend, steps)
    random, tokens = np.random.default_rng(0), TOKENS[:LENGTH]
    for _ in range(written):
        logits = learner.outputs(read(learner.backend, tokens[None, -LENGTH:]))["logits"][0, -1]
        chances = softmax(learner.backend.to_numpy(logits).astype(np.float64))
        tokens = np.append(tokens, random.choice(len(CHARACTERS), p=chances))
    text = textwrap.fill("".join(CHARACTERS[tokens]).replace("\n", "¶"), LENGTH, drop_whitespace=False)
    print(f"nats per character: {losses[-1, 1]:.2f} of the training text, {losses[-1, 2]:.2f} of the held-out text")
    figure, (left, right) = panels(2)
    left.plot(losses[:, 0], losses[:, 1:], label=["training text", "held-out text"])
    left.set(xlabel="step", ylabel="nats per character", title="cross-entropy of the next character")
    left.legend()
    right.text(0.0, 1.0, text, family="monospace", fontsize=9, verticalalignment="top", parse_math=False)
    right.set(title="the README's first characters, continued", xticks=[], yticks=[])
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
