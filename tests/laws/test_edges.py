"""Edge cases of the whole catalogue, and what they catch."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parameterized import parameterized

from mithril_losses import catalogue, elementwise, has_curvature
from mithril_losses.backends import get_backend
from mithril_losses.catalogue import Pair
from mithril_losses.checking import trust
from mithril_losses.checking.edges import SIGNED, failures
from mithril_losses.checking.exact.precision import MOST
from mithril_losses.domains import BINARY, POSITIVE, REAL, ClassIndices

REPORT = Path(__file__).parents[2] / "docs/trust.md"


def faults(pair: Pair) -> dict[str, str]:
    """Return the edge cases that fail, with what they say."""
    return {edge: fault for edge, fault in failures(pair, get_backend("numpy", dtype="float64")) if fault}


class Catalogue(unittest.TestCase):
    @parameterized.expand([(loss,) for loss in catalogue()])
    def test_edge_cases(self, loss: str) -> None:
        self.assertEqual(faults(catalogue()[loss]), {})

    @parameterized.expand([(loss,) for loss in sorted(SIGNED)])
    def test_losses_that_may_be_negative_are(self, loss: str) -> None:
        pair = catalogue()[loss]
        generator, values = np.random.default_rng(0), []
        for _ in range(40):
            scales = 10.0 ** generator.uniform(-3.0, 1.0, len(pair.array_arguments))
            drawn = [pair.domain[name].sample(generator, (6, 5)) for name in pair.array_arguments]
            arrays = [scale * x for scale, x in zip(scales, drawn, strict=True)]
            values.append(np.min(pair.value(*arrays, **({"reduction": "none"} if pair.takes_reduction else {}))))
        self.assertLess(min(values), 0.0)


class Faults(unittest.TestCase):
    """A loss that breaks the contract at an edge is found out there."""

    def pair(self, terms: Any, **domain: Any) -> Pair:
        declared = elementwise(**domain)(terms)

        def value(x: Any, targets: Any, **reduction: Any) -> Any:
            return declared.value(x, targets, **reduction)

        def gradient(x: Any, targets: Any, **reduction: Any) -> Any:
            return declared.gradient(x, targets, **reduction)

        return Pair("loss", value, gradient, terms=declared, wrt=("x",), domain=declared.domain)

    def test_right_loss_has_none(self) -> None:
        pair = self.pair(lambda xp, x, targets: ((x - targets) ** 2, 2.0 * (x - targets)), x=REAL, targets=REAL)
        self.assertEqual(faults(pair), {})

    def test_gradient_that_is_not_finite(self) -> None:
        def root(xp: Any, x: Any, targets: Any) -> Any:
            error = xp.abs(x - targets)
            return xp.sqrt(error), 0.5 * xp.sign(x - targets) / xp.sqrt(error)

        self.assertIn(
            "the loss is finite, gradient is not: nan", faults(self.pair(root, x=REAL, targets=REAL))["targets = x"]
        )

    def test_negative_loss(self) -> None:
        pair = self.pair(lambda xp, x, targets: (x - targets, 0.0 * x + 1.0), x=REAL, targets=REAL)
        self.assertIn("the loss is negative", faults(pair)["x = -10000"])

    def test_nan_at_zero(self) -> None:
        def entropy(xp: Any, x: Any, targets: Any) -> Any:
            return 1.0 - x * xp.log(xp.abs(x)), -xp.log(xp.abs(x)) - 1.0

        found = faults(self.pair(entropy, x=REAL, targets=REAL))
        self.assertIn("the loss is NaN", found["x = 0"])
        self.assertNotIn("x = 1", found)

    def _wrong(self, change: Callable[[Any], Any]) -> dict[str, str]:
        pair = catalogue()["mse_loss"]
        return faults(Pair("mse_loss", change(pair.value), change(pair.gradient), domain=pair.domain))

    def test_warning(self) -> None:
        def warning(function: Any) -> Any:
            def wrong(predictions: Any, targets: Any, **reduction: Any) -> Any:
                warnings.warn("overflow", RuntimeWarning, stacklevel=2)
                return function(predictions, targets, **reduction)

            return wrong

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._wrong(warning)
        self.assertEqual(set(found.values()), {"RuntimeWarning: overflow"})

    def test_weights_that_keep_nan(self) -> None:
        def multiplied(function: Any) -> Any:
            def wrong(
                predictions: Any, targets: Any, *, weights: Any = 1.0, reduction: str = "mean", **rest: Any
            ) -> Any:
                upstream = rest.pop("upstream", 1.0)
                if function is catalogue()["mse_loss"].value:
                    found = weights * (predictions - targets) ** 2
                    return found if reduction == "none" else np.sum(found) / max(found.size, 1)
                return upstream * weights * 2.0 * (predictions - targets)

            return wrong

        found = self._wrong(multiplied)
        self.assertIn("weight 0 over nan", found)
        self.assertNotIn("mean of nothing", found)

    def test_label_that_wraps_round(self) -> None:
        def wrapping(xp: Any) -> Any:
            return lambda x, labels: np.mean(x[np.arange(len(labels)), np.asarray(labels) % x.shape[-1]] ** 2)

        pair = Pair(
            "loss",
            lambda x, labels: wrapping(np)(x, labels),
            lambda x, labels: np.zeros_like(x),
            wrt=("x",),
            domain={"x": REAL, "labels": ClassIndices()},
        )
        found = faults(pair)
        self.assertIn("raised no ValueError", found["labels = -1"])
        self.assertIn("raised no ValueError", found["labels = 2147483648"])
        self.assertNotIn("labels uint8", found)

    def test_labels_that_are_not_checked(self) -> None:
        pair = self.pair(lambda xp, x, targets: (0.0 * x * targets, 0.0 * x * targets), x=REAL, targets=BINARY)
        self.assertEqual(faults(pair), {})
        unchecked = Pair(
            "loss", lambda x, targets: np.sum(0.0 * x), lambda x, targets: 0.0 * x, wrt=("x",), domain=pair.domain
        )
        self.assertEqual(set(faults(unchecked)), {f"targets = {x}" for x in ("-1", "-100", "0.5", "2")})

    def test_option_at_an_end(self) -> None:
        def scaled(xp: Any, x: Any, targets: Any, scale: Any) -> Any:
            return scale * scale * (x - targets) ** 2 / (scale * scale), 2.0 * (x - targets)

        declared = elementwise(x=REAL, targets=REAL, scale=POSITIVE)(scaled)
        pair = Pair(
            "loss",
            lambda x, targets, *, scale=1.0, **reduction: declared.value(x, targets, scale, **reduction),
            lambda x, targets, *, scale=1.0, **reduction: declared.gradient(x, targets, scale, **reduction),
            terms=declared,
            wrt=("x",),
            domain=declared.domain,
        )
        self.assertEqual(faults(pair), {})
        for_tiny = {**declared.domain, "scale": type(POSITIVE)(0.0, closed=True)}
        found = faults(Pair(pair.name, pair.value, pair.gradient, terms=declared, wrt=("x",), domain=for_tiny))
        self.assertEqual(list(found), ["scale = 0"])


CURVATURE = r"^(–|[56]\d digits on \d+ pieces?(; (identity|exact points), \d+ pieces?|; \d\d digits, limited by .*)?)$"


class Report(unittest.TestCase):
    def test_every_loss_is_in_the_report_and_none_has_a_fault(self) -> None:
        report = REPORT.read_text()
        rows = [line.split(" | ") for line in report.splitlines() if line.startswith("| `")]
        self.assertIn(f"\n{len(rows)} losses on {len(trust.BACKENDS)} backends: all of them checked", report)
        self.assertIn(f" {len(rows)} without a fault.", report)
        self.assertEqual([row[0] for row in rows], [f"| `{loss}`" for loss in catalogue()])
        for row in rows:
            name, exact, _, curvature, *cells = row
            self.assertEqual(curvature == "–", not has_curvature(name.strip("| `")))
            self.assertRegex(curvature, CURVATURE)
            self.assertRegex(exact, r"^\d\d digits on \d+ pieces?(, limited by .*)?(; \d\d digits, limited by .*)?$")
            rounding, edges = cells[: len(trust.BACKENDS)], cells[len(trust.BACKENDS) :]
            for cell in rounding:
                self.assertLessEqual(max(map(float, cell.split(" / "))), MOST)
            self.assertEqual(len(edges), len(trust.BACKENDS))
            for cell in edges:
                passed, run = cell.rstrip(" |").split(" / ")
                self.assertEqual(passed, run)

    def test_structure_hides_rounding_alone(self) -> None:
        row = "The worst rounding is 1.9.\n| `a` | 60 digits on 1 piece | – | 0.4 / 1.3 | 3 / 4 |"
        self.assertEqual(trust.structure(row), trust.structure(row.replace("0.4", "2.7").replace("1.9", "2.7")))
        for fact, other in (("3 / 4", "4 / 4"), ("60", "59"), ("1 piece", "2 pieces")):
            self.assertNotEqual(trust.structure(row), trust.structure(row.replace(fact, other)))

    @parameterized.expand([(loss,) for loss in catalogue()])
    @pytest.mark.exhaustive
    def test_a_row_is_what_is_found_now(self, loss: str) -> None:
        """Exact numbers, rounding and edge cases hold on every backend."""
        [evidence] = trust.examine([loss])
        self.assertFalse(any(evidence.failed.values()), evidence.failed)
        report = REPORT.read_text()
        [row] = [line for line in report.splitlines() if line.startswith(f"| `{loss}`")]
        self.assertEqual(trust.structure(row), trust.structure(trust.row(evidence)))
        text, *_ = trust.page([evidence]).partition("\n1 losses")
        self.assertTrue(report.startswith(text))
