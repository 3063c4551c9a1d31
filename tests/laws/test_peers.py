"""Defects that were seen in other libraries, one test each: they must not be here.

The letter says where: A artifex and calibrax, M mithril, O optax, K keras, T PyTorch, S scikit-learn, L another one.
A number that is missing has no counterpart in this catalogue.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import DRAWN, to_numpy

import mithril_losses as ml
from mithril_losses import catalogue
from mithril_losses.templates.elements import Elementwise

LIBRARIES: dict[str, Callable[[Any], Any]] = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.tensor}
every_library = pytest.mark.parametrize("convert", LIBRARIES.values(), ids=LIBRARIES)
every_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none", "weighted_mean", "batch_sum"])
LOG_2 = math.log(2.0)


def column_and_vector() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(4.0).reshape(4, 1), np.arange(4.0)


# --- artifex and calibrax ---------------------------------------------------------------------------------------------


@every_reduction
@pytest.mark.parametrize("loss", ["mse_loss", "mae_loss", "charbonnier_loss", "psnr_loss"])
def test_a1_a_column_is_not_broadcast_against_a_vector(loss: str, reduction: str) -> None:
    for function in (getattr(ml, loss), getattr(ml, f"{loss}_gradient")):
        with pytest.raises(ValueError, match=r"\(4, 1\).*\(4,\)"):
            function(*column_and_vector(), reduction=reduction)


def test_a2_a_weighted_mean_divides_by_the_weights() -> None:
    p, t, weights = np.array([1.0, 2.0]), np.zeros(2), np.array([1.0, 3.0])
    assert ml.mse_loss(p, t, weights=weights, reduction="weighted_mean") == (1.0 + 3.0 * 4.0) / 4.0
    assert ml.mse_loss(p, t, weights=weights) == (1.0 + 3.0 * 4.0) / 2.0


@every_library
def test_a3_a_generator_learns_most_where_it_is_worst(convert: Callable[[Any], Any]) -> None:
    slopes = to_numpy(ml.vanilla_generator_loss_gradient(convert([0.0, 1e-9, 0.5, 1.0])))
    assert (slopes[:2] < -1e5).all()
    assert slopes[2] == -0.5
    assert np.isfinite(slopes).all()


def test_a4_one_sided_smoothing_is_that_of_cross_entropy() -> None:
    real, never_fooled = np.array([2.0]), np.array([-1e4])
    smoothed = ml.non_saturating_discriminator_loss(real, never_fooled, label_smoothing=0.1)
    assert smoothed == pytest.approx(0.9 * math.log1p(math.exp(-2.0)) + 0.1 * math.log1p(math.exp(2.0)), rel=1e-12)


@pytest.mark.parametrize("loss", [name for name in catalogue() if name.endswith("discriminator_loss")])
def test_a5_real_and_fake_batches_may_differ_in_size(loss: str) -> None:
    real, fake = np.full(4, 0.75), np.full((2, 1), 0.25)
    expected = catalogue()[loss].value(np.full(1, 0.75), np.full(1, 0.25))
    assert catalogue()[loss].value(real, fake) == pytest.approx(expected, rel=1e-12)


def test_a6_style_compares_channels_not_positions() -> None:
    features = np.random.default_rng(0).normal(size=(1, 4, 4, 3))
    shuffled = np.random.default_rng(1).permutation(features.reshape(1, 16, 3), axis=1).reshape(features.shape)
    assert ml.style_loss(shuffled, features) < 1e-28
    assert ml.style_loss(features[..., ::-1], features) > 1e-4
    assert ml.style_loss(features[:, :2], features) > 0.0  # maps of another size


def test_a7_a_perceptual_loss_without_layer_weights_counts_all_layers() -> None:
    generator = np.random.default_rng(0)
    one, other = ({"conv1": generator.normal(size=(1, 4, 4, 3))} for _ in range(2))
    perceptual = ml.PerceptualLoss(content_weight=1.0, style_weight=0.01)
    assert perceptual(features_pred=one, features_target=other) > 0.1
    with pytest.raises(KeyError, match="conv2"):
        perceptual(features_pred=one, features_target={"conv2": other["conv1"]})


def test_a8_the_contextual_loss_is_that_of_the_paper_and_finite_for_no_features() -> None:
    nothing = np.zeros((1, 3, 3, 4))
    assert np.isfinite(ml.contextual_loss(nothing, nothing))
    assert np.isfinite(ml.contextual_loss_gradient(nothing, nothing)).all()
    features = 100.0 * np.eye(9, 4).reshape(1, 3, 3, 4) + np.arange(36.0).reshape(1, 3, 3, 4)
    moved = ml.contextual_loss(features[:, ::-1], features)
    assert moved == pytest.approx(ml.contextual_loss(features, features), rel=1e-12)  # positions do not count


def test_a9_a_flat_mesh_is_smooth_and_each_edge_counts_once() -> None:
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij")
    flat = np.stack([x, y, 0 * x], axis=-1).reshape(1, 25, 3)
    corner = np.arange(25).reshape(5, 5)
    faces = np.concatenate(
        [
            np.stack([corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:]], axis=-1).reshape(-1, 3),
            np.stack([corner[:-1, :-1], corner[1:, 1:], corner[:-1, 1:]], axis=-1).reshape(-1, 3),
        ]
    )
    edges = ml.unique_edges(faces)
    assert len(edges) == 2 * 5 * 4 + 4 * 4
    pulls = ml.mesh_laplacian_loss_gradient(flat, edges).reshape(5, 5, 3)
    np.testing.assert_allclose(pulls[2, 2], 0.0, atol=1e-15)
    together = np.zeros((1, 25, 3))
    assert np.isfinite(ml.mesh_edge_loss_gradient(together, flat, edges)).all()
    assert np.isfinite(ml.mesh_normal_loss_gradient(together, flat)).all()


@pytest.mark.parametrize("loss", ["kl_divergence", "js_divergence"])
def test_a10_divergences_are_means_of_rows(loss: str) -> None:
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.1, 0.9]])
    pair = catalogue()[loss]
    rows = [float(pair.value(p[i : i + 1], q[i : i + 1])) for i in range(2)]
    assert pair.value(p, q) == pytest.approx(sum(rows) / 2.0, rel=1e-12)
    assert pair.value(p, q, reduction="sum") == pytest.approx(sum(rows), rel=1e-12)


def test_a10_mass_where_there_may_be_none_is_infinite() -> None:
    assert ml.kl_divergence(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])) == math.inf


@every_library
def test_a11_the_wasserstein_distance_is_one_of_rows(convert: Callable[[Any], Any]) -> None:
    x = convert([[0.0, 1.0], [10.0, 11.0]])
    assert float(ml.wasserstein_distance(x, convert([[10.0, 11.0], [0.0, 1.0]]))) == 10.0
    assert float(ml.wasserstein_distance(x, convert([[0.0, 0.5, 1.0], [10.0, 10.5, 11.0]]))) < 0.2
    np.testing.assert_array_equal(to_numpy(ml.wasserstein_distance_gradient(x, x, p=2.0)), np.zeros((2, 2)))


@every_library
@pytest.mark.parametrize("kernel", ["rbf", "linear", "polynomial"])
def test_a12_discrepancies_are_squares_with_a_gradient_at_equality(kernel: str, convert: Callable[[Any], Any]) -> None:
    samples = np.random.default_rng(0).normal(size=(6, 2))
    x = convert(samples)
    np.testing.assert_allclose(to_numpy(ml.maximum_mean_discrepancy_gradient(x, x, kernel_type=kernel)), 0.0, atol=1e-6)
    if kernel == "linear":
        moved = samples + np.array([3.0, 4.0])
        found = float(ml.maximum_mean_discrepancy(convert(moved), x, kernel_type=kernel))
        assert found == pytest.approx(25.0, rel=1e-5)


@every_library
def test_a13_energy_of_points_that_coincide(convert: Callable[[Any], Any]) -> None:
    x = convert(np.zeros((3, 2)))
    assert float(ml.energy_distance(x, x)) == 0.0
    np.testing.assert_array_equal(to_numpy(ml.energy_distance_gradient(x, x)), np.zeros((3, 2)))


def test_a14_transport_couples_the_coordinates() -> None:
    x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    assert ml.earth_mover_distance(x, y) == pytest.approx(1.0, rel=1e-12)
    assert np.isfinite(ml.earth_mover_distance_gradient(x, x)).all()


def test_a15_an_unknown_reduction_is_refused_everywhere() -> None:
    for case in DRAWN:
        if case.pair.takes_reduction:
            for function in (case.value, case.gradient):
                with pytest.raises(ValueError, match="reduction must be one of"):
                    function(reduction="average")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "focal_loss"])
def test_a16_probabilities_at_the_ends_keep_a_finite_gradient(loss: str, dtype: str) -> None:
    p, t = np.array([0.0, 1.0, 1.0, 0.0], dtype), np.array([1.0, 0.0, 1.0, 0.0], dtype)
    assert np.isfinite(catalogue()[loss].value(p, t))
    slopes = catalogue()[loss].gradient(p, t)
    assert np.isfinite(slopes).all()
    assert slopes[0] < 0.0 < slopes[1]


def test_a17_masks_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(2, 2, 2\)"):
        ml.dice_loss(np.ones((2, 4)), np.ones((2, 2, 2)))


@every_library
def test_a18_the_divergence_of_a_good_encoder_keeps_its_digits(convert: Callable[[Any], Any]) -> None:
    logvar = np.array([[1e-4]], np.float32)
    x = float(logvar[0, 0])
    found = float(ml.gaussian_kl_divergence(convert(0 * logvar), convert(logvar)))
    assert found == pytest.approx(0.5 * (x * x / 2.0 + x**3 / 6.0), rel=1e-6)


def test_a19_total_variation_sums_lengths() -> None:
    image = np.array([[0.0, 3.0], [4.0, 0.0]]).reshape(1, 2, 2, 1)
    assert ml.total_variation_loss(image, norm_type="isotropic") == pytest.approx(5.0 + 3.0 + 4.0, rel=1e-12)
    assert ml.total_variation_loss(2.0 * image) == 2.0 * ml.total_variation_loss(image)


def test_a20_the_spectral_norm_is_exact() -> None:
    w = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert ml.spectral_norm_regularization(w, lambda_reg=1.0) == pytest.approx(0.5 * 2.0**2, rel=1e-12)


def test_a23_contrastive_losses_at_their_edges() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    mean, total = (ml.info_nce_loss(x, x[::-1].copy(), reduction=reduction) for reduction in ("mean", "sum"))
    assert total == pytest.approx(3.0 * mean, rel=1e-12)
    same = np.ones((2, 3))
    assert ml.nt_xent_loss(same, same, temperature=0.01) == pytest.approx(math.log(3.0), rel=1e-12)
    alone = ml.supervised_contrastive_loss_gradient(x, np.arange(3))
    np.testing.assert_array_equal(alone, 0.0)
    nothing = np.zeros((3, 4))
    for g in ml.info_nce_loss_gradient(nothing, nothing).values():
        assert np.isfinite(g).all()


def test_a24_arcface_keeps_falling_past_its_margin() -> None:
    angles = np.linspace(0.0, math.pi, 50)
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    weight = np.array([[1.0, 0.0], [0.0, -1.0]])
    losses = ml.arcface_loss(embeddings, weight, np.zeros(50, dtype=np.int64), scale=1.0, reduction="none")
    # the other class is an opposite of a quarter turn: take its part out
    other = embeddings @ weight[1]
    target = -np.log(np.expm1(losses)) + other
    assert (np.diff(target) < 0.0).all()


@pytest.mark.parametrize("loss", [ml.chamfer_distance, ml.hausdorff_distance])
def test_a25_equal_sets_are_at_no_distance(loss: Any) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert loss(x, x) == 0.0


def test_a26_soft_masks_are_not_rounded_and_zero_vectors_have_a_gradient() -> None:
    assert ml.dice_loss(np.array([[0.9]]), np.array([[1.0]]), smooth=0.0) == pytest.approx(1.0 - 1.8 / 1.9, rel=1e-12)
    gradients = ml.cosine_embedding_loss_gradient(np.zeros((1, 3)), np.ones((1, 3)), np.array([1]))
    for g in gradients.values():
        assert np.isfinite(g).all()


def test_a27_a_perfect_fit_has_no_slope_on_jax() -> None:
    x = jnp.ones((1, 3, 3, 1))
    np.testing.assert_array_equal(ml.mae_loss_gradient(x, x), 0.0)
    np.testing.assert_array_equal(ml.total_variation_loss_gradient(x), 0.0)


# --- mithril ----------------------------------------------------------------------------------------------------------


def test_m1_the_divergence_by_its_targets() -> None:
    p, q, u = np.array([[0.2, 0.3, 0.5]]), np.array([[0.5, 0.25, 0.25]]), 3.0
    found = ml.kl_divergence_gradient(p, q, wrt="targets", upstream=u)
    np.testing.assert_allclose(found, -u * p / q, rtol=1e-12)


def test_m2_an_upstream_gradient_is_not_written_to() -> None:
    logits, labels = np.random.default_rng(0).normal(size=(3, 4)), np.array([0, 2, 3])
    upstream, kept = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])
    options = {"class_weights": np.array([1.0, 2.0, 3.0, 4.0]), "reduction": "none", "upstream": upstream}
    first, second = (ml.cross_entropy_with_logits_gradient(logits, labels, **options) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(upstream, kept)


def test_m3_soft_labels_with_large_logits() -> None:
    loss = ml.cross_entropy_with_logits(np.array([[1000.0, 1000.0]]), np.array([[0.5, 0.5]]))
    assert loss == pytest.approx(LOG_2, rel=1e-12)


@every_library
def test_m4_soft_labels_with_logits_far_apart(convert: Callable[[Any], Any]) -> None:
    found = ml.cross_entropy_with_logits_gradient(convert([[800.0, 0.0]]), convert([[0.5, 0.5]]))
    np.testing.assert_array_equal(to_numpy(found), [[0.5, -0.5]])


def test_m5_certain_probabilities_are_no_accident() -> None:
    p = np.array([0.0, 1.0])
    assert ml.binary_cross_entropy(p, p) < 1e-6
    for function in (ml.binary_cross_entropy, ml.binary_cross_entropy_gradient):
        assert np.isfinite(function(p, 1.0 - p)).all()


def test_m6_false_is_no_weight() -> None:
    for function in (ml.binary_cross_entropy_with_logits, ml.binary_cross_entropy_with_logits_gradient):
        with pytest.raises((TypeError, ValueError), match="pos_weight"):
            function(np.zeros(2), np.ones(2), pos_weight=False)


def test_m9_a_negative_probability_has_no_logarithm() -> None:
    p, q = np.array([[-0.5, 1.5]]), np.array([[0.5, 0.5]])
    for loss, targets in ((ml.kl_divergence, q), (ml.cross_entropy_loss, np.array([0]))):
        with pytest.raises(ValueError, match=r"^predictions must be distributions .* got -0.5 at index \(0, 0\)"):
            loss(p, targets)


@pytest.mark.parametrize("case", [case for case in DRAWN if case.pair.takes_reduction], ids=str)
def test_m10_outputs_of_a_model_are_not_written_to(case: Any) -> None:
    arguments = case.arguments("torch")
    kept = [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments]
    ml.value_and_gradient(case.pair.value)(*arguments, **case.keywords("torch"))
    for before, after in zip(kept, arguments, strict=True):
        if isinstance(before, torch.Tensor):
            torch.testing.assert_close(after, before, rtol=0.0, atol=0.0)


@every_library
@pytest.mark.parametrize("label", [-1, -100, 3, 2**31 - 1])
@pytest.mark.parametrize("loss", ["cross_entropy_with_logits", "cross_entropy_loss"])
def test_m11_o8_k13_no_label_is_wrapped_clamped_or_dropped(
    loss: str, label: int, convert: Callable[[Any], Any]
) -> None:
    scores, labels = convert([[0.2, 0.3, 0.5]]), convert([label])
    for function in (catalogue()[loss].value, catalogue()[loss].gradient):
        with pytest.raises(ValueError, match=str(label)):
            function(scores, labels)


@pytest.mark.parametrize(
    "loss",
    [n for n, pair in catalogue().items() if isinstance(pair.terms, Elementwise) and len(pair.array_arguments) > 1],
)
def test_m12_o1_k1_t_nothing_is_broadcast_silently(loss: str) -> None:
    pair = catalogue()[loss]
    domains = [pair.domain[name] for name in pair.array_arguments]
    arrays = [domain.sample(np.random.default_rng(0), (4, 3)) for domain in domains]
    if any(x.shape != (4, 3) for x in arrays):
        pytest.skip("its arguments have shapes of their own, which its own tests compare")
    for i, cut in itertools.product(range(len(arrays)), (np.s_[:, :1], np.s_[:1], np.s_[0])):
        narrow = [x[cut] if k == i else x for k, x in enumerate(arrays)]
        for function in (pair.value, pair.gradient):
            with pytest.raises(ValueError, match="shape"):
                function(*narrow)


@every_library
def test_m13_o15_s_one_convention_at_kinks(convert: Callable[[Any], Any]) -> None:
    one = convert([1.0])
    assert to_numpy(ml.hinge_loss_gradient(one, one)) == 0.0
    assert to_numpy(ml.mae_loss_gradient(one, one)) == 0.0
    assert to_numpy(ml.hinge_generator_loss_gradient(one)) == -1.0  # linear: no kink to mind
    assert to_numpy(ml.hinge_discriminator_loss_gradient(one, -one)["real_scores"]) == 0.0


# --- optax ------------------------------------------------------------------------------------------------------------


def test_o1_soft_labels_are_not_broadcast_over_rows() -> None:
    with pytest.raises(ValueError, match="shape"):
        ml.cross_entropy_with_logits(np.zeros((2, 3)), np.array([0.2, 0.3, 0.5]))


@every_library
def test_o3_k14_the_cosine_of_a_zero_vector(convert: Callable[[Any], Any]) -> None:
    zero, other, label = convert([[0.0, 0.0]]), convert([[1.0, 2.0]]), convert([1.0])
    assert float(ml.cosine_embedding_loss(zero, other, label)) == 1.0
    for g in ml.cosine_embedding_loss_gradient(zero, other, label).values():
        np.testing.assert_array_equal(to_numpy(g), [[0.0, 0.0]])


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_o4_a_triplet_of_any_norm(p: float) -> None:
    anchor, positive, negative = np.array([[0.0, 0.0]]), np.array([[-1.0, -2.0]]), np.array([[3.0, -1.0]])
    distances = [(abs(a) ** p + abs(b) ** p) ** (1.0 / p) for a, b in ((1.0, 2.0), (3.0, 1.0))]
    expected = max(distances[0] - distances[1] + 1.0, 0.0)
    assert ml.triplet_loss(anchor, positive, negative, p=p) == pytest.approx(expected, rel=1e-12)
    assert all(np.isfinite(g).all() for g in ml.triplet_loss_gradient(anchor, positive, negative, p=p).values())


def test_o5_one_pair_has_nobody_to_be_told_from() -> None:
    x = np.ones((1, 4))
    assert ml.nt_xent_loss(x, x) == 0.0
    assert all(np.isfinite(g).all() for g in ml.nt_xent_loss_gradient(x, x).values())


@every_library
def test_o6_no_mass_against_no_mass(convert: Callable[[Any], Any]) -> None:
    p, q = convert([[0.0, 1.0]]), convert([[0.0, 1.0]])
    assert float(ml.kl_divergence(p, q)) == 0.0
    for wrt in ("predictions", "targets"):
        assert np.isfinite(to_numpy(ml.kl_divergence_gradient(p, q, wrt=wrt))).all()


@every_library
def test_o7_a_class_that_is_ruled_out(convert: Callable[[Any], Any]) -> None:
    logits, soft = convert([[0.0, -math.inf, 0.0]]), convert([[0.5, 0.0, 0.5]])
    assert float(ml.cross_entropy_with_logits(logits, soft)) == pytest.approx(LOG_2, rel=1e-6)
    np.testing.assert_allclose(
        to_numpy(ml.cross_entropy_with_logits_gradient(logits, soft)), [[0.0, 0.0, 0.0]], atol=1e-7
    )


def test_o9_dice_needs_no_values_inside_of_a_trace() -> None:
    p, t = jnp.full((2, 4), 0.3), jnp.ones((2, 4))
    assert float(jax.jit(ml.dice_loss)(p, t)) == pytest.approx(float(ml.dice_loss(p, t)), rel=1e-6)


def test_o10_k10_a_mask_is_pooled_over_and_a_batch_is_not() -> None:
    p, t = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    losses = ml.dice_loss(p, t, reduction="none")
    np.testing.assert_allclose(losses, [1.0 - (2.0 + 1.0) / (3.0 + 1.0), 0.0], rtol=1e-12)
    assert ml.tversky_loss(p[1:], t[1:]) == 0.0  # nothing there, and nothing found


def test_o11_an_absent_class_does_not_take_over() -> None:
    p = np.array([[0.9, 0.09, 0.01], [0.09, 0.9, 0.01]])[None]
    t = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])[None]
    assert 0.0 < ml.generalized_dice_loss(p, t) < 0.2


def test_o12_focal_losses_at_certain_labels() -> None:
    p = np.array([0.2, 0.8])
    assert np.isfinite(ml.focal_loss_gradient(p, np.array([0.0, 1.0]))).all()


@every_library
def test_o14_what_is_masked_may_be_anything(convert: Callable[[Any], Any]) -> None:
    p, t, weights = convert([1.0, math.nan]), convert([0.0, 1.0]), convert([1.0, 0.0])
    assert float(ml.mse_loss(p, t, weights=weights, reduction="sum")) == 1.0
    np.testing.assert_array_equal(to_numpy(ml.mse_loss_gradient(p, t, weights=weights, reduction="sum")), [2.0, 0.0])


# --- keras ------------------------------------------------------------------------------------------------------------


@every_library
def test_k3_focal_losses_of_logits_are_not_clipped(convert: Callable[[Any], Any]) -> None:
    z, t = convert([-50.0]), convert([1.0])
    assert float(ml.focal_loss_with_logits(z, t, alpha=1.0)) == pytest.approx(50.0, rel=1e-6)
    assert float(ml.focal_loss_with_logits_gradient(z, t, alpha=1.0)[0]) == pytest.approx(-1.0, rel=1e-6)


def test_k5_zero_is_no_sign() -> None:
    for labels in (np.array([0.0, 1.0]), np.array([0.0, -1.0])):
        with pytest.raises(ValueError, match="targets must be in"):
            ml.hinge_loss(np.zeros(2), labels)


@every_library
def test_k8_a_rate_of_nothing_has_a_finite_slope(convert: Callable[[Any], Any]) -> None:
    for rate in (convert([0.0]), convert([1e-30])):
        gradient = ml.poisson_negative_log_likelihood_gradient(rate, convert([0.0]), log_input=False)
        assert float(gradient[0]) == 1.0


# --- PyTorch, scikit-learn and others ---------------------------------------------------------------------------------


@every_library
def test_t_a_batch_of_ignored_rows_is_no_nan(convert: Callable[[Any], Any]) -> None:
    logits, labels = convert([[1.0, 2.0]]), convert([-100])
    assert float(ml.cross_entropy_with_logits(logits, labels, ignore_index=-100)) == 0.0
    np.testing.assert_array_equal(
        to_numpy(ml.cross_entropy_with_logits_gradient(logits, labels, ignore_index=-100)), [[0.0, 0.0]]
    )


def test_t_a_mean_of_huber_losses_divides_as_that_of_squares_does() -> None:
    p, t, weights = np.array([0.5, 0.5]), np.zeros(2), np.array([1.0, 3.0])
    for reduction in ("mean", "weighted_mean"):
        half = 0.5 * ml.mse_loss(p, t, weights=weights, reduction=reduction)
        assert ml.huber_loss(p, t, weights=weights, reduction=reduction) == pytest.approx(half, rel=1e-12)


def test_t_a_linear_layer_takes_label_smoothing() -> None:
    generator = np.random.default_rng(0)
    hidden, weight, labels = generator.normal(size=(4, 3)), generator.normal(size=(5, 3)), np.array([0, 1, 4, 2])
    found = ml.linear_cross_entropy(hidden, weight, labels, label_smoothing=0.1, chunk_rows=2)
    expected = ml.cross_entropy_with_logits(hidden @ weight.T, labels, label_smoothing=0.1)
    assert found == pytest.approx(expected, rel=1e-12)


def test_l_the_variation_of_a_constant_image_has_a_finite_slope() -> None:
    image = np.full((1, 4, 4, 1), 0.5)
    np.testing.assert_array_equal(ml.total_variation_loss_gradient(image, norm_type="isotropic"), 0.0)


def test_l_every_block_of_the_vocabulary_has_its_gradient() -> None:
    hidden, weight = np.ones((1, 2)), np.stack([np.linspace(-3.0, 3.0, 40)] * 2, axis=-1)
    gradient = ml.linear_cross_entropy_gradient(hidden, weight, np.array([39]), chunk_rows=1)["weight"]
    assert (gradient != 0.0).all()  # down to shares of e^-12
