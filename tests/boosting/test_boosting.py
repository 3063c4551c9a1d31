"""Trees grown with our objectives are those that the libraries grow with their own; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.datasets import load_breast_cancer, load_diabetes, load_linnerud, load_wine
from sklearn.ensemble import HistGradientBoostingRegressor

from mithril_losses import catalogue, has_curvature, pinball_loss
from mithril_losses.boosting import initial_score, inverse_link, metric, objective
from mithril_losses.boosting.scored import ScoredLoss

ROUNDS = 50
PREDICTIONS = 1e-6

X, Y = load_diabetes(return_X_y=True)
Y = Y / 100.0
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2.0, len(Y))
COUNTS = np.round(Y)
BINARY = load_breast_cancer(return_X_y=True)
CLASSES = load_wine(return_X_y=True)


class Data:
    """The labels and weights of a booster's data set."""

    def __init__(self, labels: Any, weights: Any = None) -> None:
        self.labels, self.weights = labels, weights

    def get_label(self) -> Any:
        return np.asarray(self.labels)

    def get_weight(self) -> Any:
        return self.weights


def weights_of(labels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 2.0, len(labels))


# --- XGBoost ----------------------------------------------------------------------------------------------------------

OF_XGBOOST = [
    ("reg:squarederror", {}, "mse_loss", {"upstream": 0.5}, Y),
    ("reg:gamma", {}, "gamma_negative_log_likelihood", {}, Y),
    ("reg:tweedie", {"tweedie_variance_power": 1.3}, "tweedie_negative_log_likelihood", {"power": 1.3}, Y),
    ("count:poisson", {"max_delta_step": 0}, "poisson_negative_log_likelihood", {}, COUNTS),
    ("reg:pseudohubererror", {}, "pseudo_huber_loss", {}, Y),
    ("reg:squaredlogerror", {}, "msle_loss", {"upstream": 0.5}, Y),
]


def with_xgboost(x: Any, y: Any, parameters: dict[str, Any], own: Any = None, outputs: tuple[int, ...] = ()) -> Any:
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(x, label=y, weight=weights_of(y))
    data.set_base_margin(np.full((len(y), *outputs), 0.5))
    common = {"max_depth": 4, "eta": 0.3, "nthread": 1, "tree_method": "hist", "disable_default_eval_metric": True}
    booster = xgboost.train(common | parameters, data, ROUNDS, obj=own)
    return booster, booster.predict(data, output_margin=True)


@pytest.mark.parametrize(("name", "parameters", "loss", "options", "labels"), OF_XGBOOST, ids=lambda x: str(x)[:20])
def test_xgboost(name: str, parameters: Any, loss: str, options: Any, labels: np.ndarray) -> None:
    _, expected = with_xgboost(X, labels, {"objective": name, **parameters})
    _, found = with_xgboost(X, labels, {}, objective(loss, library="xgboost", **options))
    assert np.ptp(expected) > 1.0
    np.testing.assert_allclose(found, expected, rtol=PREDICTIONS, atol=PREDICTIONS)


def test_xgboost_with_two_classes() -> None:
    x, y = BINARY
    _, expected = with_xgboost(x, y, {"objective": "binary:logistic"})
    for loss, labels in (("binary_cross_entropy_with_logits", y), ("logistic_loss", 2 * y - 1)):
        _, found = with_xgboost(x, labels, {}, objective(loss, library="xgboost"))
        np.testing.assert_allclose(expit(found), expit(expected), rtol=0.0, atol=PREDICTIONS)


def test_xgboost_with_classes() -> None:
    x, y = CLASSES
    _, expected = with_xgboost(x, y, {"objective": "multi:softprob", "num_class": 3}, outputs=(3,))
    own = objective("cross_entropy_with_logits", library="xgboost")
    _, found = with_xgboost(x, y, {"num_class": 3}, own, outputs=(3,))
    assert found.shape == (len(y), 3)
    np.testing.assert_allclose(softmax(found, axis=1), softmax(expected, axis=1), rtol=0.0, atol=PREDICTIONS)


def test_xgboost_with_several_targets() -> None:
    x, y = load_linnerud(return_X_y=True)
    _, expected = with_xgboost(x, y, {"objective": "reg:squarederror"}, outputs=(3,))
    _, found = with_xgboost(x, y, {}, objective("mse_loss", library="xgboost", upstream=0.5), outputs=(3,))
    np.testing.assert_allclose(found, expected, rtol=PREDICTIONS)


def test_xgboost_splits_for_a_quantile_alike() -> None:
    """Its own objective then replaces the values of the leaves by quantiles, which no custom objective can."""

    def first_splits(booster: Any) -> list[tuple[str, float]]:
        tree = booster.trees_to_dataframe().query("Tree == 0 and Feature != 'Leaf'")
        return list(zip(tree["Feature"], tree["Split"], strict=True))

    pytest.importorskip("pandas")
    theirs, _ = with_xgboost(X, Y, {"objective": "reg:quantileerror", "quantile_alpha": 0.8})
    ours, _ = with_xgboost(X, Y, {}, objective(pinball_loss, library="xgboost", quantile=0.8))
    assert len(first_splits(theirs)) > 4
    assert first_splits(ours) == first_splits(theirs)


def test_xgboost_with_several_quantiles() -> None:
    levels = np.array([0.1, 0.5, 0.9])
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X, label=np.repeat(Y[:, None], 3, axis=1))
    data.set_base_margin(np.tile(initial_score(pinball_loss, Y, outputs=3, quantile=levels), (len(Y), 1)))
    own = objective(pinball_loss, library="xgboost", quantile=levels)
    parameters = {"nthread": 1, "max_depth": 2, "disable_default_eval_metric": True}
    found = xgboost.train(parameters, data, 100, obj=own).predict(data)
    np.testing.assert_allclose((found > Y[:, None]).mean(axis=0), levels, atol=0.05)


def test_metrics_of_xgboost() -> None:
    xgboost = pytest.importorskip("xgboost")
    data, found = xgboost.DMatrix(X, label=Y, weight=WEIGHTS), {}
    xgboost.train(
        {"nthread": 1, "disable_default_eval_metric": True},
        data,
        3,
        obj=objective("huber_loss", library="xgboost"),
        custom_metric=metric("mse_loss", library="xgboost", name="mse"),
        evals=[(data, "all")],
        evals_result=found,
        verbose_eval=False,
    )
    theirs: dict[str, Any] = {}
    own = objective("huber_loss", library="xgboost")
    xgboost.train({"nthread": 1, "eval_metric": "rmse"}, data, 3, obj=own, evals=[(data, "all")], evals_result=theirs,
                  verbose_eval=False)  # fmt: skip
    np.testing.assert_allclose(np.sqrt(found["all"]["mse"]), theirs["all"]["rmse"], rtol=1e-6)


# --- LightGBM ---------------------------------------------------------------------------------------------------------

OF_LIGHTGBM = [
    ("regression", {}, "mse_loss", {"upstream": 0.5}, Y),
    ("huber", {"alpha": 0.5}, "huber_loss", {"delta": 0.5}, Y),
    ("fair", {"fair_c": 0.7}, "fair_loss", {"scale": 0.7}, Y),
    ("poisson", {"poisson_max_delta_step": 1e-12}, "poisson_negative_log_likelihood", {}, COUNTS),
    ("gamma", {}, "gamma_negative_log_likelihood", {}, Y),
    ("tweedie", {"tweedie_variance_power": 1.3}, "tweedie_negative_log_likelihood", {"power": 1.3}, Y),
]


def with_lightgbm(x: Any, y: Any, parameters: dict[str, Any]) -> Any:
    lightgbm = pytest.importorskip("lightgbm")
    common = {
        "num_leaves": 15,
        "learning_rate": 0.3,
        "min_data_in_leaf": 5,
        "num_threads": 1,
        "verbose": -1,
        "deterministic": True,
        "force_row_wise": True,
        "boost_from_average": False,
    }
    booster = lightgbm.train(common | parameters, lightgbm.Dataset(x, label=y, weight=weights_of(y)), ROUNDS)
    return booster.predict(x, raw_score=True)


@pytest.mark.parametrize(("name", "parameters", "loss", "options", "labels"), OF_LIGHTGBM, ids=lambda x: str(x)[:20])
def test_lightgbm(name: str, parameters: Any, loss: str, options: Any, labels: np.ndarray) -> None:
    expected = with_lightgbm(X, labels, {"objective": name, **parameters})
    found = with_lightgbm(X, labels, {"objective": objective(loss, library="lightgbm", **options)})
    assert np.ptp(expected) > 1.0
    np.testing.assert_allclose(found, expected, rtol=PREDICTIONS, atol=PREDICTIONS)


def test_lightgbm_with_two_classes() -> None:
    x, y = BINARY
    expected = with_lightgbm(x, y, {"objective": "binary"})
    found = with_lightgbm(x, y, {"objective": objective("binary_cross_entropy_with_logits", library="lightgbm")})
    np.testing.assert_allclose(found, expected, rtol=PREDICTIONS, atol=PREDICTIONS)


def test_lightgbm_with_classes() -> None:
    """Its own second derivatives are K / (K − 1) times the diagonal: as if it learned more slowly."""
    x, y = CLASSES
    own = objective("cross_entropy_with_logits", library="lightgbm", curvature="exact")
    expected = with_lightgbm(x, y, {"objective": "multiclass", "num_class": 3, "min_sum_hessian_in_leaf": 1.5e-3})
    slower = {"learning_rate": 0.2, "min_sum_hessian_in_leaf": 1e-3}
    found = with_lightgbm(x, y, {"objective": own, "num_class": 3, **slower})
    assert found.shape == (len(y), 3)
    np.testing.assert_allclose(softmax(found, axis=1), softmax(expected, axis=1), rtol=0.0, atol=PREDICTIONS)


def test_metrics_of_lightgbm() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(X, label=Y, weight=WEIGHTS)
    found: dict[str, Any] = {}
    lightgbm.train(
        {"objective": "regression", "metric": "l2", "num_threads": 1, "verbose": -1},
        data,
        3,
        valid_sets=[data],
        feval=metric("mse_loss", library="lightgbm"),
        callbacks=[lightgbm.record_evaluation(found)],
    )
    np.testing.assert_allclose(found["training"]["mse_loss"], found["training"]["l2"], rtol=1e-9)


# --- CatBoost ---------------------------------------------------------------------------------------------------------

OF_CATBOOST = [
    ("RMSE", "Newton", "mse_loss", {"upstream": 0.5}, (X, Y)),
    ("Poisson", "Newton", "poisson_negative_log_likelihood", {}, (X, COUNTS)),
    ("Quantile:alpha=0.8", "Gradient", "pinball_loss", {"quantile": 0.8}, (X, Y)),
    ("Logloss", "Newton", "binary_cross_entropy_with_logits", {}, BINARY),
]


def with_catboost(x: Any, y: Any, parameters: dict[str, Any], rounds: int = ROUNDS) -> Any:
    catboost = pytest.importorskip("catboost")
    common = {
        "iterations": rounds,
        "depth": 4,
        "learning_rate": 0.3,
        "thread_count": 1,
        "verbose": False,
        "allow_writing_files": False,
        "boost_from_average": False,
        "bootstrap_type": "No",
        "random_strength": 0,
        "leaf_estimation_iterations": 1,
        "leaf_estimation_backtracking": "No",
    }
    model = catboost.CatBoost(common | parameters).fit(catboost.Pool(x, label=y, weight=weights_of(y)))
    return model.predict(x, prediction_type="RawFormulaVal")


@pytest.mark.parametrize(("name", "method", "loss", "options", "data"), OF_CATBOOST, ids=lambda x: str(x)[:20])
def test_catboost(name: str, method: str, loss: str, options: Any, data: Any) -> None:
    x, y = data
    estimation = {"leaf_estimation_method": method}
    expected = with_catboost(x, y, {"loss_function": name, **estimation})
    ours = {"loss_function": objective(loss, library="catboost", **options)}
    ours["eval_metric"] = metric(loss, library="catboost", **options)
    found = with_catboost(x, y, ours | estimation)
    np.testing.assert_allclose(found, expected, rtol=PREDICTIONS, atol=PREDICTIONS)


@pytest.mark.parametrize("rounds", [5, pytest.param(ROUNDS, marks=pytest.mark.exhaustive)])  # Python for each sample
def test_catboost_with_classes(rounds: int) -> None:
    x, y = CLASSES
    estimation = {"leaf_estimation_method": "Newton", "classes_count": 3}
    expected = with_catboost(x, y, {"loss_function": "MultiClass", **estimation}, rounds)
    ours = {
        "loss_function": objective("cross_entropy_with_logits", library="catboost"),
        "eval_metric": metric("cross_entropy_with_logits", library="catboost"),
    }
    found = with_catboost(x, y, ours | estimation, rounds)
    assert found.shape == (len(y), 3)
    np.testing.assert_allclose(found, expected, rtol=PREDICTIONS, atol=PREDICTIONS)


# --- scikit-learn -----------------------------------------------------------------------------------------------------

OF_SCIKIT_LEARN = [
    ("squared_error", "mse_loss", {"upstream": 0.5}),
    ("absolute_error", "mae_loss", {}),
    ("poisson", "poisson_negative_log_likelihood", {}),
    ("gamma", "gamma_negative_log_likelihood", {}),
]
GROWN = {"max_iter": ROUNDS, "learning_rate": 0.3, "max_leaf_nodes": 15, "early_stopping": False, "random_state": 0}


@pytest.mark.parametrize(("name", "loss", "options"), OF_SCIKIT_LEARN, ids=lambda x: str(x)[:20])
def test_scikit_learn(name: str, loss: str, options: Any) -> None:
    own = objective(loss, library="scikit-learn", **options)
    # of a weighted median there are several definitions
    for weights in (None, WEIGHTS) if name != "absolute_error" else (None,):
        expected = HistGradientBoostingRegressor(loss=name, **GROWN).fit(X, Y, weights).predict(X)
        found = HistGradientBoostingRegressor(loss=own, **GROWN).fit(X, Y, weights).predict(X)
        np.testing.assert_allclose(found, expected, rtol=PREDICTIONS)


def test_scikit_learn_gives_leaves_the_quantile_of_their_residuals() -> None:
    own = objective(pinball_loss, library="scikit-learn", quantile=0.8)
    found = HistGradientBoostingRegressor(loss=own, **(GROWN | {"max_iter": 10})).fit(X, Y).predict(X)
    assert (found >= Y).mean() == pytest.approx(0.8, abs=0.02)


def test_scikit_learn_early_stopping_sees_the_loss() -> None:
    own = objective("huber_loss", library="scikit-learn", delta=0.5)
    model = HistGradientBoostingRegressor(loss=own, max_iter=20, early_stopping=True, random_state=0).fit(X, Y)
    assert model.train_score_[-1] > model.train_score_[0]


# --- without any library ----------------------------------------------------------------------------------------------


def test_a_weight_counts_as_often_as_its_sample() -> None:
    scores, labels = np.array([0.3, -1.0, 2.0]), np.array([1.0, 0.5, 1.5])
    own = objective("huber_loss", library="lightgbm", delta=0.4)
    once = own(scores, Data(labels, np.array([1.0, 3.0, 0.0])))
    repeated = [x[[0, 1]] for x in own(scores, Data(labels))]
    for found, single in zip(once, repeated, strict=True):
        np.testing.assert_allclose(found, [single[0], 3.0 * single[1], 0.0], rtol=1e-15)


def test_every_loss_of_scores_and_labels_is_an_objective() -> None:
    boosted = [
        pair.name
        for pair in catalogue().values()
        if has_curvature(pair)
        and (len(pair.wrt), len(pair.array_arguments)) == (1, 2)
        and pair.terms.elements
        and pair.terms.rows is None
    ]
    assert len(boosted) >= 25
    generator = np.random.default_rng(0)
    for name in boosted:
        pair = catalogue()[name]
        scores, labels = (pair.domain[array].sample(generator, (6,)) for array in pair.array_arguments)
        gradient, hessian = objective(name, library="xgboost")(scores, Data(labels, np.ones(6)))
        np.testing.assert_allclose(gradient, pair.gradient(scores, labels, reduction="sum"), rtol=1e-12)
        assert hessian.shape == scores.shape
        assert (hessian >= 0.0).all(), name


@pytest.mark.parametrize(
    ("loss", "labels", "expected"),
    [
        ("mse_loss", Y, lambda y, w: np.average(y, weights=w)),
        ("poisson_negative_log_likelihood", COUNTS, lambda y, w: np.log(np.average(y, weights=w))),
        ("gamma_negative_log_likelihood", Y, lambda y, w: np.log(np.average(y, weights=w))),
        ("tweedie_negative_log_likelihood", Y, lambda y, w: np.log(np.average(y, weights=w))),
        ("binary_cross_entropy_with_logits", COUNTS > 1, lambda y, w: np.log(np.sum(w * y) / np.sum(w * (1 - y)))),
        ("exponential_loss", 2.0 * (COUNTS > 1) - 1.0, lambda y, w: 0.5 * np.log(np.sum(w[y > 0]) / np.sum(w[y < 0]))),
    ],
)
def test_initial_scores(loss: str, labels: np.ndarray, expected: Any) -> None:
    labels = labels.astype(np.float64)
    assert initial_score(loss, labels, WEIGHTS) == pytest.approx(expected(labels, WEIGHTS), rel=1e-12)


def test_initial_scores_of_several_outputs() -> None:
    levels = np.array([0.1, 0.5, 0.9])
    found = initial_score(pinball_loss, Y, outputs=3, quantile=levels)
    for level, score in zip(levels, found, strict=True):
        assert (score - 1e-9 > Y).mean() <= level <= (score + 1e-9 >= Y).mean()
    np.testing.assert_allclose(initial_score("mse_loss", np.stack([Y, 2.0 * Y], axis=1)), [Y.mean(), 2.0 * Y.mean()])
    _, y = CLASSES
    weights = weights_of(y)
    shares = np.array([weights[y == k].sum() for k in range(3)]) / weights.sum()
    found = initial_score("cross_entropy_with_logits", y, weights)
    np.testing.assert_allclose(softmax(found), shares, rtol=1e-12)


def test_links() -> None:
    scores = np.array([[-1.0, 0.5, 2.0]])
    np.testing.assert_allclose(inverse_link("logistic_loss")(scores), expit(scores))
    np.testing.assert_allclose(inverse_link("exponential_loss")(scores), expit(2.0 * scores))
    np.testing.assert_allclose(inverse_link("tweedie_negative_log_likelihood")(scores), np.exp(scores))
    np.testing.assert_allclose(inverse_link("cross_entropy_with_logits")(scores), softmax(scores, axis=1))
    rates = inverse_link("poisson_negative_log_likelihood", log_input=False)
    np.testing.assert_array_equal(rates(scores), scores)


CLASS_LOSS = "cross_entropy_with_logits"
REFUSED = [
    ("no curvature", lambda: objective("ssim_loss", library="xgboost"), "of single scores"),
    ("two outputs", lambda: objective("gaussian_negative_log_likelihood", library="xgboost"), "mean, logvar, targets"),
    ("losses of rows", lambda: objective("kl_divergence", library="xgboost"), "of single scores, or of a row of class"),
    ("an unknown library", lambda: objective("mse_loss", library="sklearn"), "library must be one of 'xgboost'"),
    ("no metric", lambda: metric("mse_loss", library="scikit-learn"), "library must be one of 'xgboost'"),
    ("classes", lambda: objective(CLASS_LOSS, library="scikit-learn"), "one score per sample, but .* takes a row"),
    ("a reduction", lambda: objective("mse_loss", library="xgboost", reduction="mean"), "reduction is no option"),
    (
        "one score for classes",
        lambda: objective(CLASS_LOSS, library="xgboost")(np.zeros(3), Data([0, 1, 2])),
        "takes a row of scores, one per class",
    ),
    (
        "one label for two scores",
        lambda: objective("mse_loss", library="lightgbm")(np.zeros((3, 2)), Data(np.zeros(3))),
        r"takes a label for each score, got scores of shape \(3, 2\)",
    ),
    (
        "a class that is no number",
        lambda: objective(CLASS_LOSS, library="xgboost")(np.zeros((1, 2)), Data([0.5])),
        "labels must be class indices, got 0.5",
    ),
    (
        "a negative weight",
        lambda: objective("mse_loss", library="xgboost")(np.zeros(2), Data(np.ones(2), np.array([1.0, -2.0]))),
        "weights must not be negative, got -2.0",
    ),
    (
        "a weight too few",
        lambda: objective("mse_loss", library="xgboost")(np.zeros(2), Data(np.ones(2), np.ones(1))),
        "one number per sample",
    ),
    (
        "labels of one class",
        lambda: initial_score("binary_cross_entropy_with_logits", np.ones(3)),
        "no constant score is the best",
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_refused_in_one_line(name: str, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_estimator_that_passes_labels_and_scores_is_told() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMRegressor(objective=objective("mse_loss", library="lightgbm"), n_estimators=1, verbose=-1)
    with pytest.raises(TypeError, match="passes scores and a data set, got ndarray"):
        model.fit(X, Y)


def test_whole_hessian_of_a_row() -> None:
    scores, p = np.array([0.2, -1.0, 0.7]), softmax([0.2, -1.0, 0.7])
    gradient, hessian = ScoredLoss(CLASS_LOSS, "exact", {}).of_a_row(scores, 2, 1.5)
    np.testing.assert_allclose(gradient, 1.5 * (p - np.array([0.0, 0.0, 1.0])), rtol=1e-12)
    np.testing.assert_allclose(hessian, 1.5 * (np.diag(p) - np.outer(p, p)), rtol=1e-12)
