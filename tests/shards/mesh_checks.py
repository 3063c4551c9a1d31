"""Checks on eight devices of XLA: in `jax.shard_map`, and of arrays that are sharded over a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import (
    CLASS_OPTIONS,
    EVERY,
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
from running import run

import mithril_losses as ml
from mithril_losses.models import JaxModel
from mithril_losses.training import Adam

CHECKS: dict[str, Callable[[], None]] = {}


def check(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of a name a check for each of the names, "name of the function: name"."""

    def record(function: Callable[..., None]) -> Callable[..., None]:
        title = function.__name__.replace("_", " ")
        CHECKS.update(
            {
                f"{title}: {name}" if name else title: functools.partial(function, *([name] if name else []))
                for name in names or ("",)
            }
        )
        return function

    return record


def mesh_of(kind: AxisType = AxisType.Auto, **axes: int) -> Any:
    count = int(np.prod(list(axes.values())))
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes), devices=jax.devices()[:count]
    )


def mapped(mesh: Any, function: Any, in_specs: Any, out_specs: Any, **options: Any) -> Any:
    """Return the function of shards, whose gradients of several arguments are dicts, as `out_specs` are."""

    def plain(*own: Any) -> Any:
        return in_dicts(function(*own))

    return jax.jit(jax.shard_map(plain, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **options))


def in_dicts(result: Any) -> Any:
    if isinstance(result, dict):
        return dict(result)
    return tuple(map(in_dicts, result)) if isinstance(result, tuple) else result


# --- rows -------------------------------------------------------------------------------------------------------------


def by_rows(case: Any) -> tuple[Any, Any]:
    """Return the specifications of the arguments and of the gradient."""
    specs = {name: P("data") if name in case.batch else P() for name in case.arrays}
    wrt = {name: specs[name] for name in case.pair.wrt}
    return tuple(specs.values()), wrt if len(wrt) > 1 else next(iter(wrt.values()))


@check(*ROWS)
def rows(name: str) -> None:
    """The value, the gradient, both at once, and `jax.grad` inside and outside of the map are those of all rows."""
    case = batched(ROWS[name], 8)
    arguments, options = case.arguments("jax"), case.keywords("jax")
    in_specs, by_argument = by_rows(case)
    mesh = mesh_of(data=2)
    wrt = tuple(i for i, argument in enumerate(case.arrays) if argument in case.pair.wrt)
    outs = tuple(in_specs[i] for i in wrt)
    value, gradient = case.pair.plain(*arguments, **options)
    apart = tuple(case.by_argument()[argument] for argument in case.pair.wrt)

    def all_ways(*own: Any) -> Any:
        given = options | {"across": "data"}
        return (
            case.pair.value(*own, **given),
            case.pair.gradient(*own, **given),
            ml.value_and_gradient(case.pair)(*own, **given),
            jax.grad(lambda *inner: case.pair.value(*inner, **given), wrt)(*own),
        )

    out_specs = (P(), by_argument, (P(), by_argument), outs)
    found = mapped(mesh, all_ways, in_specs, out_specs)(*arguments)
    same(found[0], value)
    same(found[1], gradient)
    same(found[2], (value, gradient))
    same(found[3], apart)
    loss = mapped(mesh, lambda *own: case.pair.value(*own, **options, across="data"), in_specs, P())
    same(jax.grad(loss, wrt)(*arguments), apart)


@check(*REDUCTIONS)
def reductions(name: str) -> None:
    """Every reduction, with weights, on 1, 2, 4 and 8 devices."""
    case = batched(ROWS["huber_loss"], 16)
    arguments = case.arguments("jax")
    weights = jnp.asarray(np.random.default_rng(5).integers(0, 3, (16, 1)) / 2.0)
    given = REDUCTIONS[name]
    whole = ml.value_and_gradient(ml.huber_loss)(*arguments, weights=weights, **given)
    rows_left = P("data") if name == "none" else P()
    for size in (1, 2, 4, 8):
        found = mapped(
            mesh_of(data=size),
            lambda p, t, w: ml.value_and_gradient(ml.huber_loss)(p, t, weights=w, across="data", **given),
            (P("data"),) * 3,
            (rows_left, P("data")),
        )(*arguments, weights)
        same(found, whole)


@check()
def losses_per_column_are_summed_over_the_shards() -> None:
    case = batched(ROWS["mse_loss"], 16)
    arguments = case.arguments("jax")
    whole = ml.value_and_gradient(ml.mse_loss)(*arguments, axis=0)
    found = mapped(
        mesh_of(data=4),
        lambda p, t: ml.value_and_gradient(ml.mse_loss)(p, t, axis=0, across="data"),
        P("data"),
        (P(), P("data")),
    )(*arguments)
    same(found, whole)
    jacobian = jax.jacrev(
        mapped(mesh_of(data=4), lambda p, t: ml.mse_loss(p, t, axis=0, across="data"), P("data"), P())
    )
    same(jacobian(*arguments), jax.jacrev(lambda p, t: ml.mse_loss(p, t, axis=0))(*arguments))


@check()
def two_axes_and_both_axes_of_an_element_wise_loss() -> None:
    case = batched(ROWS["focal_loss_with_logits"], 8)
    p, t = (jnp.asarray(np.tile(x, (1, 4))[:, :4]) for x in case.arrays.values())
    whole = ml.value_and_gradient(ml.focal_loss_with_logits)(p, t)
    for across, spec in (
        (("data", "model"), P(("data", "model"))),
        (ml.Split(rows="data", classes="model"), P("data", "model")),
        (ml.Split(classes="model"), P(None, "model")),
    ):
        found = mapped(
            mesh_of(data=2, model=2),
            lambda p, t, across=across: ml.value_and_gradient(ml.focal_loss_with_logits)(p, t, across=across),
            spec,
            (P(), spec),
        )(p, t)
        same(found, whole)


@check()
def forward_mode_and_second_derivatives() -> None:
    p, t = (jnp.asarray(x) for x in batched(ROWS["log_cosh_loss"], 8).arrays.values())
    loss = mapped(mesh_of(data=4), lambda p, t: ml.log_cosh_loss(p, t, across="data"), P("data"), P())
    same(jax.jvp(lambda p: loss(p, t), (p,), (t,)), jax.jvp(lambda p: ml.log_cosh_loss(p, t), (p,), (t,)))
    same(jax.hessian(lambda p: loss(p, t))(p), jax.hessian(lambda p: ml.log_cosh_loss(p, t))(p))


@check("log_cosh_loss", "cross_entropy_with_logits")
def hessians(name: str) -> None:
    """Products of a Hessian with a vector, and its diagonal, of the own rows."""
    case = batched(ROWS[name], 8)
    pair, arguments = case.pair, case.arguments("jax")
    product, diagonal = ml.hessian_vector_product(pair.value), ml.hessian_diagonal(pair.value)

    def both(v: Any, *own: Any, **given: Any) -> Any:
        return product(*own, vector=v, **case.options, **given), diagonal(*own, **case.options, **given)

    v, rows = jnp.cos(arguments[0]), (P("data"),) * (len(arguments) + 1)
    found = mapped(mesh_of(data=4), functools.partial(both, across="data"), rows, (P("data"), P("data")))
    same(found(v, *arguments), both(v, *arguments))


@check()
def the_derivative_by_weights_is_that_of_the_plain_function() -> None:
    p, t = (jnp.asarray(x) for x in batched(ROWS["mse_loss"], 8).arrays.values())
    w = jnp.linspace(0.5, 2.0, 8)[:, None]

    def loss(p: Any, t: Any, w: Any, **given: Any) -> Any:
        return ml.mse_loss(p, t, weights=w, reduction="weighted_mean", **given)

    split = mapped(mesh_of(data=4), functools.partial(loss, across="data"), P("data"), P())
    same(jax.grad(split, 2)(p, t, w), jax.grad(loss, 2)(p, t, w))


@check()
def one_all_reduce_of_numbers() -> None:
    """The sums of a weighted mean and its divisor travel together; nothing else does."""
    p = t = w = jnp.ones((8, 5))
    for loss, given in ((ml.huber_loss, {}), (ml.huber_loss, {"reduction": "weighted_mean", "weights": w})):
        function = mapped(
            mesh_of(data=8),
            lambda p, t, loss=loss, given=given: ml.value_and_gradient(loss)(
                p, t, across="data", **{k: v[:1] if k == "weights" else v for k, v in given.items()}
            ),
            P("data"),
            (P(), P("data")),
        )
        assert collectives(function, p, t) == {"all-reduce": 1}, collectives(function, p, t)


def collectives(function: Any, *arguments: Any) -> dict[str, int]:
    """Return how many collectives of each kind the compiled function runs."""
    text = function.lower(*arguments).compile().as_text()
    found: dict[str, int] = {}
    for kind in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        count = sum(f" {kind}(" in line or f" {kind}-start(" in line for line in text.splitlines())
        if count:
            found[kind] = count
    return found


# --- classes ----------------------------------------------------------------------------------------------------------

GRID = ml.Split(rows="data", classes="model")


@check(*CLASS_OPTIONS)
def classes(name: str) -> None:
    """Cross-entropy with every option: rows over two devices, classes over four."""
    logits, labels, probabilities, weights = map(jnp.asarray, of_classes())
    logits = logits.at[0, 5].set(-jnp.inf).at[1, :4].set(-jnp.inf)
    targets = labels if name.startswith("labels") else probabilities
    given = {n: x for n, x in CLASS_OPTIONS[name].items() if n != "class_weights"}
    own = P("data", "model")
    specs = (own, P("data") if targets.ndim == 1 else own, P("model"))
    mesh = mesh_of(data=2, model=4)
    for loss in (ml.cross_entropy_with_logits, ml.cross_entropy_loss):
        scores = logits if loss is ml.cross_entropy_with_logits else jax.nn.softmax(logits)

        def both(z: Any, t: Any, w: Any, loss: Any = loss, **more: Any) -> Any:
            weighted = {"class_weights": w} if "class_weights" in CLASS_OPTIONS[name] else {}
            return ml.value_and_gradient(loss)(z, t, **given, **weighted, **more)

        def one(z: Any, t: Any, w: Any, loss: Any = loss, **more: Any) -> Any:
            weighted = {"class_weights": w} if "class_weights" in CLASS_OPTIONS[name] else {}
            return loss(z, t, **given, **weighted, **more).sum()

        whole = both(scores, targets, weights)
        value = P("data") if name.endswith("without mean") else P()
        function = mapped(mesh, functools.partial(both, across=GRID), specs, (value, own))
        same(function(scores, targets, weights), whole)
        slope = mapped(mesh, jax.grad(functools.partial(one, across=GRID)), specs, own)
        same(slope(scores, targets, weights), whole[1])


@check(*LAYER_OPTIONS)
def a_layer(name: str) -> None:
    """The weight split by classes, the hidden layer by rows, or both."""
    arrays = {n: jnp.asarray(x) for n, x in of_layer().items()}
    options = {"ignore_index": -100} | LAYER_OPTIONS[name]
    arrays = {n: x for n, x in arrays.items() if options.get(n, 0) is not None}
    options = {n: x for n, x in options.items() if x is not None}
    both = ml.value_and_gradient(ml.linear_cross_entropy)
    whole = both(**arrays, **options)
    wrt = tuple(whole[1])
    for across, rows, classes in (
        ("data", "data", None),
        (ml.Split(classes="model"), None, "model"),
        (GRID, "data", "model"),
    ):
        specs = {"hidden": P(rows), "targets": P(rows), "weight": P(classes), "bias": P(classes)}
        specs["class_weights"] = P(classes)
        ins, outs = {n: specs[n] for n in arrays}, {n: specs[n] for n in wrt}
        mesh, options["across"] = mesh_of(data=2, model=4), across
        found = mapped(mesh, lambda own: both(**own, **options), (ins,), (P(), outs))(arrays)
        same(found[0], whole[0])
        same(found[1], whole[1])

        def loss(parts: Any, others: Any) -> Any:
            return ml.linear_cross_entropy(**parts, **others, **options)

        parts, others = ({n: x for n, x in arrays.items() if (n in wrt) == own} for own in (True, False))
        own_ins = {n: specs[n] for n in parts}, {n: specs[n] for n in others}
        same(mapped(mesh, jax.grad(loss), own_ins, outs)(parts, others), whole[1])
        same(jax.grad(mapped(mesh, loss, own_ins, P()))(parts, others), whole[1])


@check("arcface_loss", "cosface_loss")
def angular_margins(name: str) -> None:
    """The weight split by classes, the embeddings by rows, or both."""
    pair, arrays = ml.catalogue()[name], of_layer()
    arguments = [jnp.asarray(x) for x in (arrays["hidden"], arrays["weight"], np.abs(arrays["targets"]) % 8)]
    given = {"scale": 8.0, "weights": jnp.asarray([1.0, 0.0, 2.0, 1.0, 0.5, 1.0])}
    whole = ml.value_and_gradient(pair)(*arguments, **given)
    for across, rows, classes in (
        ("data", "data", None),
        (ml.Split(classes="model"), None, "model"),
        (GRID, "data", "model"),
    ):
        ins = (P(rows), P(classes), P(rows), P(rows))
        outs = {"embeddings": P(rows), "weight": P(classes)}

        def both(x: Any, w: Any, t: Any, weights: Any, across: Any = across) -> Any:
            return ml.value_and_gradient(pair)(x, w, t, scale=8.0, weights=weights, across=across)

        def loss(x: Any, w: Any, t: Any, weights: Any, across: Any = across) -> Any:
            return pair.value(x, w, t, scale=8.0, weights=weights, across=across)

        mesh = mesh_of(data=2, model=4)
        same(mapped(mesh, both, ins, (P(), outs))(*arguments, given["weights"]), whole, rtol=1e-11)
        slopes = mapped(mesh, jax.grad(loss, (0, 1)), ins, ins[:2])(*arguments, given["weights"])
        same(slopes, tuple(whole[1].values()), rtol=1e-11)


@check()
def next_tokens() -> None:
    logits, labels, *_ = map(jnp.asarray, of_classes())
    z, tokens = logits.reshape(2, 3, 8), jnp.maximum(labels, 0).reshape(2, 3)
    own = P("data", None, "model")
    found = mapped(
        mesh_of(data=2, model=4),
        lambda z, x: ml.value_and_gradient(ml.next_token_cross_entropy)(z, x, 7, across=GRID),
        (own, P("data")),
        (P(), own),
    )(z, tokens)
    same(found, ml.value_and_gradient(ml.next_token_cross_entropy)(z, tokens, 7))
    refuses(lambda: ml.next_token_cross_entropy(z[0], tokens[0], across="data"), ValueError, "of one sequence")


@check("list_net_loss", "focal_loss_with_logits", "hinge_loss")
def other_losses_of_classes(name: str) -> None:
    """Lists of items that are split; sums of element-wise losses over the classes."""
    scores, _, q, _ = map(jnp.asarray, of_classes())
    q = 3.0 * q if name == "list_net_loss" else 2.0 * (q > 0.1) - 1.0 if name == "hinge_loss" else 1.0 * (q > 0.1)
    both, across = ml.value_and_gradient(ml.catalogue()[name]), ml.Split(classes="model")
    own = P(None, "model")
    function = mapped(mesh_of(model=4), functools.partial(both, across=across), (own, own), (P(), own))
    same(function(scores, q), both(scores, q))
    found = collectives(function, scores, q)
    assert found == {"all-reduce": 3 if name == "list_net_loss" else 1}, found
    loss = functools.partial(ml.catalogue()[name].value, across=across)
    same(mapped(mesh_of(model=4), jax.grad(loss), (own, own), own)(scores, q), both(scores, q)[1])


@check()
def two_collectives_for_a_vocabulary() -> None:
    """No logits travel, and nothing in the backward pass: the largest logit of a row, and two sums for each."""
    logits, labels, probabilities, weights = map(jnp.asarray, of_classes())

    def loss(z: Any, t: Any) -> Any:
        return ml.cross_entropy_with_logits(z, t, ignore_index=-100, across=ml.Split(classes="model"))

    mesh, own = mesh_of(model=8), P(None, "model")
    for function, outs in ((loss, P()), (jax.grad(loss), own), (jax.value_and_grad(loss), (P(), own))):
        assert collectives(mapped(mesh, function, (own, P()), outs), logits, labels) == {"all-reduce": 2}
    weighted = mapped(
        mesh,
        lambda z, t, w: ml.value_and_gradient(ml.cross_entropy_with_logits)(
            z, t, class_weights=w, label_smoothing=0.1, across=ml.Split(classes="model")
        ),
        (own, own, P("model")),
        (P(), own),
    )
    assert collectives(weighted, logits, probabilities, weights) == {"all-reduce": 2}


@check("linear_cross_entropy", "arcface_loss")
def three_collectives_for_a_layer(name: str) -> None:
    """Two for the statistics of a chunk of rows, and one for the gradient of what comes before the layer."""
    layer, pair = of_layer(), ml.catalogue()[name]
    arguments = [jnp.asarray(x) for x in (layer["hidden"], layer["weight"], np.abs(layer["targets"]) % 8)]
    ins, across = (P(), P("model"), P()), ml.Split(classes="model")
    outs = dict(zip(pair.wrt, ins[:2], strict=False))
    both = mapped(mesh_of(model=8), lambda *own: ml.value_and_gradient(pair)(*own, across=across), ins, (P(), outs))
    assert collectives(both, *arguments) == {"all-reduce": 3}, collectives(both, *arguments)


@check()
def a_label_that_no_shard_has_is_nan() -> None:
    logits, labels, *_ = map(jnp.asarray, of_classes())
    loss = mapped(
        mesh_of(model=4),
        lambda z, t: ml.cross_entropy_with_logits(z, t, reduction="none", across=ml.Split(classes="model")),
        (P(None, "model"), P()),
        P(),
    )
    found = loss(logits, labels.at[2].set(8))
    assert np.isnan(found).tolist() == [False, False, True, False, False, True]


@check("kl_divergence", "reverse_kl_divergence", "js_divergence", "gaussian_kl_divergence")
def sums_over_the_last_axis(name: str) -> None:
    """Divergences of rows, whose terms are summed over a split axis."""
    _, _, p, _ = of_classes(1)
    _, _, q, _ = of_classes(2)
    pair, arguments, own = ml.catalogue()[name], (jnp.asarray(p), jnp.asarray(q)), P("data", "model")
    gradient = own if len(pair.wrt) == 1 else dict.fromkeys(pair.wrt, own)
    for given in ({}, {"reduction": "none"}):
        value = P("data") if given else P()
        found = mapped(
            mesh_of(data=2, model=4),
            lambda p, q, given=given: ml.value_and_gradient(pair)(p, q, **given, across=GRID),
            own,
            (value, gradient),
        )(*arguments)
        same(found, ml.value_and_gradient(pair)(*arguments, **given))


@check()
def training() -> None:
    """Twenty steps over data and vocabulary end where those of one device do."""
    arrays = {n: jnp.asarray(x) for n, x in of_training().items()}
    data = arrays["inputs"], arrays["labels"]

    def train(hidden: Any, classes: Any, inputs: Any, labels: Any, **across: Any) -> Any:
        def loss(layers: Any) -> Any:
            states = jnp.tanh(inputs @ layers[0])
            return ml.linear_cross_entropy(states, layers[1], labels, ignore_index=-100, z_loss=1e-3, **across)

        def step(layers: Any, _: None) -> tuple[Any, None]:
            return jax.tree.map(lambda x, slope: x - 0.3 * slope, layers, jax.grad(loss)(layers)), None

        return jax.lax.scan(step, (hidden, classes), None, length=20)[0]

    whole = jax.jit(train)(arrays["hidden"], arrays["classes"], *data)
    layers = P(), P("model")
    split = mapped(
        mesh_of(data=4, model=2), functools.partial(train, across=GRID), (*layers, P("data"), P("data")), layers
    )
    same(split(arrays["hidden"], arrays["classes"], *data), whole, rtol=1e-10)


@check()
def composed_losses() -> None:
    """Each loss of a sum is that of all rows, also for `jax.grad`; a penalty of parameters counts once."""
    p, t = batched(ROWS["huber_loss"], 16).arguments("jax")
    params = {"w": jnp.arange(3.0)}
    penalty = functools.partial(ml.l2_regularization, lambda_reg=0.1)
    loss = ml.CompositeLoss([ml.WeightedLoss(ml.huber_loss, 0.5), ml.mse_loss, penalty])
    whole = ml.value_and_gradient(loss)(p, t, params=params)
    both = ml.value_and_gradient(loss)
    specs = (P("data"), P("data"), P()), (P(), {"predictions": P("data"), "params": P()})
    mesh = mesh_of(data=4)
    found = mapped(mesh, lambda p, t, w: both(p, t, params=w, across="data"), *specs)(p, t, params)
    same(found, whole)
    slopes = mapped(
        mesh, jax.grad(lambda p, t, w: loss(p, t, params=w, across="data"), (0, 2)), specs[0], (P("data"), P())
    )
    same(slopes(p, t, params), (whole[1]["predictions"], whole[1]["params"]))


@check()
def fits_of_sharded_arrays() -> None:
    """Arrays that are sharded over a mesh say so themselves, in batches and as a whole."""
    x = np.random.default_rng(0).standard_normal((16, 4))
    objective = ml.Objective([ml.Term("error", "huber_loss", output="y", target="y")])
    model = JaxModel(lambda params, data: {"y": jnp.tanh(data["x"] @ params["w"]) @ params["v"]})
    params = {"w": jnp.ones((3, 2)), "v": jnp.ones((2, 1))}

    def fitted(mesh: Any, **options: Any) -> Any:
        def place(array: Any, spec: Any = P("data")) -> Any:  # noqa: B008  # which nothing changes
            return jnp.asarray(array) if mesh is None else jax.device_put(array, NamedSharding(mesh, spec))

        on_mesh = jax.tree.map(lambda w: place(w, P()), params)
        data: Any = {"x": place(x[:, :3]), "y": place(x[:, 3:])}
        data = data if options else [data]
        given = {"optimizer": Adam(0.05), "epochs": 3, "evaluate_on": {"again": data}} | options
        return ml.fit(model, objective, on_mesh, data, **given)

    for options, kind in (({}, AxisType.Explicit), ({"batch_size": 8}, AxisType.Auto)):
        whole, found = fitted(None, **options), fitted(mesh_of(kind, data=8), **options)
        for own, expected in zip(found.history, whole.history, strict=True):
            same(own, expected, rtol=1e-10)
        same(found.params, whole.params, rtol=1e-10)
    refuses(lambda: fitted(None, across="data"), ValueError, "say so themselves, so leave across out")


# --- pairs ------------------------------------------------------------------------------------------------------------


@check(*RINGS)
def gathered(name: str) -> None:
    ring(name, ml.Split(rows="data", gather=True))


@check(*RINGS)
def ring(name: str, across: Any = "data") -> None:
    """Contrastive losses of embeddings that are split: the value, the gradient, weights, and `jax.grad`."""
    pair, arrays = ml.catalogue()[name], {n: jnp.asarray(x) for n, x in of_pairs(name).items()}
    weights = jnp.asarray([1.0, 0.0, 2.0, 1.0, 0.5, 0.0, 0.0, 3.0])
    specs = tuple(P("data") if x.ndim else P() for x in arrays.values())
    by_name = dict(zip(arrays, specs, strict=True))
    wrt = tuple(i for i, argument in enumerate(arrays) if argument in pair.wrt)
    outs = tuple(specs[i] for i in wrt)
    gradient = {argument: by_name[argument] for argument in pair.wrt}
    shape = gradient if len(wrt) > 1 else outs[0]
    for size, given in ((4, {}), (2, {"weights": weights, "reduction": "weighted_mean"})):
        whole = ml.value_and_gradient(pair)(*arrays.values(), **given)
        apart = whole[1] if len(wrt) > 1 else {pair.wrt[0]: whole[1]}

        def both(w: Any, *own: Any, given: Any = given) -> Any:
            more = given | ({"weights": w} if given else {})
            return ml.value_and_gradient(pair)(*own, **more, across=across)

        def loss(w: Any, *own: Any, given: Any = given) -> Any:
            return pair.value(*own, **given | ({"weights": w} if given else {}), across=across)

        mesh, ins = mesh_of(data=size), (P("data"), *specs)
        found = mapped(mesh, both, ins, (P(), shape))(weights, *arrays.values())
        same(found, whole)
        at = tuple(i + 1 for i in wrt)
        slopes = mapped(mesh, jax.grad(loss, at), ins, outs)(weights, *arrays.values())
        same(slopes, tuple(apart[list(arrays)[i]] for i in wrt))
    same(jax.grad(mapped(mesh, loss, ins, P()), at)(weights, *arrays.values()), slopes)


@check("clip_loss", "info_nce_loss")
def batches_of_sets(name: str) -> None:
    """Sets that are split as wholes need no ring; what they share has one gradient."""
    pair, arrays = ml.catalogue()[name], {n: jnp.asarray(x) for n, x in of_pairs(name).items()}
    arguments = [x.reshape(2, 4, 3) if x.ndim else x for x in arrays.values()]
    specs = tuple(P("data") if x.ndim else P() for x in arguments)
    gradient = dict(zip(arrays, specs, strict=True))
    function = mapped(
        mesh_of(data=2), lambda *own: ml.value_and_gradient(pair)(*own, across="data"), specs, (P(), gradient)
    )
    assert "collective-permute" not in collectives(function, *arguments)
    same(function(*arguments), ml.value_and_gradient(pair)(*arguments))


@check()
def embeddings_are_never_gathered() -> None:
    """One permute of the block in the loop of a round; one more brings the derivatives home. The rest are numbers."""
    # CLIP completes the losses of both sides first, and hands two numbers for each column on
    for name, value, both in (
        ("info_nce_loss", 1, 4),
        ("nt_xent_loss", 1, 4),
        ("siglip_loss", 1, 4),
        ("clip_loss", 2, 7),
    ):
        arguments = [jnp.asarray(x) for x in of_pairs(name).values()]
        specs = tuple(P("data") if x.ndim else P() for x in arguments)
        pair = ml.catalogue()[name]
        outs = {n: spec for n, spec in zip(of_pairs(name), specs, strict=True) if n in pair.wrt}
        alone = mapped(mesh_of(data=8), lambda *own, pair=pair: pair.value(*own, across="data"), specs, P())
        found = collectives(alone, *arguments)
        assert found == {"all-reduce": 1, "collective-permute": value}, found
        together = mapped(
            mesh_of(data=8),
            lambda *own, pair=pair: ml.value_and_gradient(pair)(*own, across="data"),
            specs,
            (P(), outs),
        )
        found = collectives(together, *arguments)
        assert found == {"all-reduce": 1, "collective-permute": both}, found


@check()
def embeddings_are_gathered_if_asked() -> None:
    """Those of the columns once, and their derivatives go home at once. CLIP gathers both sides, and two numbers."""
    for name, gathers in (("siglip_loss", 1), ("clip_loss", 4)):
        arguments = [jnp.asarray(x) for x in of_pairs(name).values()]
        specs = tuple(P("data") if x.ndim else P() for x in arguments)
        outs = P(), dict(zip(of_pairs(name), specs, strict=True))
        both, across = ml.value_and_gradient(ml.catalogue()[name]), ml.Split(rows="data", gather=True)
        function = mapped(mesh_of(data=8), functools.partial(both, across=across), specs, outs)
        found = collectives(function, *arguments)
        assert found == {"all-reduce": 1, "all-gather": gathers, "reduce-scatter": 1}, found
    refuses(lambda: ml.Split(classes="model", gather=True), ValueError, "gather is about rows")


# --- arrays that are sharded, without a map ---------------------------------------------------------------------------

KINDS = (AxisType.Auto, AxisType.Explicit)


def placed(mesh: Any, arrays: Any, specs: Any) -> list[Any]:
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs, strict=True)]


def keeps_sharding(gradient: Any, wrt: tuple[str, ...], given: dict[str, Any]) -> None:
    for name, x in (gradient if isinstance(gradient, dict) else {wrt[0]: gradient}).items():
        assert x.sharding.is_equivalent_to(given[name].sharding, x.ndim), f"{name}: {x.sharding}"


# XLA computes these gradients on all devices: it scatters along an axis that is not sharded any more
WHOLE = ("wasserstein_distance", "sliced_wasserstein_distance", "hausdorff_distance", "mesh_edge_loss")
WHOLE = (*WHOLE, "modified_hausdorff_distance", "mesh_laplacian_loss")


@check(*EVERY)
def sharded_arrays(name: str, kinds: tuple[AxisType, ...] = (AxisType.Explicit,)) -> None:
    """Calls on arrays that are sharded by rows: `jax.jit` and `jax.grad` need nothing more."""
    case = batched(EVERY[name], 8)
    pair, options = case.pair, case.keywords("jax")
    whole = pair.plain(*case.arguments("jax"), **options)
    specs = [P("data") if argument in case.batch else P() for argument in case.arrays]
    wrt = tuple(i for i, argument in enumerate(case.arrays) if argument in pair.wrt)
    apart = case.by_argument()
    for kind in kinds:
        arguments = placed(mesh_of(kind, data=2), case.arguments("jax"), specs)

        def all_ways(*own: Any) -> Any:
            both = ml.value_and_gradient(pair)(*own, **options)
            return both, jax.grad(lambda *inner: pair.value(*inner, **options), wrt)(*own)

        found, slopes = jax.jit(all_ways)(*arguments)
        same(found, whole, rtol=1e-11)
        same(slopes, tuple(apart[list(case.arrays)[i]] for i in wrt), rtol=1e-11)
        if kind is AxisType.Explicit or name not in WHOLE:
            keeps_sharding(found[1], pair.wrt, dict(zip(case.arrays, arguments, strict=True)))


@check("clip_loss", "cross_entropy_with_logits", "huber_loss", "mesh_edge_loss")
def automatic_meshes(name: str) -> None:
    sharded_arrays(name, (AxisType.Auto,))


@check()
def classes_of_sharded_arrays() -> None:
    logits, labels, probabilities, weights = map(jnp.asarray, of_classes())
    both = ml.value_and_gradient(ml.cross_entropy_with_logits)
    for targets, given in (
        (jnp.maximum(labels, 0), {"label_smoothing": 0.1}),
        (probabilities, {"class_weights": weights}),
    ):
        whole = both(logits, targets, **given)
        for kind in KINDS:
            own = P("data", "model")
            arguments = placed(mesh_of(kind, data=2, model=2), (logits, targets), (own, P("data")))
            found = jax.jit(lambda z, t, given=given: both(z, t, **given))(*arguments)
            same(found, whole)
            keeps_sharding(found[1], ("logits",), {"logits": arguments[0]})
            same(both(*arguments, **given), whole)


# --- what is refused --------------------------------------------------------------------------------------------------


@check()
def refusals() -> None:
    p = t = jnp.ones((8, 5))
    refuses(lambda: ml.mse_loss(p, t, across="data"), ValueError, "no such axis is mapped here")
    refuses(
        lambda: mapped(mesh_of(data=2), lambda p, t: ml.mse_loss(p, t, across="date"), P("data"), P())(p, t),
        ValueError,
        "across names the axis 'date'",
    )
    refuses(lambda: ml.mse_loss(np.ones(3), np.ones(3), across="data"), TypeError, "pass a process group")
    refuses(lambda: ml.mse_loss(p, t, across=3), TypeError, "the name of an axis of a mesh")
    refuses(
        lambda: ml.mse_loss(np.ones(3), np.ones(3), across=3), ValueError, "call torch.distributed.init_process_group"
    )
    classes = ml.Split(classes="data")
    refuses(
        lambda: mapped(mesh_of(data=2), lambda p, t: ml.iou_loss(p, t, across=classes), P("data"), P())(
            p[:, :4], t[:, :4]
        ),
        ValueError,
        "iou_loss has no axis that Split(classes=…) could split",
    )
    points = jnp.ones((8, 3))
    refuses(
        lambda: mapped(mesh_of(data=2), lambda x: ml.chamfer_distance(x, x, across="data"), P("data"), P())(points),
        ValueError,
        "one loss in all, which cannot be split by rows",
    )
    masks = jnp.ones((8, 4))
    refuses(
        lambda: ml.dice_loss(masks, masks, pool_batch=True, across="data"),
        ValueError,
        "each mask is one mask of all rows",
    )
    unchecked = mapped(
        mesh_of(data=2), jax.grad(lambda p, t: ml.mse_loss(p, t, across="data")), P("data"), P("data"), check_vma=False
    )
    refuses(lambda: unchecked(p, t), ValueError, "Leave check_vma at True")


USUAL = (
    "losses per column are summed over the shards",
    "two axes and both axes of an element wise loss",
    "one all reduce of numbers",
    "next tokens",
    "two collectives for a vocabulary",
    "a label that no shard has is nan",
    "refusals",
    "fits of sharded arrays",
    "embeddings are never gathered",
    "rows: huber_loss",
    "rows: cross_entropy_with_logits",
    "classes: labels smoothed and weighted",
    "sharded arrays: cross_entropy_with_logits",
)

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    run(CHECKS)
