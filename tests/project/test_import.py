"""What importing the package costs, measured in fresh interpreters."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

from parameterized import parameterized

MODULES = [("mithril_losses",), ("mithril_losses.backends",)]


def fresh(script: str, **environment: str) -> object:
    """Run a script in a new interpreter and return what it prints, read as JSON."""
    variables = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=variables)
    return json.loads(done.stdout)


class TestImport(unittest.TestCase):
    @parameterized.expand(MODULES)
    def test_other_libraries_stay_out(self, module: str) -> None:
        loaded = fresh(f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))")
        self.assertIn("numpy", loaded)
        heavy = {"jax", "jaxlib", "torch", "numba", "dask", "matplotlib", "sklearn"}
        heavy |= {"pydantic", "typer", "rich", "autograd"}
        self.assertEqual(heavy.intersection(loaded), set())

    def test_takes_less_than_three_tenths_of_a_second(self) -> None:
        # NumPy is 0.03 s of it: python -X importtime -c "import mithril_losses.backends"
        script = (
            "from time import perf_counter as now; start = now(); import mithril_losses.backends; print(now() - start)"
        )
        with tempfile.TemporaryDirectory() as cache:  # as after the first import: compiled to bytecode
            compiled = {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
            self.assertLess(min(fresh(script, **compiled) for _ in range(5)), 0.3)

    @parameterized.expand([("jax", "torch"), ("torch", "jax")])
    def test_a_backend_brings_in_its_own_library_only(self, name: str, other: str) -> None:
        script = f"""
import json, sys
from mithril_losses.backends import get_backend
before = "{name}" in sys.modules
backend = get_backend("{name}")
backend.to_numpy(backend.randn(2))
print(json.dumps([before, "{name}" in sys.modules, "{other}" in sys.modules]))
"""
        self.assertEqual(fresh(script), [False, True, False])
