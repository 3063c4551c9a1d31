"""Mistakes that a person makes, written as text: the mutants of `mutants.py` that no rule can generate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Substitution:
    """A mistake: each key of `changes` occurs exactly once in the file, and its value is put in its place.

    `laws` selects the laws that should notice, as pytest's `-k` does; the tests of the file itself are tried first,
    then those of `tests/test_<tests>.py`, of which `select` names, as `-k` does, what is worth a first try.
    """

    file: str
    description: str
    changes: dict[str, str]
    laws: str = ""
    tests: str = ""
    select: str = ""

    def apply(self, source: str) -> str:
        """Return the wrong source.

        Raises:
            LookupError: a text to replace is no longer there, or not only once.
        """
        for old in self.changes:
            if (count := source.count(old)) != 1:
                raise LookupError(f"{self.file}, {self.description}: found {count} times, not once: {old!r}")
        for old, new in self.changes.items():
            source = source.replace(old, new)
        return source


SUBSTITUTIONS = [
    # the reduction and its transpose
    Substitution(
        "numerics/reduction.py",
        "the mean is doubled",
        {"return float(max(count, 1))": "return 0.5 * float(max(count, 1))"},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the mean counts the first axis only",
        {"[shape[a] for a in axes]": "[shape[a] for a in axes[:1]]"},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the mean of nothing divides by 0",
        {"return float(max(count, 1))": "return float(count)"},
        "nothing_left and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the mean divides by the sum of the weights",
        {'if reduction == "weighted_mean" and weights is not None': "if weights is not None"},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the weighted mean divides by the number of elements",
        {'if reduction == "weighted_mean" and weights is not None': "if False"},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the weighted mean forgets what a row counts",
        {"share = weights if mass is None else weights * mass": "share = weights"},
    ),
    Substitution(
        "numerics/reduction.py",
        "the batch sum divides by the last axis",
        {"shape[:1] if reduction": "shape[-1:] if reduction"},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the batch sum of nothing divides by 0",
        {"return max(float(count), 1.0)": "return float(count)"},
        "nothing_left and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the normalizer is ignored",
        {"    if normalizer is not None:\n        return _fit": "    if False:\n        return _fit"},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "a normalizer of 0 divides by 0",
        {"float(normalizer) or EMPTY": "float(normalizer)"},
    ),
    Substitution(
        "numerics/reduction.py",
        "an infinite loss divided by a normalizer of 0 is NaN",
        {"if self.divisor is EMPTY:": "if False:"},
    ),
    Substitution(
        "numerics/reduction.py",
        "an infinite slope divided by a normalizer of 0 is NaN",
        {"xp.zeros_like(slope) if self.divisor is EMPTY else slope": "slope"},
    ),
    Substitution(
        "numerics/reduction.py",
        "an array of normalizers counts as ones",
        {"xp.broadcast_to(normalizer, ": "xp.broadcast_to(xp.ones_like(normalizer), "},
    ),
    Substitution(
        "numerics/reduction.py",
        "a normalizer that is NaN passes",
        {"if not normalizer >= 0:": "if normalizer < 0:"},
    ),
    Substitution(
        "numerics/reduction.py",
        "the value forgets the weights",
        {"xp.where(self.weights == 0, 0.0, values * self.weights)": "values"},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the gradient forgets the weights",
        {"gradient = xp.where(weights == 0, 0.0, gradient * weights)": "pass"},
        "central_differences and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "weights are squared, in value and gradient",
        {
            "xp.where(self.weights == 0, 0.0, values * self.weights)": "values * self.weights**2",
            "xp.where(weights == 0, 0.0, gradient * weights)": "gradient * weights**2",
        },
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "a weight of 0 leaves NaN in the value",
        {"xp.where(self.weights == 0, 0.0, values * self.weights)": "values * self.weights"},
        "weight_zero and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "a weight of 0 leaves NaN in the gradient",
        {"xp.where(weights == 0, 0.0, gradient * weights)": "gradient * weights"},
        "weight_zero and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "weights may enlarge the loss",
        {"w in (1, n) for w, n": "w in (1, n) or n == 1 for w, n"},
    ),
    Substitution(
        "numerics/reduction.py",
        "weights of fewer axes than a loss over rows are not aligned",
        {"_broadcast_rank(xp, weights, rank)": "weights"},
    ),
    Substitution(
        "numerics/reduction.py",
        "a number upstream is ignored",
        {"return float(upstream)": "return 1.0"},
        "upstream and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "an array upstream is ignored",
        {"return xp.reshape(upstream, kept)": "return xp.reshape(xp.ones_like(upstream), kept)"},
        "upstream and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "an array upstream is taken in the wrong order",
        {"return xp.reshape(upstream, kept)": "return xp.reshape(xp.flip(upstream), kept)"},
    ),
    Substitution(
        "numerics/reduction.py",
        "the upstream gradient is spread along the wrong axis of a loss over rows",
        {"xp.expand_dims(factor, axis=axis)": "xp.expand_dims(factor, axis=0)"},
        "upstream and kl_divergence",
    ),
    Substitution(
        "numerics/reduction.py",
        "axes are counted from the other end",
        {'normalize_axis("axis", a, ndim) for a': 'ndim - 1 - normalize_axis("axis", a, ndim) for a'},
        "Reductions and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "only the first of several axes is summed by NumPy",
        {"axis=None if len(axes) == x.ndim else axes)": "axis=None if len(axes) == x.ndim else axes[0])"},
    ),
    Substitution(
        "numerics/reduction.py",
        "only the first of several axes is summed",
        {"axis=None if len(axes) == len(x.shape) else axes)": "axis=None if len(axes) == len(x.shape) else axes[0])"},
    ),
    Substitution(
        "numerics/reduction.py",
        "an axis may be named twice",
        {"if len(set(axes)) < len(axes):": "if False:"},
        "refused and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "an empty set is NaN",
        {"return xp.where(empty, 0.0, total / xp.where(empty, 1.0, divisor))": "return total / divisor"},
        "nothing_left and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the divisor forgets what a row counts",
        {"share = mass\n": "share = None\n"},
    ),
    Substitution(
        "numerics/reduction.py",
        "the value is not returned in the dtype of the predictions",
        {"return as_dtype(xp, total, like.dtype)": "return total"},
        "dtype and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the gradient is not returned in the dtype of the predictions",
        {"as_dtype(xp, gradient, like.dtype), like)": "gradient, like)"},
        "dtype and mse_loss",
    ),
    Substitution(
        "numerics/reduction.py",
        "the gradient of a NumPy scalar is not writable",
        {"return np.asarray(gradient)  # NumPy's scalars are not writable": "return gradient"},
    ),
    # stable primitives
    Substitution(
        "numerics/stable.py",
        "0 · ∞ is NaN",
        {"xp.where(mass == 0, 0.0, mass * x)": "mass * x"},
        "Extremes and cross_entropy_with_logits",
    ),
    Substitution(
        "numerics/stable.py",
        "rounding leaves a divergence negative",
        {"return xp.where((values < 0.0) & (values >= -rounding), 0.0, values)": "return values"},
    ),
    Substitution(
        "numerics/stable.py",
        "every negative divergence is cut off",
        {"(values < 0.0) & (values >= -rounding)": "values < 0.0"},
    ),
    Substitution(
        "numerics/stable.py",
        "numbers of 32 bits that are not in one piece stay out of order",
        {'.astype(np.int64, order="C")': ".astype(np.int64)"},
        tests="segmentation",
        select="float32",
    ),
    Substitution(
        "numerics/stable.py",
        "the softmax overflows",
        {"shifted = logits - largest_number(xp, logits, axis)": "shifted = logits"},
        "Extremes and cross_entropy_with_logits",
    ),
    Substitution(
        "templates/rows.py",
        "a logit of +inf is NaN",
        {"        shifted = xp.minimum(shifted, 0.0, **over)\n": "        pass\n"},
    ),
    Substitution(
        "templates/rows.py",
        "the softmax is normalized over the wrong axis",
        {
            "else xp.sum(exponentials, axis=axis)": "else xp.sum(exponentials, axis=-1)",
            "np.add.reduce(exponentials, axis=axis)": "np.add.reduce(exponentials, axis=-1)",
        },
        "central_differences and cross_entropy_with_logits",
    ),
    Substitution(
        "numerics/stable.py",
        "coincident points have no distance",
        {"xp.where(scale == 0, 1.0, xp.minimum(scale,": "xp.where(scale < 0, 1.0, xp.minimum(scale,"},
        "Extremes and triplet_loss",
    ),
    Substitution(
        "numerics/stable.py",
        "large distances overflow",
        {"    divisor = xp.where(scale == 0, 1.0, xp": "    divisor = 1.0 + 0.0 * xp.where(scale == 0, 1.0, xp"},
        "Extremes and triplet_loss",
    ),
    Substitution(
        "numerics/stable.py",
        "the maximum norm has a slope at every tie",
        {"first * xp.sign(x)": "xp.where(magnitude == scale, xp.sign(x), 0.0)"},
    ),
    Substitution(
        "numerics/reduction.py",
        "a steep slope overflows",
        {
            "slope = bounded(xp, slope, slope.dtype)": "pass",
            "        if not self.scaled:\n": "        if False:\n",
        },
        "Extremes and gaussian_negative_log_likelihood",
    ),
    # what every element-wise loss goes through
    Substitution(
        "templates/elements.py",
        "the slope is written into the predictions",
        {"_, slopes = self.evaluate(": "_, slopes = _, arguments[0][...] = self.terms("},
        "fresh and mse_loss",
    ),
    Substitution(
        "templates/elements.py",
        "options may enlarge the loss",
        {"n not in (1, m) for n, m": "n not in (1, m) and m != 1 for n, m"},
    ),
    Substitution(
        "numerics/validation.py",
        "shapes are broadcast",
        {"if x.shape != first.shape and tuple(x.shape) != tuple(first.shape):": "if False:"},
        "broadcast and mse_loss",
    ),
    Substitution(
        "numerics/validation.py",
        "half precision is not widened",
        {"xp.float32 if dtype.itemsize <= 2 else dtype": "dtype"},
        "dtype and float16",
    ),
    Substitution(
        "numerics/validation.py",
        "integer predictions are accepted",
        {'if not is_dtype(xp, dtype, "real floating"):': "if False:"},
        "refused and mse_loss",
    ),
    Substitution(
        "backends/namespaces/__init__.py",
        "libraries are mixed",
        {"if found is not xp:": "if False:"},
        "refused and mse_loss",
    ),
    Substitution(
        "domains.py",
        "the end of an open interval is accepted",
        {"return (value > self.low) & ((": "return (value >= self.low) & (("},
    ),
    Substitution(
        "domains.py",
        "the end of a closed interval is refused",
        {"return (value >= self.low) & (value <= self.high)": "return (value > self.low) & (value <= self.high)"},
        "focal_loss and central",
    ),
    Substitution(
        "domains.py",
        "the clip width is not raised for half precision",
        {"return epsilon if epsilon > resolution / 4 else resolution": "return epsilon"},
    ),
    Substitution(
        "domains.py",
        "illegal labels pass where they can be seen",
        {"not seen.size or self._all_legal(seen):": "True:"},
    ),
    Substitution(
        "domains.py",
        "the last of many labels pass unread",
        {"for i in range(0, len(flat), step)": "for i in range(0, len(flat) - step, step)"},
    ),
    Substitution(
        "domains.py",
        "illegal labels pass where they cannot be seen",
        {"labels, math.nan) if host_values(labels) is None": "labels, math.nan) if False"},
    ),
    Substitution(
        "domains.py",
        "few labels pass unread",
        {"return bool(nearest.tobytes() == labels.tobytes())": "return True"},
    ),
    Substitution("domains.py", "0 is a sign", {"SIGN = Labels((-1, 1))": "SIGN = Labels((-1, 0, 1))"}),
    Substitution(
        "catalogue.py",
        "value_and_gradient loses the upstream gradient",
        {"**own), gradient(*arguments, **keywords)": "**own), gradient(*arguments, **own)"},
        "value_and_gradient and cross_entropy_loss",
    ),
    Substitution(
        "templates/unreduced.py",
        "losses are summed over one axis less",
        {"tuple(range(len(found.values.shape), ": "tuple(range(len(found.values.shape) + 1, "},
        "chamfer_distance",
    ),
    Substitution(
        "templates/unreduced.py",
        "slopes that are pulled back are not weighted",
        {"found.pull(closing.spread(xp, slope, slope, summed))": "found.pull(slope)"},
        "mesh_edge_loss",
    ),
    Substitution(
        "templates/unreduced.py",
        "value and gradient lose the upstream gradient of slopes that take a number",
        {"slopes, close = found.scaled(closing.factor), ": "slopes, close = found.scaled(1.0), "},
        "triplet_loss",
    ),
    Substitution(
        "templates/unreduced.py",
        "what a loss counts in the divisor is lost",
        {"found.values.dtype, mass=found.mass, **reduction)": "found.values.dtype, **reduction)"},
        "Reductions",
    ),
    Substitution(
        "templates/unreduced.py",
        "a name in wrt gives a dict",
        {"NamedArrays(gradients) if isinstance(asked, tuple) else gradients[asked]": "gradients"},
        "chamfer_distance",
    ),
    Substitution(
        "templates/elements.py",
        "blocks lose the weights",
        {"value = np.where(weights == 0, 0.0, value * weights)": "pass"},
    ),
    Substitution(
        "templates/elements.py",
        "blocks lose the upstream gradient",
        {"np.multiply(slope, factor, out=out)": "out[...] = slope"},
    ),
    Substitution(
        "execution/jax.py",
        "JAX arrays of another device come back on the default one",
        {"if value.devices() != like.devices():": "if False:"},
    ),
    Substitution(
        "backends/namespaces/numpy.py",
        "a choice between two arrays takes the wrong one",
        {"mixed ^= other": "mixed ^= chosen"},
    ),
    Substitution(
        "templates/elements.py",
        "illegal labels pass the fused loop",
        {"if not are_legal:": "if False:"},
    ),
    Substitution(
        "catalogue.py",
        "a gradient may take other arguments than its loss",
        {"if shape(loss) != shape(other):": "if False:"},
    ),
    Substitution(
        "numerics/trees.py",
        "a tuple of parameters becomes a list",
        {"return type(tree)(branches)": "return branches"},
    ),
    # regression
    Substitution(
        "losses/regression.py",
        "the slope of the squared error has the wrong sign",
        {"return error * error, 2.0 * error": "return error * error, -2.0 * error"},
    ),
    Substitution(
        "losses/regression.py",
        "the squared error writes into the predictions",
        {
            "error = predictions - targets\n    return error *": (
                "predictions -= targets\n    error = predictions\n    return error *"
            )
        },
        "fresh and mse_loss",
    ),
    Substitution(
        "losses/regression.py",
        "sign(0) is 1",
        {"xp.abs(error), xp.sign(error)\n": "xp.abs(error), xp.where(error >= 0.0, 1.0 + 0.0 * error, -1.0)\n"},
    ),
    Substitution(
        "losses/regression.py",
        "Huber's loss forgets to take off ½δ²",
        {"slope * (error - 0.5 * slope)": "slope * error"},
    ),
    Substitution(
        "losses/regression.py",
        "Huber's slope is bounded on one side only",
        {"xp.minimum(xp.maximum(error, -delta), delta)": "xp.minimum(error, delta)"},
    ),
    Substitution(
        "losses/regression.py",
        "the pinball loss weighs the wrong side",
        {
            "(1.0 - quantile) * xp.maximum(side, 0.0) + quantile * xp.minimum": (
                "quantile * xp.maximum(side, 0.0) + (1.0 - quantile) * xp.minimum"
            )
        },
    ),
    Substitution(
        "losses/regression.py",
        "the pinball loss has a slope where there is no error",
        {"side = xp.sign(error)": "side = xp.where(error >= 0.0, 1.0 + 0.0 * error, -1.0)"},
    ),
    Substitution(
        "losses/regression.py",
        "the expectile loss weighs the wrong side",
        {
            "(1.0 - expectile) * xp.maximum(error, 0.0) + expectile * xp.minimum": (
                "expectile * xp.maximum(error, 0.0) + (1.0 - expectile) * xp.minimum"
            )
        },
    ),
    Substitution(
        "losses/regression.py",
        "the percentage error is by the prediction",
        {
            "error, size = predictions - targets, xp.maximum(xp.abs(targets), epsilon)": (
                "error, size = predictions - targets, xp.maximum(xp.abs(predictions), epsilon)"
            )
        },
    ),
    Substitution(
        "losses/regression.py",
        "a prediction of 0 has no slope by the symmetric percentage error",
        {
            "(1.0 + xp.sign(predictions) * xp.sign(targets)) * (magnitude": (
                "2.0 * xp.maximum(xp.sign(predictions) * xp.sign(targets), 0.0) * (magnitude"
            )
        },
        tests="kinks",
        select="smape_loss",
    ),
    Substitution(
        "losses/regression.py",
        "the slope of the squared logarithmic error forgets the inner derivative",
        {"2.0 * difference / (1.0 + predictions)": "2.0 * difference"},
    ),
    # robust
    Substitution(
        "losses/robust.py",
        "the pseudo-Huber loss cancels for small errors",
        {"near = clipped * (clipped / (1.0 + root))": "near = delta * (delta * (root - 1.0))"},
    ),
    Substitution(
        "losses/robust.py",
        "the Cauchy loss squares errors that overflow",
        {
            "log = xp.log1p(xp.where(is_far, ratio - 1.0, square))": "log = xp.log1p(ratio * ratio)",
            "xp.where(is_far, 2.0 * log, log)": "log",
        },
    ),
    Substitution(
        "losses/robust.py",
        "the biweight of Tukey has no end",
        {
            "clipped = xp.minimum(xp.maximum(predictions - targets, -scale), scale)\n    ratio = clipped": (
                "clipped = predictions - targets\n    ratio = clipped"
            )
        },
    ),
    Substitution(
        "losses/robust.py",
        "the general loss is not defined for α = 0",
        {
            "value = xp.where(exponent == 0.0, 0.5 * divisor * log, divisor / alpha * xp.expm1(exponent))": (
                "value = divisor / alpha * xp.expm1(exponent)"
            )
        },
    ),
    Substitution(
        "losses/robust.py",
        "the power in the slope of the general loss vanishes too early",
        {"half * product(xp, half, ratio)": "product(xp, half * half, ratio)"},
    ),
    Substitution(
        "templates/elements.py",
        "a scale may round to 0",
        {
            "return domain.for_dtype(option, xp, dtype) if isinstance(domain, Scale) else option\n        req": (
                "return option\n        req"
            )
        },
        tests="robust",
    ),
    # likelihood
    Substitution(
        "losses/likelihood.py",
        "a size of 0 and a mean of 0 make the gamma likelihood NaN",
        {"ratio = product(xp, targets, xp.exp(-log_mean))\n    #": "ratio = targets * xp.exp(-log_mean)\n    #"},
    ),
    Substitution(
        "losses/likelihood.py",
        "the gamma likelihood of a mean of 0 takes ∞ from ∞",
        {"ratio + xp.where(ratio > 0.0, xp.maximum(log_mean, -1000.0), log_mean)": "ratio + log_mean"},
    ),
    Substitution(
        "losses/likelihood.py",
        "the two powers of the Tweedie likelihood are mixed up",
        {"above / (2.0 - power), above - below": "above / (power - 1.0), above - below"},
    ),
    # boosting and scipy.optimize
    Substitution(
        "boosting/scored.py",
        "the weights of several outputs weigh the outputs",
        {"if self.has_classes or scores.ndim == 1 else found[:, None]": "if True else found"},
        tests="boosting",
    ),
    Substitution(
        "boosting/scored.py",
        "negative weights pass",
        {"if not (found >= 0.0).all():": "if False:"},
        tests="boosting",
    ),
    Substitution(
        "boosting/scored.py",
        "a metric forgets the weights",
        {'reduction="none", **given, **own)': 'reduction="none", **own)'},
        tests="boosting",
    ),
    Substitution(
        "boosting/catboost.py",
        "CatBoost descends",
        {"return (-gradient).tolist(), (-hessian).tolist()": "return gradient.tolist(), (-hessian).tolist()"},
        tests="boosting",
    ),
    Substitution(
        "boosting/links.py",
        "the exponential loss has the link of the logistic one",
        {"expit(2.0 * np.asarray(scores))": "expit(np.asarray(scores))"},
        tests="boosting",
    ),
    Substitution(
        "boosting/start.py",
        "a slope that has vanished is an optimum",
        {"if last == bound == 0.0:": "if False:"},
        tests="boosting",
    ),
    Substitution(
        "optimize/scipy.py",
        "the curvature of the loss is left out",
        {
            "return self._pulled_back(params, products, of_params)": (
                "return self._pulled_back(params, self._pushed_forward(params, directions), of_params)"
            )
        },
    ),
    Substitution(
        "optimize/scipy.py",
        "regularizers are left out",
        {"for name, own in by_param.items():": "for name, own in ():"},
    ),
    Substitution(
        "optimize/scipy.py",
        "any loss has residuals",
        {"if not math.isclose(total, loss,": "if False and not math.isclose(total, loss,"},
    ),
    Substitution(
        "models/torch.py",
        "the derivative of the outputs is along other parameters",
        {"[directions[name] for name in leaves]": "[directions[name] for name in reversed(leaves)]"},
        tests="scipy",
    ),
    # classification
    Substitution(
        "templates/classes.py",
        "class weights of probabilities do not enter the divisor",
        {"mass = None if weights is None else xp.sum(weights * probabilities, axis=axis)": "mass = None"},
    ),
    Substitution(
        "templates/classes.py",
        "class weights of labels do not enter the divisor",
        {"labels, own, even, each), _counted(xp, mass,": "labels, own, even, each), _counted(xp, None,"},
    ),
    Substitution(
        "templates/classes.py",
        "the divisor counts ignored rows",
        {"mass = as_dtype(xp, kept, like.dtype) if mass is None else xp.where(kept, mass, 0.0)": "pass"},
    ),
    Substitution(
        "templates/classes.py",
        "ignored rows are not left out",
        {"x = x if kept is None else xp.where(kept, x, 0.0)": "pass"},
        "cross_entropy_loss-ignoring and central",
    ),
    Substitution(
        "templates/rows.py",
        "the gradient does not leave out ignored rows",
        {"return {name: classes.legal(xp, of_rows)}": "return {name: of_rows}"},
        "cross_entropy_loss-ignoring and central",
    ),
    Substitution(
        "templates/classes.py",
        "ignored rows are not left out at all",
        {"kept = labels != xp.asarray(": "kept = labels == labels + 0 * xp.asarray("},
    ),
    Substitution(
        "templates/classes.py",
        "label smoothing of probabilities shares among the other classes",
        {"a / float(self._classes or x.shape[axis])": "a / float(x.shape[axis] - 1)"},
    ),
    Substitution(
        "templates/classes.py",
        "label smoothing of labels shares among the other classes",
        {"0.0) else self.even / float(x.shape[axis])": "0.0) else self.even / float(x.shape[axis] - 1)"},
    ),
    Substitution(
        "templates/classes.py",
        "label smoothing adds to the target",
        {"own, mass, each, even = 1.0 - smoothing, ": "own, mass, each, even = 1.0, "},
    ),
    Substitution(
        "templates/classes.py",
        "negative labels pass where they can be seen",
        {"(seen < 0) |": "(seen < -classes) |"},
    ),
    Substitution(
        "templates/classes.py",
        "illegal labels pass where they cannot be seen",
        {'return x if illegal is None else xp.where(illegal, float("nan"), x)': "return x"},
    ),
    Substitution(
        "templates/classes.py",
        "the class axis is always the last",
        {'axis = normalize_axis("class_axis", class_axis': 'axis = normalize_axis("class_axis", -1'},
        "class_axis and central",
    ),
    Substitution(
        "domains.py",
        "values outside of a domain pass where they can be seen",
        {"        if _is_enforced.get():\n": "        if False:\n"},
        "can_be_seen_is_refused and binary_cross_entropy",
    ),
    Substitution(
        "domains.py",
        "values outside of a domain pass where they cannot be seen",
        {"return xp.where((x >= low) & (x <= high), x, math.nan)": "return x"},
        "inside_a_trace and binary_cross_entropy",
    ),
    Substitution(
        "domains.py",
        "rows of any sum are distributions where they can be seen",
        {"return bool(off.dot(off)": "return True or bool(off.dot(off)"},
        "can_be_seen_is_refused and kl_divergence",
    ),
    Substitution(
        "domains.py",
        "negative entries of distributions pass where they cannot be seen",
        {"wrong = wrong | (smallest_number(xp, x, axis) < -rounding.element)": "pass"},
        "negative_entry",
    ),
    Substitution(
        "loops/elements.py",
        "a loop lets rows of any sum pass",
        {"wrong += T(1) if abs(off) > near else T(0)": "wrong += T(0)"},
        "in_a_large_array_is_refused and kl_divergence",
        tests="domains",
        select="in_a_large_array_is_refused and kl_divergence",
    ),
    Substitution(
        "execution/host.py",
        "a call is computed with the options of another",
        {"found += name, type(option), option": "pass"},
        tests="repeated_calls",
        select="own_values",
    ),
    Substitution(
        "loops/elements.py",
        "a loop lets elements outside of an interval pass",
        {"illegal += T(1) if {' | '.join(sides)} else T(0)": "illegal += T(0)"},
        "in_a_large_array_is_refused and binary_cross_entropy",
        tests="domains",
        select="in_a_large_array_is_refused and binary_cross_entropy",
    ),
    Substitution(
        "losses/classification.py",
        "cross-entropy does not clip probabilities",
        {"p = xp.minimum(xp.maximum(scores, width), 1.0 - width)": "p = scores"},
    ),
    Substitution(
        "templates/rows.py",
        "targets that do not sum to one are taken to",
        {"return Finished(losses, whole.mass, whole.total)": "return Finished(losses, 1.0, whole.total)"},
        "cross_entropy_with_logits and central",
    ),
    Substitution(
        "losses/classification.py",
        "binary cross-entropy does not clip probabilities",
        {"p = xp.minimum(xp.maximum(predictions, epsilon), 1.0 - epsilon)\n    value": ("p = predictions\n    value")},
        "Extremes and binary_cross_entropy",
    ),
    Substitution(
        "losses/classification.py",
        "binary cross-entropy clips at one end only",
        {
            "p = xp.minimum(xp.maximum(predictions, epsilon), 1.0 - epsilon)\n    value": (
                "p = xp.maximum(predictions, epsilon)\n    value"
            )
        },
        "Extremes and binary_cross_entropy",
    ),
    Substitution(
        "losses/classification.py",
        "the gradient of binary cross-entropy is dead where it clips",
        {
            "return value, (p - targets) / (p * (1.0 - p))": (
                "return value, xp.where(p == predictions, (p - targets) / (p * (1.0 - p)), 0.0)"
            )
        },
    ),
    Substitution(
        "losses/classification.py",
        "pos_weight goes to the negative class",
        {"pos_weight * targets, 1.0 - targets": "targets, pos_weight * (1.0 - targets)"},
    ),
    Substitution(
        "losses/classification.py",
        "pos_weight is ignored",
        {"pos_weight * targets, 1.0 - targets": "targets, 1.0 - targets"},
    ),
    Substitution(
        "losses/classification.py",
        "binary cross-entropy overflows for large logits",
        {"total * xp.log1p(tail)": "total * (xp.log(xp.exp(magnitude) + 1.0) - magnitude)"},
        "Extremes and binary_cross_entropy_with_logits",
    ),
    Substitution(
        "losses/classification.py",
        "an infinite logit that agrees with its target is NaN",
        {"linear = xp.where(linear == linear, linear, 0.0)": "pass"},
    ),
    Substitution(
        "losses/classification.py",
        "the hinge has a slope at its corner",
        {"violation > 0.0, -targets": "violation >= 0.0, -targets"},
    ),
    Substitution(
        "losses/classification.py",
        "the modified Huber loss never turns linear",
        {"bounded = xp.minimum(violation, 2.0)": "bounded = violation"},
    ),
    Substitution(
        "losses/classification.py",
        "the logistic loss overflows",
        {"xp.maximum(-margin, 0.0) + xp.log1p(tail)": "xp.log1p(xp.exp(-margin))"},
        "Extremes and logistic_loss",
    ),
    Substitution(
        "losses/classification.py",
        "focal loss weights the wrong class",
        {
            "weight = (alpha * targets + (1.0 - alpha) * (1.0 - targets)) * xp.exp(gamma * xp.log(q_t))  #": (
                "weight = ((1.0 - alpha) * targets + alpha * (1.0 - targets)) * xp.exp(gamma * xp.log(q_t))  #"
            )
        },
    ),
    Substitution(
        "losses/classification.py",
        "focal loss from logits weights the wrong class",
        {
            "weight = (alpha * targets + (1.0 - alpha) * (1.0 - targets)) * xp.exp(-gamma * xp": (
                "weight = ((1.0 - alpha) * targets + alpha * (1.0 - targets)) * xp.exp(-gamma * xp"
            )
        },
    ),
    Substitution(
        "losses/classification.py",
        "focal loss ignores gamma",
        {"xp.exp(gamma * xp.log(q_t))  #": "xp.exp(2.0 * xp.log(q_t))  #"},
    ),
    Substitution(
        "losses/classification.py",
        "focal loss from an infinite logit is NaN",
        {"xp.minimum(minus_log_q, 1000.0)": "minus_log_q", "xp.minimum(minus_log_p, 1000.0)": "minus_log_p"},
    ),
    # divergences
    Substitution(
        "losses/divergence.py",
        "predictions and targets are swapped in value and gradient",
        {
            "return _kl_by_both.value(predictions": "return _reverse_kl_by_both.value(predictions",
            "return _kl_by_both.gradient(predictions": "return _reverse_kl_by_both.gradient(predictions",
        },
    ),
    Substitution(
        "losses/divergence.py",
        "predictions and targets are swapped in the value",
        {"return _kl_by_both.value(predictions, targets,": "return _kl_by_both.value(targets, predictions,"},
    ),
    Substitution(
        "losses/divergence.py",
        "the slope wrt p has no + 1",
        {"log_smallest) + 1.0": "log_smallest)"},
    ),
    Substitution(
        "losses/divergence.py",
        "the slope wrt p is infinite at 0",
        {"xp.maximum(log_p, log_smallest)": "log_p"},
        "Extremes and kl_divergence",
    ),
    Substitution(
        "losses/divergence.py",
        "the slope wrt q is not finite at 0",
        {"return value, -targets / xp.maximum(predictions, smallest)": "return value, -targets / predictions"},
        "Extremes and kl_divergence",
    ),
    Substitution(
        "losses/divergence.py",
        "p > 0 against q = 0 is finite",
        {"predictions * (log_p - log_q)": "predictions * (log_p - xp.maximum(log_q, log_smallest))"},
    ),
    Substitution(
        "losses/divergence.py",
        "0 · log 0 is NaN",
        {"predictions == 0.0, 0.0, predictions": "predictions < 0.0, 0.0, predictions"},
        "Extremes and kl_divergence",
    ),
    # metric learning
    Substitution(
        "losses/metric_learning.py",
        "the triplet loss forgets its margin",
        {"violation = near - far + margin\n    active": "violation = near - far\n    active"},
    ),
    Substitution(
        "losses/metric_learning.py",
        "the triplet loss has a slope at its corner",
        {"active = violation > 0.0": "active = violation >= 0.0"},
    ),
    Substitution(
        "losses/metric_learning.py",
        "the triplet loss never swaps",
        {"(_SWAPPED if swap else _TRIPLET).losses": "_TRIPLET.losses"},
    ),
    Substitution(
        "losses/metric_learning.py",
        "the triplet loss swaps at a tie",
        {"swapped = other < far": "swapped = other <= far"},
    ),
    Substitution(
        "losses/metric_learning.py",
        "the order of the norm is ignored",
        {"margin, squared, p=p)": "margin, squared, p=2.0)"},
    ),
    Substitution(
        "losses/metric_learning.py",
        "distances are never squared",
        {"    if squared:\n        near_slope": "    if False:\n        near_slope"},
    ),
    Substitution(
        "losses/metric_learning.py",
        "contrastive labels are inverted",
        {"    short = xp.maximum(": "    same = 1.0 - same\n    short = xp.maximum("},
    ),
    Substitution(
        "losses/metric_learning.py",
        "contrastive labels are broadcast",
        {"if tuple(labels.shape) != shape:": "if False:"},
        "broadcast and contrastive_loss",
    ),
    Substitution(
        "templates/vectors.py",
        "a zero vector has half the cosine distance",
        {"xp.where(nothing, 1.0, 0.5 *": "xp.where(nothing, 0.5, 0.5 *"},
        "cosine_embedding_loss",
    ),
    # angular
    Substitution(
        "losses/angular.py",
        "the logit rises again beyond π − m",
        {"within = angle.cosine > -cos_m": "within = angle.cosine > -2.0"},
    ),
    Substitution(
        "losses/angular.py",
        "parallel vectors are pushed apart by rounding",
        {"parallel = nothing | (": "parallel = nothing & ("},
    ),
    # regularization
    Substitution(
        "losses/regularization.py",
        "only the first array counts",
        {"total = total + penalty": "total = total"},
    ),
    Substitution(
        "losses/regularization.py",
        "sign(0) is 1",
        {"xp.sign(w)": "xp.where(w >= 0.0, 1.0, -1.0)"},
    ),
    Substitution(
        "losses/regularization.py",
        "the gradient forgets the strength",
        {"slopes * (strength * factor)": "slopes * factor"},
    ),
    Substitution(
        "losses/regularization.py",
        "the larger Gram matrix is taken",
        {"matrix.shape[0] <= matrix.shape[1]": "matrix.shape[0] >= matrix.shape[1]"},
    ),
    Substitution(
        "losses/regularization.py",
        "the smallest singular value is taken",
        {"vectors[:, -1:]": "vectors[:, :1]"},
    ),
    Substitution(
        "losses/regularization.py",
        "the gradient of a matrix comes back as another one",
        {"lambda factor: view.back(xp, slope) *": "lambda factor: view.back(xp, slope[::-1, ...]) *"},
    ),
    Substitution(
        "losses/regularization.py",
        "the gradient of a large array forgets what flows in",
        {"gradient if u == 1.0 else terms.terms(xp, w)[1] * (strength * u)": "gradient"},
        tests="regularization",
        select="LargeArrays",
    ),
    Substitution(
        "numerics/stable.py",
        "the norm of a vector with NaN and infinity is infinite",
        {" & (power == power)": ""},
        tests="stable",
        select="norm",
    ),
    Substitution(
        "numerics/stable.py",
        "the last of few entries is not added in a trace",
        {"for i in range(x.shape[axis])))": "for i in range(max(x.shape[axis] - 1, 1))))"},
        tests="stable",
        select="norm",
    ),
    # the checker itself
    Substitution(
        "checking/gradients.py",
        "no element is ever wrong",
        {"if errors[worst] > tolerance:": "if False:"},
    ),
    Substitution(
        "checking/gradients.py",
        "a remainder of first order passes",
        {"if order < 1.5:": "if False:"},
        tests="checking",
    ),
    # masks: void pixels, class weights, logits, compound losses
    Substitution(
        "templates/masks.py",
        "an ignored pixel keeps its slope",
        {"return self.only_kept(zero + one * self.targets)": "return zero + one * self.targets"},
        tests="segmentation_logits",
        select="void",
    ),
    Substitution(
        "templates/masks.py",
        "ignored pixels are in the sums of a mask",
        {"xp.sum(self.only_kept(x), axis=self.layout.mask": "xp.sum(x, axis=self.layout.mask"},
        tests="segmentation_logits",
        select="ignored",
    ),
    Substitution(
        "templates/masks.py",
        "class weights of masks do not enter the divisor",
        {"mass = self.layout.masses(xp, w, tuple(values.shape))": "mass = None"},
        tests="segmentation_logits",
        select="other_libraries",
    ),
    Substitution(
        "templates/masks.py",
        "class weights do not enter the divisor of masks in blocks",
        {"return None if weights is None else layout.masses(xp, weights, shape)": "return None"},
        tests="segmentation_logits",
        select="blocks",
    ),
    Substitution(
        "templates/masks.py",
        "masks of all samples are one for each sample",
        {"one_mask = pool_batch or len(others) == 1": "one_mask = len(others) == 1"},
        tests="segmentation_logits",
        select="other_libraries",
    ),
    Substitution(
        "templates/masks.py",
        "an illegal label is no class, out of sight",
        {"return (t if illegal is None else xp.where(illegal, math.nan, t)), kept": "return t, kept"},
        tests="segmentation_logits",
        select="illegal_labels",
    ),
    Substitution(
        "templates/masks.py",
        "1 − p of a mask is a difference",
        {"xp.where(self._upper, low, high)": "1.0 - xp.where(self._upper, high, low)"},
        tests="segmentation_logits",
        select="digits",
    ),
    Substitution(
        "templates/masks.py",
        "1 − p of the largest class is a difference",
        {"self.q = xp.where(self._top, self._others, total - exponentials) / total": "self.q = 1.0 - self.p"},
        tests="segmentation_logits",
        select="digits",
    ),
    Substitution(
        "templates/masks.py",
        "the slopes of a softmax forget the other classes",
        {"product(xp, others, self.p), slopes - rest)": "product(xp, others, self.p), slopes)"},
        tests="segmentation_logits",
        select="other_libraries",
    ),
    Substitution(
        "templates/overlap.py",
        "the pixels of a compound loss are averaged over the ignored ones too",
        {"mass = xp.sum(masks.only_kept(pixels.mass)": "mass = xp.sum((pixels.mass)"},
        tests="segmentation_logits",
        select="parts",
    ),
    Substitution(
        "templates/overlap.py",
        "the Dice loss of a compound loss is the sum over classes",
        {"w = a * w / xp.where(total == 0, math.inf, total)": "w = a * w"},
        tests="segmentation_logits",
        select="parts",
    ),
    Substitution(
        "templates/overlap.py",
        "the slope of a focal loss forgets its factor",
        {"return power * minus_log, -power * (1.0 + gamma * p * ratio)": "return power * minus_log, -power"},
        tests="segmentation_logits",
        select="other_libraries",
    ),
    Substitution(
        "templates/lovasz.py",
        "class weights do not count in a Lovász extension",
        {"counted = counted * pixels.weights": "counted = 1.0 * counted"},
        tests="segmentation_logits",
        select="test_class_weights",
    ),
    # masks, tiles, loops, the ways of JAX and PyTorch, objectives, models
    Substitution(
        "loops/elements.py",
        "a weight of 0 leaves NaN in the sum of a loop",
        {"T(0) if w == T(0) else value * w": "value * w"},
        tests="execution",
    ),
    Substitution(
        "loops/elements.py",
        "a weight of 0 leaves NaN in the gradient of a loop",
        {'f"T(0) if w == T(0) else {scaled} * w" if weighted': 'f"{scaled} * w" if weighted'},
        tests="execution",
    ),
    Substitution(
        "loops/elements.py",
        "every chunk begins with the first weight",
        {"(start // inner) % entries.size, inner": "0, inner"},
        tests="execution",
    ),
    Substitution(
        "loops/elements.py",
        "the first chunk of a loop is not in the sum",
        {"np.add.reduce(partials, axis=1)": "np.add.reduce(partials[:, partials.shape[1] > 1 :], axis=1)"},
        tests="execution",
    ),
    Substitution(
        "loops/elements.py",
        "illegal labels pass through a loop",
        {"return total, not illegal": "return total, True"},
        tests="execution",
        select="illegal_labels",
    ),
    Substitution(
        "loops/kernels/rows.py",
        "an infinite logit overflows in a loop",
        {"shifted[c] = xp.minimum(row[c], LARGEST) - m": "shifted[c] = row[c] - m"},
        tests="execution",
        select="special_scores",
    ),
    Substitution(
        "templates/stencil.py",
        "a band does not see the row above it",
        {"top = max(start - 1, 0)": "top = start"},
        tests="image",
    ),
    Substitution(
        "losses/image.py",
        "images that are compared together share the weight of the first",
        {"by_plane = scales[group].reshape(": "by_plane = np.full_like(scales[group], scales[group][0]).reshape("},
        tests="image",
    ),
    Substitution(
        "templates/stencil.py",
        "the images that fill no group are left out",
        {"share(-(-len(planes) // step), lambda i": "share(len(planes) // step, lambda i"},
        tests="image",
    ),
    Substitution(
        "templates/points.py",
        "distances that cancel are kept",
        {"        squared[batch, i, j] = np.vecdot(difference, difference)\n": ""},
        tests="points",
    ),
    Substitution(
        "templates/points.py",
        "only the last tile pulls on the second set",
        {"by_y + kernel.pull(xp, xp.matrix_transpose(slope)": "kernel.pull(xp, xp.matrix_transpose(slope)"},
        tests="points",
    ),
    Substitution(
        "templates/points.py",
        "rows that fill no tile are left out on JAX",
        {"    if full < count:\n": "    if False:\n"},
        tests="points",
    ),
    Substitution(
        "templates/points.py",
        "masked points are found",
        {"return xp.where(xp.expand_dims(candidates, axis=-2), squared, math.inf)": "return squared"},
        tests="points",
    ),
    Substitution(
        "execution/torch.py",
        "value and gradient are in a graph",
        {"if is_transformed else torch.no_grad()": "if True else torch.no_grad()"},
        tests="differentiable",
        select="no_graph",
    ),
    # the derivative of the frameworks
    Substitution(
        "autodiff/torch.py",
        "the gradient that flows in is forgotten",
        {"if factor == 1.0:": "if True:"},
        tests="differentiable",
        select="InTheGraph",
    ),
    Substitution(
        "autodiff/torch.py",
        "a second pass gives the same memory away",
        {"_scaled(call.ready.pop(), upstream)": "_scaled(call.ready[0], upstream)"},
        tests="differentiable",
        select="InTheGraph",
    ),
    Substitution(
        "autodiff/torch.py",
        "a gradient in half precision is scaled after it was rounded",
        {"(torch.float32, torch.float64)": "(torch.float32, torch.float64, torch.float16, torch.bfloat16)"},
        tests="differentiable",
        select="half_precision",
    ),
    Substitution(
        "autodiff/torch.py",
        "the gradient has no derivative",
        {"call.ready and not torch.is_grad_enabled()": "call.ready"},
        tests="differentiable",
        select="test_second_derivatives",
    ),
    Substitution(
        "autodiff/torch.py",
        "an option that is learned loses its derivative",
        {"if call.is_usual or call.covers(call.wanted):": "if True:"},
        tests="differentiable",
        select="learned",
    ),
    Substitution(
        "autodiff/torch.py",
        "the gradient of large tensors in a graph leaves it",
        {"any(x.requires_grad for x in tensors)": "False"},
        tests="values",
        select="in_a_graph",
    ),
    Substitution(
        "autodiff/call.py",
        "the value alone of large arrays takes what belongs to the gradient",
        {"        template.require_known(reduction, gradient=False)\n": ""},
        tests="values",
        select="errors",
    ),
    Substitution(
        "autodiff/torch.py",
        "what a transform wraps is not differentiated",
        {"        if torch._C._functorch.is_gradtrackingtensor(x):\n            return True\n": ""},
        tests="differentiable",
        select="in_a_batch_too",
    ),
    Substitution(
        "autodiff/torch.py",
        "an infinite gradient that flows in meets elements of weight 0",
        {"if math.isfinite(factor) else None": "if True else None"},
        tests="differentiable",
        select="masked_elements",
    ),
    Substitution(
        "autodiff/torch.py",
        "autocast computes a loss in half precision",
        {"x.float() if x.is_floating_point() and": "x if x.is_floating_point() and"},
        tests="differentiable",
        select="autocast",
    ),
    Substitution(
        "autodiff/jax.py",
        "an option that is learned loses its derivative in JAX",
        {"        if call.covers(names):\n": "        if True:\n"},
        tests="differentiable",
    ),
    Substitution(
        "autodiff/jax.py",
        "losses that are not summed share a derivative",
        {"if found.ndim == 0 and is_wide:": "if is_wide:"},
        tests="differentiable",
        select="not_summed",
    ),
    Substitution(
        "checking/gradients.py",
        "the checker compares a gradient with itself",
        {"    with plain_functions():\n        return list(": "    if True:\n        return list("},
        tests="differentiable",
        select="wrong_gradient",
    ),
    Substitution(
        "execution/jax.py",
        "JAX takes an equal option of another type for the same",
        {"(name, x, type(x)) for": "(name, x, object) for"},
        tests="execution",
        select="another_type",
    ),
    Substitution(
        "execution/jax.py",
        "no value of JAX arrays is looked at",
        {"if not self._donate:  # JAX goes on": "if False:  # JAX goes on"},
        tests="execution",
        select="looked_at",
    ),
    Substitution(
        "limits.py",
        "changed limits stay",
        {"        current = before\n": "        pass\n"},
    ),
    Substitution(
        "objectives/objective.py",
        "the last of several terms on one output is its gradient",
        {"add_into(gradients[name], gradient) if name in gradients else gradient": "gradient"},
        tests="objectives",
    ),
    Substitution(
        "objectives/objective.py",
        "the total forgets the weights",
        {"else w * x for name, x": "else x for name, x"},
        tests="objectives",
    ),
    Substitution(
        "objectives/objective.py",
        "the gradients of regularisers forget the weights",
        {"value_and_gradients(params, weights[name], step)": "value_and_gradients(params, 1.0, step)"},
        tests="objectives",
    ),
    Substitution(
        "models/torch.py",
        "a forward pass writes into the buffers of the module",
        {"if not torch.is_grad_enabled():": "if False:"},
        tests="models",
    ),
    Substitution(
        "models/jax.py",
        "an output without a gradient has one of ones",
        {"jnp.zeros_like(output) if gradient is None": "jnp.ones_like(output) if gradient is None"},
        tests="models",
    ),
    # compiled loops and where they are kept
    Substitution(
        "loops/kernel_cache.py",
        "a damaged entry is read",
        {"return payload if digest == _digest(name, payload) else None": "return payload"},
    ),
    Substitution(
        "loops/kernel_cache.py",
        "an entry is read under any name",
        {'hashlib.sha256(name.encode() + b"\\0" + payload)': "hashlib.sha256(payload)"},
    ),
    Substitution(
        "loops/kernel_cache.py",
        "an entry that others may write is read",
        {"if not _is_private(os.fstat(file.fileno())):": "if False:"},
    ),
    Substitution(
        "loops/kernel_cache.py",
        "a folder that others may write to is used",
        {"if stat.S_ISDIR(found.st_mode) and _is_private(found):": "if stat.S_ISDIR(found.st_mode):"},
    ),
    Substitution(
        "loops/kernel_cache.py",
        "what a full disk cut off is left",
        {"            os.unlink(partial.name)\n": "            pass\n"},
    ),
    Substitution(
        "loops/kernel_cache.py",
        "the entries that were used last are forgotten",
        {"sorted(entries)[:": "sorted(entries, reverse=True)[:"},
    ),
    Substitution(
        "loops/compiling.py",
        "types of arrays are left to the first call of a thread",
        {"x.flags.aligned, x.flags.writeable) for x in arrays": "True, True) for x in arrays[:0]"},
    ),
    Substitution(
        "loops/compiling.py",
        "edited terms are compiled forever",
        {"len(texts) > DEFINITIONS": "False"},
    ),
    # memory that is used again, and arrays of the caller
    Substitution(
        "backends/memory.py",
        "memory is handed out that is too small",
        {"if size <= block.size <= 2 * size and": "if block.size <= 2 * size and"},
        tests="memory",
    ),
    Substitution(
        "backends/memory.py",
        "memory that is in use is handed out again",
        {"2 * size and self._remove(block)": "2 * size and block in self._kept"},
        tests="memory",
    ),
    Substitution(
        "backends/memory.py",
        "two threads may get the same memory",
        {
            "        except ValueError:  # another thread was faster\n            return False\n": (
                "        except ValueError:  # another thread was faster\n            return True\n"
            )
        },
        tests="memory",
    ),
    Substitution(
        "backends/memory.py",
        "more memory is kept than the limit says",
        {"self._kept.copy()]) - self._limit": "self._kept.copy()]) - 2 * self._limit"},
        tests="memory",
    ),
    Substitution(
        "backends/memory.py",
        "unused memory never goes back",
        {"if self._period - block.since > 1:": "if self._period - block.since > 10**9:"},
        tests="memory",
    ),
    Substitution(
        "backends/memory.py",
        "a forked child believes in the thread of its parent",
        {"after_in_child=_pool.reset": "after_in_child=_pool.clear"},
        tests="memory",
    ),
    Substitution(
        "execution/host.py",
        "a loop does not write into the array of the caller",
        {"buffers[n] if n in buffers else empty(": "empty("},
        tests="output",
    ),
    Substitution(
        "execution/output.py",
        "an array of the caller may be an argument",
        {"and _share_memory(buffer, x):": "and x is None:"},
        tests="output",
    ),
    Substitution(
        "execution/torch.py",
        "autograd does not learn that a tensor was written",
        {"torch.autograd.graph.increment_version([": "list(["},
        tests="output",
    ),
    Substitution(
        "backends/threads.py",
        "a thread that cannot be started is an error",
        {"    except RuntimeError:\n": "    except ZeroDivisionError:\n"},
        tests="compiling",
        select="WithoutThreads",
    ),
    Substitution(
        "loops/elements.py",
        "a float32 sum runs over a whole chunk",
        {"STRIP = 1024  #": "STRIP = 8192  #", "_KEPT = 2048  #": "_KEPT = 8192  #"},
        tests="sums",
        select="rounded_down",
    ),
    # rows
    Substitution(
        "templates/rows.py",
        "two parts of a row are combined without their largest",
        {"part.total * xp.exp(lower)": "part.total"},
        tests="rows",
    ),
    Substitution(
        "templates/rows.py",
        "the part that stands lower loses nothing",
        {" + times(xp, part.mass, lower)": ""},
        tests="rows",
    ),
    Substitution(
        "templates/rows.py",
        "the z-loss has half its slope",
        {"whole.mass + 2.0 * z_loss * height": "whole.mass + z_loss * height"},
        tests="language",
    ),
    Substitution(
        "templates/rows.py",
        "rows that are ignored count in the loop",
        {"as loops\n\n        if classes.kept is not None:": "as loops\n\n        if False:"},
        tests="language",
    ),
    # curvature
    Substitution(
        "terms/second_order.py",
        "a product with a Hessian of two slopes leaves out what is beside the diagonal",
        {"at[min(i, j), max(i, j)] * vectors[j] for j in range(size)]": "at[i, i] * vectors[i] for j in [i]]"},
        tests="curvature",
        select="gaussian_negative",
    ),
    Substitution(
        "terms/second_order.py",
        "a bound is the absolute value of the diagonal",
        {"_sum([at[i, i], *(": "_sum([at[i, i], *(0.0 * "},
        tests="curvature",
        select="gaussian_negative",
    ),
    Substitution(
        "terms/second_order.py",
        "a bound may be negative",
        {"[xp.maximum(rows[i], 0.0) if i == j": "[rows[i] if i == j"},
        tests="curvature",
        select="Bounds",
    ),
    Substitution(
        "terms/second_order.py",
        "a factor of two slopes is not lower triangular",
        {"[root * vectors[0] + below * vectors[1], last": "[root * vectors[0], last"},
        tests="second_order",
    ),
    Substitution(
        "terms/second_order.py",
        "second derivatives are not bounded",
        {"for x in h] if self.is_steep else h": "for x in h] if False else h"},
        tests="curvature",
        select="Extremes",
    ),
    Substitution(
        "templates/second_order.py",
        "a loop multiplies a factor with weights in place of their roots",
        {'is_factor = order in ("factor", "trans': 'is_factor = order in ("no", "trans'},
        tests="curvature",
        select="Matrices",
    ),
    Substitution(
        "numerics/reduction.py",
        "a factor is multiplied with the upstream gradient in place of its root",
        {"root = math.sqrt(self.factor) if type(self.factor) is float else xp.sqrt(self.factor)": "root = self.factor"},
        tests="curvature",
        select="Matrices",
    ),
    Substitution(
        "templates/rows.py",
        "the Hessian of softmax is that of independent classes",
        {"centred = p * (v - along(p, v))": "centred = p * v"},
        tests="curvature",
        select="cross_entropy_with_logits",
    ),
    Substitution(
        "templates/rows.py",
        "the Hessian of softmax ignores the mass of the targets",
        {"named(centred if mass is ONE else mass * centred)": "named(centred)"},
        tests="curvature",
        select="cross_entropy_with_logits",
    ),
    Substitution(
        "templates/rows.py",
        "the bound of softmax is its diagonal",
        {"named(2.0 * mass * (p * (1.0 - p)))": "named(mass * (p * (1.0 - p)))"},
        tests="curvature",
        select="cross_entropy_with_logits",
    ),
    Substitution(
        "loops/kernels/rows.py",
        "the loop over Hessian-vector products forgets the mean",
        {"e[c] = scale * e[c] * (v[c] - mean)": "e[c] = scale * e[c] * v[c]"},
        tests="curvature",
        select="test_compiled",
    ),
    Substitution(
        "autodiff/torch.py",
        "the derivative of a gradient by what flows in is lost",
        {"return None, None, by_upstream, *(": "return None, None, None, *("},
        tests="curvature",
        select="Derivatives",
    ),
    Substitution(
        "autodiff/torch.py",
        "a Hessian-vector product forgets the gradient that flows in",
        {"times_hessian(tensors, vectors, upstream,": "times_hessian(tensors, vectors, 1.0,"},
        tests="curvature",
        select="Derivatives",
    ),
    Substitution(
        "autodiff/jax.py",
        "the gradient does not move with the arguments",
        {"return (found, gradients), (along, second)": "return (found, gradients), (along, [0.0 * h for h in second])"},
        tests="curvature",
        select="Derivatives",
    ),
    Substitution(
        "losses/adversarial.py",
        "the Hessian of a relativistic average forgets the mean of the other batch",
        {"return a - xp.mean(b), b - xp.mean(a)": "return a, b"},
        tests="curvature",
        select="relativistic",
    ),
    Substitution(
        "losses/adversarial.py",
        "the Hessian of the gradient penalty forgets the directions across the gradient",
        {"back(2.0 * (part + across * (of(": "back(2.0 * (part + 0.0 * across * (of("},
        tests="curvature",
        select="gradient_penalty",
    ),
    Substitution(
        "losses/regression.py",
        "the Hessian of PSNR has the wrong sign along the error",
        {"v - 2.0 * unit * xp.sum(unit * v": "v + 2.0 * unit * xp.sum(unit * v"},
        tests="curvature",
        select="psnr",
    ),
    Substitution(
        "losses/regularization.py",
        "the Hessian of the orthogonal penalty lacks a term",
        {"(moved + xp.matrix_transpose(moved)) @ matrix": "moved @ matrix"},
        tests="curvature",
        select="orthogonal",
    ),
    Substitution(
        "templates/masks.py",
        "the Hessian of an overlap is not symmetric",
        {
            "- self.first * (self.s * self.total(self.g * v) + self.g * along)": (
                "- 2.0 * self.first * (self.s * self.total(self.g * v))"
            )
        },
        tests="curvature",
        select="dice or tversky",
    ),
    Substitution(
        "templates/stencil.py",
        "the diagonal of total variation forgets that a pixel is in two differences",
        {"lambda: at_both_ends(h_across, h_down) + 2.0 * h_both": "lambda: at_both_ends(h_across, h_down)"},
        tests="curvature",
        select="total_variation",
    ),
    Substitution(
        "losses/perceptual.py",
        "the Hessian of a style loss has half of a product rule",
        {"(change + turn(change)) / size": "2.0 * change / size"},
        tests="curvature",
        select="style",
    ),
    Substitution(
        "execution/curvature.py",
        "a Hessian that may be negative counts as Fisher information",
        {'is_needed = kind == "fisher" and not': 'is_needed = kind == "fishy" and not'},
        tests="curvature",
        select="Refusals",
    ),
    # training
    Substitution(
        "training/loop.py",
        "a resumed run begins the iterator anew",
        {"        self.data.skip(found.epoch)\n": ""},
        tests="fit",
        select="passed_over",
    ),
    Substitution(
        "training/loop.py",
        "a resumed run draws other masks",
        {"        self._set_random_states(found.arrays)\n": ""},
        tests="fit",
        select="same_masks",
    ),
    Substitution(
        "training/loop.py",
        "dropout is active in evaluation",
        {"with mode(model, training=False):": "with mode(model, training=True):"},
        tests="fit",
        select="TestTorch",
    ),
    Substitution(
        "training/loop.py",
        "a loss that grows and grows is no divergence",
        {"OUT_OF_PROPORTION = 1e4": "OUT_OF_PROPORTION = 1e40"},
        tests="fit",
        select="diverged",
    ),
    Substitution(
        "training/loop.py",
        "the last of equal epochs is the best",
        {"return values.index(min(values)) + 1": "return len(values) - values[::-1].index(min(values))"},
        tests="fit",
        select="best_of_equal",
    ),
    Substitution(
        "training/moving.py",
        "small gradients are scaled up to the norm",
        {"xp.where(found > norm, norm / found, xp.ones_like(found))": "norm / found"},
        tests="fit",
        select="clipped",
    ),
    Substitution(
        "training/optimizers.py",
        "weight decay follows no schedule",
        {"decay = self.learning_rate * factor * self.weight_decay": "decay = self.learning_rate * self.weight_decay"},
        tests="fit",
        select="decay",
    ),
    Substitution(
        "training/run.py",
        "a run is overwritten unasked",
        {"if has_run and not resume and not overwrite:": "if has_run and not resume and overwrite:"},
        tests="runs",
        select="overwritten_only",
    ),
    Substitution(
        "training/data.py",
        "features are scaled by all rows",
        {'sets["train"], features': "raw, features"},
        tests="own_data",
        select="scaled",
    ),
    Substitution(
        "training/data.py",
        "labels decide no split",
        {"    if config.stratify:\n": '    if config.stratify == "":\n'},
        tests="own_data",
        select="stratified",
    ),
    Substitution(
        "training/printing.py",
        "a column has room for eight characters",
        {"_NUMBER = 10  #": "_NUMBER = 8  #", "2 * len(keys) + 1 > limit": "2 * len(keys) - 9 > limit"},
        tests="runs",
        select="beside_the_columns",
    ),
    Substitution(
        "training/finished.py",
        "a test set that has changed is evaluated",
        {"if dataset.preparation.digest != self._preparation.digest:": "if not dataset.preparation.digest:"},
        tests="runs",
        select="guess",
    ),
    # arrays on shards
    Substitution(
        "numerics/reduction.py",
        "the divisor counts the losses of one shard",
        {"else sum(counts)": "else count"},
        tests="groups",
    ),
    Substitution(
        "numerics/reduction.py",
        "the total is that of one shard",
        {"            total = shards.sum(total)": "            pass"},
        tests="groups",
    ),
    Substitution(
        "numerics/reduction.py",
        "masses are those of one shard",
        {"        divisor = shards.sum(divisor)": "        pass"},
        tests="groups",
    ),
    Substitution(
        "templates/classes.py",
        "labels do not know the classes of other shards",
        {"        labels = labels - self.first\n": ""},
        tests="groups",
    ),
    Substitution(
        "templates/classes.py",
        "smoothing shares among the classes of one shard",
        {"smoothing * (columns.own / columns.total), ONE": "smoothing, ONE"},
        tests="groups",
    ),
    Substitution(
        "templates/rows.py",
        "each shard has its own largest logit",
        {"largest = largest if across is None else across.largest(largest)": "pass"},
        tests="groups",
    ),
    Substitution(
        "templates/ring.py",
        "the derivatives of a block stay with another shard",
        {"home = ring.shifted(arrays[-1:], ring.shards.size)[0] if guests": "home = arrays[-1] if guests"},
        tests="groups",
    ),
    Substitution(
        "templates/pairs.py",
        "the derivative by a shared number is that of one shard",
        {"return derivative if self.split is None else self.split.sum(derivative)": "return derivative"},
        tests="groups",
    ),
    Substitution(
        "shards/groups.py",
        "a backward pass adds up over the processes what is equal on all",
        {
            "return upstream if ctx.is_sum else": "return ctx.group.sum(upstream) if ctx.is_sum else",
            "        ctx.is_sum = inputs[2]": "        ctx.group = inputs[1]\n        ctx.is_sum = inputs[2]",
        },
        tests="groups",
    ),
    Substitution(
        "shards/groups.py",
        "shards that do not fit are not told",
        {"if len({code for _, code in found}) > 1:": "if False:"},
        tests="groups",
    ),
    Substitution(
        "autodiff/jax.py",
        "a derivative along a tangent is that of one shard",
        {"    if not among:\n": "    if True:\n"},
        tests="devices",
    ),
]
