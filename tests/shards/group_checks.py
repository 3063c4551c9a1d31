"""Checks on the processes of a group: of tensors and of NumPy arrays, split unevenly."""

from __future__ import annotations

import functools
import os
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from problems import (
    CLASS_OPTIONS,
    LAYER_OPTIONS,
    REDUCTIONS,
    RINGS,
    ROWS,
    batched,
    of_classes,
    of_layer,
    of_pairs,
    of_training,
    refuses,
    same,
)
from running import Gone, run
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

import mithril_losses as ml
from mithril_losses import fit, limits
from mithril_losses.models import CallableModel, TorchModel
from mithril_losses.training import Adam, UserError
from mithril_losses.training.ranks import Ranks

CHECKS: dict[str, Callable[[], None]] = {}
RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("RANKS", 1))


def check(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of a name a check for each of the names, "name of the function: name"."""

    def record(function: Callable[..., None]) -> Callable[..., None]:
        title = function.__name__.replace("_", " ")
        for name in names or ("",):
            CHECKS[f"{title}: {name}" if name else title] = functools.partial(function, *([name] if name else []))
        return function

    return record


def world() -> Any:
    return dist.group.WORLD


def own(rows: int) -> slice:
    """Return the rows of this process: the first one has none."""
    bounds = np.linspace(0, rows, RANKS + 1).astype(int)
    if RANKS > 1:
        bounds[1] = 0
    return slice(int(bounds[RANK]), int(bounds[RANK + 1]))


# --- rows -------------------------------------------------------------------------------------------------------------


@check(*ROWS)
def rows(name: str) -> None:
    """The value, the gradient, both at once and `backward()` are those of all rows; one process has none of them."""
    whole = batched(ROWS[name], 6)
    at = own(6)
    part = whole.cut(at)
    value, _ = whole.pair.plain(*whole.arrays.values(), **whole.options)
    local = {n: g if n not in whole.batch else g[at] for n, g in whole.by_argument().items()}
    expected = local if len(local) > 1 else next(iter(local.values()))
    for library in ("torch", "numpy"):
        arguments, options = part.arguments(library), part.keywords(library, across=world())
        same(part.pair.value(*arguments, **options), value)
        same(part.pair.gradient(*arguments, **options), expected)
        same(ml.value_and_gradient(part.pair)(*arguments, **options), (value, expected))
    tensors = dict(zip(part.arrays, part.arguments("torch"), strict=True))
    for argument in part.pair.wrt:
        tensors[argument].requires_grad_()
    loss = part.pair.value(*tensors.values(), **part.keywords("torch", across=world()))
    loss.backward()
    same(loss.detach(), value)
    same({n: tensors[n].grad for n in local}, local)


@check(*REDUCTIONS)
def reductions(name: str) -> None:
    """Every reduction, with weights."""
    p, t = batched(ROWS["huber_loss"], 9).arrays.values()
    w, at, given = np.random.default_rng(5).integers(0, 3, (9, 1)) / 2.0, own(9), REDUCTIONS[name]
    value, gradient = ml.value_and_gradient(ml.huber_loss)(p, t, weights=w, **given)
    found = ml.value_and_gradient(ml.huber_loss)(p[at], t[at], weights=w[at], across=world(), **given)
    same(found, (value[at] if name == "none" else value, gradient[at]))


@check()
def all_rows_are_ignored() -> None:
    logits, labels = torch.randn(4, 3), torch.full((4,), -100)
    logits.requires_grad_()
    loss = ml.cross_entropy_with_logits(logits, labels, ignore_index=-100, across=world())
    loss.backward()
    same(loss.detach(), np.float64(0.0))
    same(logits.grad, np.zeros((4, 3)))


@check()
def the_derivative_by_weights_is_that_of_the_plain_function() -> None:
    p, t = (torch.tensor(x) for x in batched(ROWS["mse_loss"], 6).arrays.values())
    w, at = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)[:, None].requires_grad_(), own(6)
    ml.mse_loss(p, t, weights=w, reduction="weighted_mean").backward()
    mine = w.detach()[at].requires_grad_()
    ml.mse_loss(p[at], t[at], weights=mine, reduction="weighted_mean", across=world()).backward()
    same(mine.grad, w.grad[at])


@check()
def second_derivatives() -> None:
    p, t = (torch.tensor(x) for x in batched(ROWS["log_cosh_loss"], 6).arrays.values())
    at = own(6)
    whole = p.clone().requires_grad_()
    (first,) = torch.autograd.grad(ml.log_cosh_loss(whole, t), whole, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), whole)
    mine = p[at].clone().requires_grad_()
    (first,) = torch.autograd.grad(ml.log_cosh_loss(mine, t[at], across=world()), mine, create_graph=True)
    (own_second,) = torch.autograd.grad((first**2).sum(), mine)
    same(own_second, second[at])


@check("log_cosh_loss", "kl_divergence", "cross_entropy_with_logits", "wasserstein_discriminator_loss")
def hessians(name: str) -> None:
    """Diagonals, and products with a vector, of the own rows; large arrays go the same way as small ones."""
    whole = batched(ROWS[name], 6)
    part, at, pair = whole.cut(own(6)), own(6), whole.pair
    vectors = {n: np.cos(np.arange(1.0, whole.arrays[n].size + 1)).reshape(whole.arrays[n].shape) for n in pair.wrt}

    def vector(rows: Any) -> Any:
        found = {n: x[rows] for n, x in vectors.items()}
        return {"vector": found if len(found) > 1 else next(iter(found.values()))}

    def of_rows(x: Any) -> Any:
        return {n: g[at] for n, g in x.items()} if isinstance(x, dict) else x[at]

    product, all_three = ml.hessian_vector_product(pair.value), ml.value_gradient_and_hessian(pair.value)
    expected = of_rows(product(*whole.arrays.values(), **vector(slice(None)), **whole.options))
    three = all_three(*whole.arrays.values(), **whole.options)
    given = {**part.options, "across": world()}
    for size in (limits.current.large, 1):
        with limits.changed(large=size if RANK else limits.current.large):
            same(product(*part.arrays.values(), **vector(at), **given), expected)
            same(all_three(*part.arrays.values(), **given), (three[0], of_rows(three[1]), of_rows(three[2])))


@check()
def hessians_of_classes_are_refused() -> None:
    z, p = torch.ones(2, 3), torch.full((2, 3), 1 / 3)
    across = ml.Split(classes=world())
    for loss, x, t in ((ml.cross_entropy_with_logits, z, p), (ml.kl_divergence, p, p)):
        refuses(
            lambda loss=loss, x=x, t=t: ml.hessian_diagonal(loss)(x, t, across=across),
            ValueError,
            "take no Split(classes=…): only rows may be split",
        )


@check()
def transforms_of_functions() -> None:
    """`torch.func.grad` of a loss of rows and of one of classes."""
    p, t = (torch.tensor(x) for x in batched(ROWS["mse_loss"], 6).arrays.values())
    at = own(6)
    found = torch.func.grad(lambda p: ml.mse_loss(p, t[at], across=world()))(p[at])
    same(found, ml.mse_loss_gradient(p, t)[at])
    logits, labels, *_ = (torch.tensor(x) for x in of_classes())
    at, across = own_classes(8), ml.Split(classes=world())
    loss = functools.partial(ml.cross_entropy_with_logits, ignore_index=-100)
    found = torch.func.grad(lambda z: loss(z, labels, across=across))(logits[:, at])
    same(found, torch.func.grad(loss)(logits, labels)[:, at])


@check()
def a_compiled_step() -> None:
    """`torch.compile` breaks its graph at the loss."""
    p, t = (torch.tensor(x) for x in batched(ROWS["mse_loss"], 6).arrays.values())
    at = own(6)
    mine = p[at].clone().requires_grad_()
    step = torch.compile(lambda x: ml.mse_loss(2.0 * x, t[at], across=world()), backend="aot_eager")
    loss = step(mine)
    loss.backward()
    same(loss.detach(), ml.mse_loss(2.0 * p, t))
    same(mine.grad, 2.0 * ml.mse_loss_gradient(2.0 * p, t)[at])


@check()
def a_mesh_of_one_dimension() -> None:
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,), mesh_dim_names=("data",))
    p, t = (torch.tensor(x) for x in batched(ROWS["mse_loss"], 6).arrays.values())
    same(ml.mse_loss(p[own(6)], t[own(6)], across=mesh["data"]), ml.mse_loss(p, t))


@check()
def large_shards_go_the_same_way_as_small_ones() -> None:
    """A compiled loop would need other collectives than the plain functions."""
    rows = 200_000 if RANK else 2
    p, t = torch.ones(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
    value, gradient = ml.value_and_gradient(ml.mse_loss)(p, t, across=world())
    assert float(value) == 1.0
    same(gradient, np.full(rows, 2.0 / (200_000 * (RANKS - 1) + 2)))
    labels = torch.zeros(rows // 2, dtype=torch.int64)
    labels[1:] = -100 if RANK == 0 else 1
    given = {"ignore_index": -100, "weights": torch.ones(rows // 2) * 2.0, "reduction": "weighted_mean"}
    z = torch.zeros(rows // 2, 4, dtype=torch.float64, requires_grad=True)
    loss = ml.cross_entropy_with_logits(z, labels, across=world(), **given)
    loss.backward()
    same(loss.detach(), np.log(4.0))
    count = 1 + 100_000 * (RANKS - 1)
    same(z.grad[0], np.array([-0.75, 0.25, 0.25, 0.25]) / count)


# --- classes ----------------------------------------------------------------------------------------------------------


def own_classes(count: int) -> slice:
    """Return the classes of this process: the first one has one."""
    bounds = [0, 1, *np.linspace(1, count, RANKS).astype(int)[1:]] if RANKS > 1 else [0, count]
    return slice(int(bounds[RANK]), int(bounds[RANK + 1]))


@check(*CLASS_OPTIONS)
def classes(name: str) -> None:
    """Cross-entropy with every option, of classes that are split unevenly."""
    logits, labels, probabilities, weights = of_classes()
    logits[0, 5] = logits[1, :4] = -np.inf
    at, across = own_classes(8), ml.Split(classes=world())
    targets = labels if name.startswith("labels") else probabilities
    given = {n: x for n, x in CLASS_OPTIONS[name].items() if n != "class_weights"}
    own_targets = targets if targets.ndim == 1 else targets[:, at]
    whole, own = (
        {"class_weights": w} if "class_weights" in CLASS_OPTIONS[name] else {} for w in (weights, weights[at])
    )
    for loss in (ml.cross_entropy_with_logits, ml.cross_entropy_loss):
        scores = (
            logits if loss is ml.cross_entropy_with_logits else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        )
        both = ml.value_and_gradient(loss)
        value, gradient = both(scores, targets, **given, **whole)
        same(both(scores[:, at], own_targets, **given, **own, across=across), (value, gradient[:, at]))
        z = torch.tensor(scores[:, at], requires_grad=True)
        tensors = {n: torch.tensor(x) for n, x in own.items()}
        found = loss(z, torch.tensor(own_targets), **given, **tensors, across=across)
        found.sum().backward()
        same(found.detach(), value)
        same(z.grad, gradient[:, at])


@check(*LAYER_OPTIONS)
def a_layer(name: str) -> None:
    """The weight split by classes, or the hidden layer by rows."""
    arrays, options = of_layer(), {"ignore_index": -100} | LAYER_OPTIONS[name]
    arrays = {n: x for n, x in arrays.items() if options.get(n, 0) is not None}
    options = {n: x for n, x in options.items() if x is not None}
    value, gradient = ml.value_and_gradient(ml.linear_cross_entropy)(**arrays, **options)
    split_classes = dict.fromkeys(("weight", "bias", "class_weights"), own_classes(8))
    for across, at in (
        (world(), dict.fromkeys(("hidden", "targets"), own(6))),
        (ml.Split(classes=world()), split_classes),
    ):
        expected = {n: g[at.get(n, slice(None))] for n, g in gradient.items()}
        parts = {n: x[at.get(n, slice(None))] for n, x in arrays.items()}
        found = ml.value_and_gradient(ml.linear_cross_entropy)(**parts, **options, across=across)
        same(found, (value, expected))
        tensors = {n: torch.tensor(x) for n, x in parts.items()}
        for n in gradient:
            tensors[n].requires_grad_()
        loss = ml.linear_cross_entropy(**tensors, **options, across=across)
        loss.backward()
        same(loss.detach(), value)
        same({n: tensors[n].grad for n in gradient}, expected)


@check()
def second_derivatives_of_split_classes() -> None:
    logits, labels, *_ = of_classes()
    at, labels = own_classes(8), torch.tensor(labels)
    found = {}
    for name, z, given in (
        ("whole", torch.tensor(logits), {}),
        ("own", torch.tensor(logits[:, at]), {"across": ml.Split(classes=world())}),
    ):
        z.requires_grad_()
        loss = ml.cross_entropy_with_logits(z, labels, ignore_index=-100, **given)
        (first,) = torch.autograd.grad(loss, z, create_graph=True)
        (found[name],) = torch.autograd.grad((first**2).sum(), z)
    same(found["own"], found["whole"][:, at], atol=1e-12)


@check("arcface_loss", "cosface_loss")
def angular_margins(name: str) -> None:
    """The weight split by classes, or the embeddings by rows."""
    pair, layer = ml.catalogue()[name], of_layer()
    arrays = {"embeddings": layer["hidden"], "weight": layer["weight"], "targets": np.abs(layer["targets"]) % 8}
    weights = np.ones(6)
    weights[:3] = 0.0  # all those of a process
    value, gradient = ml.value_and_gradient(pair)(**arrays, scale=8.0, weights=weights)
    arrays["weights"] = weights
    rows = dict.fromkeys(("embeddings", "targets", "weights"), own(6))
    for across, at in ((world(), rows), (ml.Split(classes=world()), {"weight": own_classes(8)})):
        expected = {n: g[at.get(n, slice(None))] for n, g in gradient.items()}
        parts = {n: x[at.get(n, slice(None))] for n, x in arrays.items()}
        found = ml.value_and_gradient(pair)(**parts, scale=8.0, across=across)
        same(found, (value, expected), rtol=1e-11)
        tensors = {n: torch.tensor(x) for n, x in parts.items()}
        tensors["embeddings"].requires_grad_()
        tensors["weight"].requires_grad_()
        pair.value(**tensors, scale=8.0, across=across).backward()
        same({n: tensors[n].grad for n in gradient}, expected, rtol=1e-11)


@check("list_net_loss", "focal_loss_with_logits", "hinge_loss")
def other_losses_of_classes(name: str) -> None:
    """Lists of items that are split; sums of element-wise losses over the classes."""
    scores, _, q, _ = of_classes()
    q = 3.0 * q if name == "list_net_loss" else 2.0 * (q > 0.1) - 1.0 if name == "hinge_loss" else 1.0 * (q > 0.1)
    at, pair, across = own_classes(8), ml.catalogue()[name], ml.Split(classes=world())
    for given in ({}, {"reduction": "batch_sum"}):
        value, gradient = ml.value_and_gradient(pair)(scores, q, **given)
        same(ml.value_and_gradient(pair)(scores[:, at], q[:, at], **given, across=across), (value, gradient[:, at]))
        mine = torch.tensor(scores[:, at], requires_grad=True)
        pair.value(mine, torch.tensor(q[:, at]), **given, across=across).backward()
        same(mine.grad, gradient[:, at])


@check()
def divergences_of_classes_that_are_split() -> None:
    _, _, p, _ = of_classes(1)
    _, _, q, _ = of_classes(2)
    at = own_classes(8)
    for loss in (ml.kl_divergence, ml.js_divergence):
        value, gradient = ml.value_and_gradient(loss)(p, q)
        found = ml.value_and_gradient(loss)(p[:, at], q[:, at], across=ml.Split(classes=world()))
        same(found, (value, gradient[:, at]))


@check()
def rows_that_do_not_fit_each_other() -> None:
    """Every rank raises the same line, where a collective of different sizes would not return."""
    logits, labels = torch.ones(3 + RANK, 2), torch.zeros(3 + RANK, dtype=torch.int64)
    refuses(
        lambda: ml.cross_entropy_with_logits(logits, labels, across=ml.Split(classes=world())),
        ValueError,
        "logits of float32 in (3,) rows, targets of 1 dimensions on rank 0",
    )


@check()
def training() -> None:
    """Twenty steps over data and vocabulary end where those of one process do."""
    arrays = {n: torch.tensor(x) for n, x in of_training().items()}
    shape = (2, RANKS // 2) if RANKS % 2 == 0 else (1, RANKS)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "model"))
    across = ml.Split(rows=mesh["data"], classes=mesh["model"])

    def train(inputs: Any, labels: Any, hidden: Any, classes: Any, group: Any, **given: Any) -> Any:
        layers = [hidden.clone().requires_grad_(), classes.clone().requires_grad_()]
        optimizer = torch.optim.SGD(layers, lr=0.3)
        for _ in range(20):
            optimizer.zero_grad()
            states = torch.tanh(inputs @ layers[0])
            ml.linear_cross_entropy(states, layers[1], labels, ignore_index=-100, z_loss=1e-3, **given).backward()
            if group is not None:  # the rows of the other ranks have their share in the hidden layer
                dist.all_reduce(layers[0].grad, group=group)
            optimizer.step()
        return tuple(x.detach() for x in layers)

    whole = train(**arrays, group=None)
    rows, columns = (np.array_split(np.arange(n), k) for n, k in zip((16, 12), shape, strict=True))
    at, own_columns = rows[mesh.get_local_rank("data")], columns[mesh.get_local_rank("model")]
    parts = arrays | {"inputs": arrays["inputs"][at], "labels": arrays["labels"][at]}
    parts["classes"] = arrays["classes"][own_columns]
    found = train(**parts, group=mesh.get_group("data"), across=across)
    same(found, (whole[0], whole[1][own_columns]), rtol=1e-10)


@check()
def objectives() -> None:
    """Every term of an objective is that of all rows; a regularizer counts once."""
    arrays = batched(ROWS["huber_loss"], 6).arrays
    p, t = arrays.values()
    terms = [ml.Term("near", "huber_loss", "out", "true", weight=0.5), ml.Term("far", "mse_loss", "out", "true")]
    objective = ml.Objective(terms, [ml.Regularizer("l2_regularization")])
    params = {"w": np.arange(3.0)}
    whole = objective.evaluate({"out": p}, {"true": t}, params)
    at = own(6)
    found = objective.evaluate({"out": p[at]}, {"true": t[at]}, params, across=world())
    same((found.loss, found.components), (whole.loss, whole.components))
    same(found.output_gradients, {"out": whole.output_gradients["out"][at]})
    same(found.parameter_gradients, whole.parameter_gradients)
    alone = objective.evaluate({"out": p[at]}, {"true": t[at]}, params, gradients=False, across=world())
    same(alone.components, whole.components)
    penalties = params, {"w": np.ones(3)}
    products = objective.hessian_products({"out": p}, {"true": t}, {"out": t}, *penalties)
    own_products = objective.hessian_products(
        {"out": p[at]}, {"true": t[at]}, {"out": t[at]}, *penalties, across=world()
    )
    same(own_products, ({"out": products[0]["out"][at]}, products[1]))
    style = ml.Objective([ml.Term("bound", "vae_loss", {"recon_x": "r", "mu": "m", "logvar": "v"}, {"x": "x"})])
    x = np.full((2, 2), 0.5)
    refuses(
        lambda: style.evaluate(dict.fromkeys("rmv", x), {"x": x}, across=world()),
        ValueError,
        "vae_loss takes no across=",
    )


@check()
def composed_losses() -> None:
    """Each loss of a sum is that of all rows; a penalty of parameters counts once."""
    p, t = batched(ROWS["huber_loss"], 6).arrays.values()
    at, params = own(6), {"w": np.arange(3.0)}
    penalty = functools.partial(ml.l2_regularization, lambda_reg=0.1)
    loss = ml.CompositeLoss([ml.WeightedLoss(ml.huber_loss, 0.5), ml.mse_loss, penalty], return_components=True)
    whole = ml.value_and_gradient(loss)(p, t, params=params)
    expected = {"predictions": whole[1]["predictions"][at], "params": whole[1]["params"]}
    same(ml.value_and_gradient(loss)(p[at], t[at], params=params, across=world()), (whole[0], expected))
    same(loss(p[at], t[at], params=params, across=world()), whole[0])
    same(loss.gradient(p[at], t[at], params=params, across=world()), expected)
    mine = torch.tensor(p[at], requires_grad=True)
    total = ml.CompositeLoss([ml.mse_loss, ml.ScheduledLoss(ml.huber_loss, lambda step: 0.5 * step)])
    total(mine, torch.tensor(t[at]), step=1, across=world()).backward()
    same(mine.grad, expected["predictions"])
    term = ml.Objective([ml.Term("sum", total, "out", "true")])
    found = term.evaluate({"out": p[at]}, {"true": t[at]}, step=1, across=world())
    same(found.output_gradients["out"], expected["predictions"])
    x = np.full((2, 2), 0.5)
    mixed = ml.CompositeLoss([ml.mse_loss, ml.vae_loss])
    refuses(lambda: mixed(x, x, x, x, x, x, across=world()), ValueError, "vae_loss takes no across=")


# --- fit --------------------------------------------------------------------------------------------------------------

BATCHES = np.random.default_rng(2).standard_normal((3, 9, 4))  # of 9 rows with 3 inputs and a target


def parts_of(batches: Any, split: bool) -> list[dict[str, np.ndarray]]:
    """Return batches by name: those of this process, of uneven lengths, or whole ones."""
    rows = np.array_split(np.arange(9), RANKS)[RANK] if split else slice(None)
    return [{"x": batch[rows, :3], "y": batch[rows, 3:]} for batch in batches]


def fitted(library: str, group: Any, dropout: float = 0.0, **changes: Any) -> Any:
    """Fit a small network to the own rows of each batch, or to all of them if there is no group."""
    objective = ml.Objective(
        [ml.Term("error", "mse_loss", output="y", target="y")], [ml.Regularizer("l2_regularization", weight=0.01)]
    )
    model: Any = CallableModel(
        forward=lambda params, data: {"y": data["x"] @ params["w"]},
        vjp=lambda params, data, gradients: {"w": data["x"].T @ gradients["y"]},
    )
    params: Any = {"w": np.zeros((3, 1))}
    if library == "torch":
        torch.manual_seed(0)
        layers = torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5, momentum=0.1), torch.nn.Dropout(dropout)
        network = torch.nn.Sequential(*(layers if dropout else layers[:1]), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        model = TorchModel(network.double(), output_names=["y"])
        params = model.parameters()
        torch.manual_seed(RANK)
    given: dict[str, Any] = {
        "optimizer": Adam(0.05), "epochs": 4, "clip_norm": 1.0, "across": group,
        "inputs": {"input": "x"} if library == "torch" else None,
        "evaluate_on": {"validation": parts_of(-BATCHES, group is not None)},
        "metrics": {"mae": lambda outputs, batch: abs(outputs["y"] - batch["y"]).mean()},
    }  # fmt: skip
    return fit(model, objective, params, parts_of(BATCHES, group is not None), **(given | changes))


@check("torch", "numpy")
def fits(library: str) -> None:
    """The history is that of one process with whole batches, on all ranks; so are the parameters."""
    whole, found = fitted(library, None), fitted(library, world())
    histories: list[Any] = [None] * RANKS
    dist.all_gather_object(histories, found.history)
    assert all(history == found.history for history in histories)
    for own, expected in zip(found.history, whole.history, strict=True):
        assert own == pytest.approx(expected, rel=1e-10), (own, expected)
    for name, x in whole.params.items():
        same(found.params[name], x, rtol=1e-10)


@check()
def a_fit_that_is_resumed() -> None:
    """Random numbers and buffers of each process are kept; the first process alone writes."""
    folder = Path(os.environ["STORE"]).parent
    whole = fitted("torch", world(), dropout=0.3, checkpoint=folder / "whole.npz", overwrite=True)
    part = {"checkpoint": folder / "part.npz", "optimizer": functools.partial(torch.optim.Adam, lr=0.05)}
    fitted("torch", world(), dropout=0.3, **part, epochs=2)
    found = fitted("torch", world(), dropout=0.3, **part, resume=True)
    expected = fitted("torch", world(), dropout=0.3, **(part | {"checkpoint": None}))
    assert found.history == expected.history
    assert whole.steps == found.steps
    refuses(lambda: fitted("torch", world(), dropout=0.3, **part), UserError, "holds a run already")
    if not RANK:
        refuses(lambda: fitted("torch", None, dropout=0.3, **part, resume=True), UserError, f"with ranks = {RANKS}")
    dist.barrier()
    broken = {"checkpoint": folder / "part.npz" / "run.npz"}  # below a file
    refuses(lambda: fitted("numpy", world(), **broken), UserError, "rank 0 cannot go on" if RANK else "cannot write")


@check()
def fits_that_end_together() -> None:
    """A callback of any process, and patience."""
    stopped = fitted("numpy", world(), callbacks=[lambda epoch: RANK == RANKS - 1 and epoch.record["epoch"] == 2])
    assert (stopped.stopped, len(stopped.history)) == ("callback", 2)
    patient = {"patience": 1, "monitor": "validation_mae", "maximize": True}
    assert fitted("numpy", world(), **patient).history == fitted("numpy", world(), **patient).history
    assert fitted("numpy", world(), **patient).stopped == fitted("numpy", None, **patient).stopped


@check()
def fits_that_do_not_fit_together() -> None:
    refuses(
        lambda: fitted("numpy", world(), epochs=2 + RANK), ValueError, "do not fit together: 2 epochs after epoch 0"
    )
    own = parts_of(BATCHES, True)
    objective = ml.Objective([ml.Term("error", "mse_loss", output="y", target="y")])
    model = CallableModel(
        forward=lambda params, data: {"y": data["x"] @ params["w"]},
        vjp=lambda params, data, gradients: {"w": data["x"].T @ gradients["y"]},
    )

    def run(data: Any, start: float = 0.0, across: Any = None) -> Any:
        params = {"w": np.full((3, 1), start)}
        return fit(model, objective, params, data, optimizer=Adam(0.1), epochs=1, across=across or world())

    refuses(lambda: run(own[: 2 + (RANK > 0)]), ValueError, "2 batches in epoch 1 on rank 0; more than 2 batches")
    refuses(lambda: run(own, start=float(RANK)), ValueError, "parameters with the checksum")
    refuses(
        lambda: run(3 if RANK else own), *((TypeError, "data must be") if RANK else (UserError, "rank 1 cannot go on"))
    )
    refuses(lambda: run(own, across=ml.Split(classes=world())), ValueError, "fit splits batches, and not classes")
    refuses(lambda: run(own, across="data"), ValueError, "take a process group")
    refuses(lambda: Ranks(world()).require("jax"), ValueError, "across is for parameters of PyTorch and NumPy")


# --- pairs ------------------------------------------------------------------------------------------------------------


@check(*RINGS)
def gathered(name: str) -> None:
    ring(name, ml.Split(rows=world(), gather=True))


@check(*RINGS)
def ring(name: str, across: Any = None) -> None:
    """Contrastive losses of embeddings that are split unevenly: by value, gradient and `backward()`."""
    across = across or world()
    pair, arrays = ml.catalogue()[name], of_pairs(name)
    weights, at = np.array([1.0, 0.0, 2.0, 1.0, 0.5, 0.0, 0.0, 3.0]), own(8)
    for given in ({}, {"weights": weights, "reduction": "weighted_mean"}):
        value, gradient = ml.value_and_gradient(pair)(*arrays.values(), **given)
        parts = {n: x[at] if x.ndim else x for n, x in arrays.items()}
        apart = gradient if len(pair.wrt) > 1 else {pair.wrt[0]: gradient}
        expected = {n: g[at] if g.ndim else g for n, g in apart.items()}
        mine = given | ({"weights": weights[at]} if given else {})
        both = expected if len(expected) > 1 else next(iter(expected.values()))
        found = ml.value_and_gradient(pair)(*parts.values(), **mine, across=across)
        same(found, (value, both))
        tensors = {n: torch.tensor(x) for n, x in parts.items()}
        for argument in pair.wrt:
            tensors[argument].requires_grad_()
        mine = {n: torch.tensor(x) if isinstance(x, np.ndarray) else x for n, x in mine.items()}
        loss = pair.value(*tensors.values(), **mine, across=across)
        loss.backward()
        same(loss.detach(), value)
        same({n: tensors[n].grad for n in expected}, expected)


@check()
def memory_of_a_ring() -> None:
    """No process holds the logits of its rows with all columns, nor those of its own block at once."""
    rows = 2048
    x, y = np.random.default_rng(RANK).standard_normal((2, rows, 8))
    tracemalloc.start()
    ml.value_and_gradient(ml.clip_loss)(x, y, np.array(1.0), across=world())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * rows * rows * RANKS / 1.5, f"{peak / 2**20:.0f} MiB"


@check()
def a_ring_is_differentiated_once() -> None:
    queries, keys = (torch.tensor(x[own(8)], requires_grad=True) for x in of_pairs("info_nce_loss").values())
    loss = ml.info_nce_loss(queries, keys, across=world())
    refuses(
        lambda: torch.autograd.grad(loss, queries, create_graph=True)[0].sum().backward(),
        ValueError,
        "a loss over pairs of shards can be differentiated once",
    )
    temperature = torch.tensor(0.1, requires_grad=True)
    refuses(
        lambda: ml.info_nce_loss(queries, keys, temperature=temperature, across=world()),
        ValueError,
        "a loss over pairs of shards can be differentiated once",
    )


@check()
def embeddings_that_do_not_fit_each_other() -> None:
    x = torch.ones(2, 3 + RANK)
    refuses(lambda: ml.info_nce_loss(x, x, across=world()), ValueError, "3 coordinates of float32 on rank 0")
    x, across = torch.ones(2, 3), ml.Split(rows=world(), gather=True) if RANK else world()
    refuses(lambda: ml.info_nce_loss(x, x, across=across), ValueError, "float32, gathered on rank 1")


# --- distributed tensors ----------------------------------------------------------------------------------------------


def distributed(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any], list[dict[str, int]]]:
    """Return the arguments of a loss, its options, and by which axis each may be split in turn."""
    logits, labels, probabilities, weights = of_classes()
    layer = of_layer()
    if name == "cross_entropy_with_logits":
        by_row, by_class = {"logits": 0, "targets": 0}, {"logits": 1, "class_weights": 0}
        options = {"ignore_index": -100, "label_smoothing": 0.1}
        return {"logits": logits, "targets": labels, "class_weights": weights}, options, [by_row, by_class]
    if name == "cross_entropy_loss":
        return {"predictions": probabilities, "targets": np.abs(labels) % 8}, {}, [{"predictions": 0, "targets": 0}]
    if name == "linear_cross_entropy":
        by_class = {"weight": 0, "bias": 0, "class_weights": 0}
        return layer, {"ignore_index": -100}, [{"hidden": 0, "targets": 0}, by_class]
    if name == "mse_loss":
        return {"predictions": logits, "targets": probabilities}, {}, [dict.fromkeys(("predictions", "targets"), 0)]
    pairs = of_pairs(name)
    return pairs, {}, [{n: 0 for n, x in pairs.items() if x.ndim}]


@check(
    "cross_entropy_with_logits", "cross_entropy_loss", "linear_cross_entropy", "mse_loss", "clip_loss", "nt_xent_loss"
)
def distributed_tensors(name: str) -> None:
    """A `DTensor` knows how it is split; its gradient is split alike."""
    pair, (arrays, options, splits) = ml.catalogue()[name], distributed(name)
    value, gradient = ml.value_and_gradient(pair)(**arrays, **options)
    expected = gradient if len(pair.wrt) > 1 else {pair.wrt[0]: gradient}
    mesh = init_device_mesh("cpu", (RANKS,))
    for split in splits:
        given: dict[str, Any] = {}
        for n, x in arrays.items():
            given[n] = distribute_tensor(torch.tensor(x), mesh, [Shard(split[n]) if n in split else Replicate()])
        found = ml.value_and_gradient(pair)(**given, **options)
        same(found[0].full_tensor(), value)
        own = found[1] if len(pair.wrt) > 1 else {pair.wrt[0]: found[1]}
        for n, x in expected.items():
            given[n].requires_grad_()
            assert own[n].placements == given[n].placements, n
            same(own[n].full_tensor(), x)
        loss = pair.value(**given, **options)
        loss.backward()
        same(loss.detach().full_tensor(), value)
        for n, x in expected.items():
            assert given[n].grad.placements == given[n].placements, n
            same(given[n].grad.full_tensor(), x)


@check()
def distributed_tensors_by_rows_and_classes() -> None:
    """A mesh of two dimensions, here of one row of shards."""
    logits, labels, *_ = of_classes()
    mesh = init_device_mesh("cpu", (1, RANKS))
    z = distribute_tensor(torch.tensor(logits), mesh, [Shard(0), Shard(1)])
    t = distribute_tensor(torch.tensor(labels), mesh, [Shard(0), Replicate()])
    value, gradient = ml.value_and_gradient(ml.cross_entropy_with_logits)(z, t, ignore_index=-100)
    expected = ml.value_and_gradient(ml.cross_entropy_with_logits)(logits, labels, ignore_index=-100)
    same((value.full_tensor(), gradient.full_tensor()), expected)
    each = ml.cross_entropy_with_logits(z, t, ignore_index=-100, reduction="none")
    assert each.placements == (Shard(0), Replicate())
    refuses(
        lambda: ml.cross_entropy_with_logits(z, t, across=world()),
        ValueError,
        "a DTensor knows how it is split",
    )
    wrong = distribute_tensor(torch.ones(4, 3, 5), init_device_mesh("cpu", (RANKS,)), [Shard(1)])
    refuses(
        lambda: ml.clip_loss(wrong, wrong, torch.tensor(1.0)), ValueError, "is sharded along axis 1, which is neither"
    )


# --- what is refused --------------------------------------------------------------------------------------------------


@check()
def shards_that_do_not_fit() -> None:
    """Every rank raises the same line; none waits."""
    x = torch.ones(3, 2, dtype=torch.float32 if RANK else torch.float64)
    refuses(lambda: ml.mse_loss(x, x, across=world()), ValueError, "do not fit together: reduction='mean' of float64")
    x = torch.ones(3, 2 + RANK)
    refuses(lambda: ml.mse_loss(x, x, axis=0, across=world()), ValueError, "to the shape (2,) on rank 0")
    x = torch.ones(3, 2)
    weights = {"weights": torch.ones(3, 1)} if RANK else {}
    refuses(lambda: ml.mse_loss(x, x, across=world(), **weights), ValueError, "with weights on rank 1")


@check()
def groups_that_are_none() -> None:
    x = torch.ones(3)
    refuses(lambda: ml.mse_loss(x, x, across="data"), TypeError, "pass a process group")
    refuses(lambda: ml.mse_loss(x, x, across=5), TypeError, "must be a process group or a mesh")
    other = dist.new_group([0])
    if RANK:
        refuses(lambda: ml.mse_loss(x, x, across=other), ValueError, "a group that this process is not in")
    dist.barrier()
    if not RANK:
        dist.destroy_process_group(other)
        refuses(lambda: ml.mse_loss(x, x, across=other), ValueError, "does not exist any more")


@check()
def a_process_that_does_not_take_part() -> None:
    """The others raise one line when the time-out of the group has passed."""
    group = dist.new_group(timeout=timedelta(seconds=1))
    x = torch.ones(3)
    if RANK == 0:
        refuses(lambda: ml.mse_loss(x, x, across=group), RuntimeError, "failed on rank 0 of")
    dist.barrier()


@check()
def a_process_that_dies() -> None:
    """The last check of a run, for two processes: the other one raises one line at once."""
    if RANK:
        raise Gone
    x = torch.ones(3)
    refuses(lambda: ml.mse_loss(x, x, across=world()), RuntimeError, "failed on rank 0 of 2: another process has ended")


@check()
def no_group() -> None:
    """The last check: the group has ended."""
    group = world()
    dist.destroy_process_group()
    refuses(lambda: ml.mse_loss(torch.ones(3), torch.ones(3), across=group), ValueError, "init_process_group first")
    refuses(lambda: fitted("numpy", group), ValueError, "init_process_group first")


LONG = ("a process that dies", "memory of a ring", "a compiled step", "a fit that is resumed")
USUAL = [name for name in CHECKS if ":" not in name and name not in LONG]
USUAL = [
    *(f"rows: {name}" for name in ("huber_loss", "cross_entropy_with_logits", "wasserstein_discriminator_loss")),
    *(f"reductions: {name}" for name in ("weighted_mean", "none")),
    *(f"ring: {name}" for name in RINGS),
    *(f"gathered: {name}" for name in RINGS),
    "angular margins: arcface_loss",
    "fits: numpy",
    "hessians: cross_entropy_with_logits",
    "distributed tensors: cross_entropy_with_logits",
    "other losses of classes: list_net_loss",
    *(f"classes: {name}" for name in CLASS_OPTIONS),
    *(f"a layer: {name}" for name in LAYER_OPTIONS),
    *USUAL,
]

if __name__ == "__main__":
    dist.init_process_group(
        "gloo", init_method=f"file://{os.environ['STORE']}", rank=RANK, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    run(CHECKS)
    if dist.is_initialized():
        dist.destroy_process_group()
