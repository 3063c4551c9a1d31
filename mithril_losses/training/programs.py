"""Models from elsewhere: what `--model` names on the command line, as a compiled model with its starting parameters.

What is named here may run code: Python does, and so do the loaders of exported programs. So a configuration file, which
is data, cannot name it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import io
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mithril_losses.backends import Backend, get_backend
from mithril_losses.backends.namespaces import Array
from mithril_losses.models import CompiledModel, compile_model
from mithril_losses.models.portable import adapter_named
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.arrays import open_arrays
from mithril_losses.training.config import ModelConfig, TrainingConfig
from mithril_losses.training.errors import UserError, user_error
from mithril_losses.training.loop import outputs_and_pullback
from mithril_losses.training.trees import Tree, like_array


@dataclass(frozen=True)
class Program:
    """A model with its starting parameters.

    Attributes:
        model: the compiled model.
        params: its starting parameters, in its own nesting; they decide library and dtype.
        inputs: the names of its inputs, if they are known.
        identity: the name in the file, and what identifies the content of the file.
    """

    model: CompiledModel
    params: Any
    inputs: list[str] | None = None
    identity: str = ""

    @cached_property
    def tree(self) -> Tree:
        """The structure of the parameters."""
        return Tree(self.params)


def load_program(name: str, config: TrainingConfig) -> Program:
    """Return the model that is named on the command line.

    Args:
        name: `FILE.py:NAME` or `PACKAGE.MODULE:NAME`; the path of a JAX program (`.bin`) or of a program of
            `torch.export` (`.pt2`).
        config: of the run: the backend, if the user chose one; the dtype of the parameters, unless a program has
            settled it; the names of outputs, and the file of starting parameters.

    Raises:
        UserError: there is no such file or name, what it names is no model, or it belongs to another backend.
    """
    if name.endswith(".bin"):
        return _jax_program(name, config.model, config.backend)
    if name.endswith(".pt2"):
        return _torch_program(name, config.model, config.backend)
    where, _, member = name.rpartition(":")
    if not where or not member:
        raise UserError(
            f"--model {name}: write FILE.py:NAME, PACKAGE.MODULE:NAME, or the path of a program (.bin of JAX, .pt2 of "
            "PyTorch)"
        )
    with user_code(name):
        module = _module(where)
    if not hasattr(module, member):
        raise UserError(f"--model {name}: {unknown('name', member, [each for each in vars(module) if each[0] != '_'])}")
    found = getattr(module, member)
    if _is_factory(found):
        with user_code(name):
            _seed(config.seed)
            found = found()
    model, params = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    library, model = _adapted(name, model, config)
    params = _starting_parameters(name, model, params, config.model, library)
    return Program(model, params, getattr(model, "input_names", None), f"{member} {_digest(module.__file__)}")


def _seed(seed: int) -> None:
    """Let the functions of libraries that draw starting parameters depend on the seed of the run."""
    np.random.seed(seed % 2**32)
    random.seed(seed)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(seed % 2**63)


# --- Python ---------------------------------------------------------------------------------------------------------


def _module(where: str) -> Any:
    if not where.endswith(".py"):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        return importlib.import_module(where)
    path = Path(where).resolve()
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None or not path.is_file():
        raise UserError(f"--model {where}: No such file")
    module = importlib.util.module_from_spec(specification)
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))  # the file may import its neighbours
    sys.modules[path.stem] = module
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


@contextmanager
def user_code(name: str) -> Iterator[None]:
    """Turn an exception of the user's own code into one line that says where it was raised."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
        own = [frame for frame in frames if "mithril_losses" not in frame.filename and "<frozen" not in frame.filename]
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        reason = " ".join(str(error).split())
        raise UserError(f"--model {name}: {type(error).__name__}: {reason}{place}") from error


def _is_factory(found: Any) -> bool:
    """Return whether what was named makes the model: a class, or a function without arguments."""
    if inspect.isclass(found):
        return True
    if not callable(found) or hasattr(found, "evaluate") or _is_torch_module(found):
        return False
    return not _needed_arguments(found)


def _needed_arguments(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def _is_torch_module(found: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(found, torch.nn.Module)


def _adapted(name: str, model: Any, config: TrainingConfig) -> tuple[Backend, CompiledModel]:
    """Return the backend of a model, and the model as a compiled one."""
    backend, dtype, output_names = config.backend, config.dtype, config.model.output_names
    with user_error(f"--model {name}"):
        if _is_torch_module(model):
            library = _backend_for("torch", backend, dtype)
            return library, adapter_named("TorchModel")(model.to(library.dtype), output_names)
        if callable(getattr(model, "evaluate", None)):
            own = {"JaxModel": "jax", "ExportedJaxModel": "jax", "TorchModel": "torch", "NumpyModel": "numpy"}
            return _backend_for(own.get(type(model).__name__), backend, dtype), model
        if not callable(model):
            raise UserError(
                f"--model {name}: it must be a model, a function of (params, data), or a function without "
                f"arguments that returns a model and its starting parameters; got {type(model).__name__}"
            )
        library = get_backend(backend, dtype=dtype)
        if len(_needed_arguments(model)) == 3:
            return library, compile_model(model, library.name)
        kinds = {"numpy": "NumpyModel", "jax": "JaxModel", "torch": "TorchModel"}
        options = {"output_names": output_names} if library.name == "torch" else {}
        adapted: CompiledModel = adapter_named(kinds[library.name])(model, **options)
        return library, adapted


def _backend_for(library: str | None, chosen: str | None, dtype: str) -> Backend:
    """Return the backend of a library, unless the user chose another one; None is any library."""
    if library is not None and chosen not in (None, library):
        raise ValueError(f"this is a model of {library}, and {chosen} cannot compute it; do not name a backend")
    return get_backend(library or chosen, dtype=dtype)


def _starting_parameters(name: str, model: Any, given: Any, config: ModelConfig, backend: Backend) -> Any:
    """Return the parameters as arrays of the backend: those of the model, or of a file if one is named."""
    if given is None and hasattr(model, "parameters"):  # a module's
        given = model.parameters()
    if given is None and hasattr(model, "randomize_params"):  # Mithril's
        given = model.randomize_params()
    if given is None and config.parameters is None:
        raise UserError(
            f"--model {name}: there are no starting parameters; return the model and its parameters, or name an .npz "
            "file in model.parameters"
        )
    with user_error(f"--model {name}: parameters"):
        if given is None:
            with open_arrays(str(config.parameters)) as arrays:
                given = _nested(arrays)
        tree = Tree(given)
        params = tree.nested({path: backend.array(x) for path, x in tree.named(given).items()})
    return params if config.parameters is None else read_parameters(config.parameters, params)


def read_parameters(path: str | Path, params: Any) -> Any:
    """Return parameters like these with the values of an `.npz` file.

    Raises:
        UserError: the file cannot be read, or holds other parameters than these.
    """
    tree = Tree(params)
    with open_arrays(path) as arrays:
        for name in sorted(set(tree.names) ^ set(arrays)):
            raise UserError(f"{path}: parameter {name!r} is only {'in the file' if name in arrays else 'in the model'}")
        found = {name: arrays[name] for name in arrays}
    like = tree.named(params)
    for name, x in like.items():
        if tuple(x.shape) != found[name].shape or found[name].dtype.kind not in "fiub":
            raise UserError(
                f"{path}: parameter {name!r} is {found[name].dtype} of shape {found[name].shape} in the file, and "
                f"has the shape {tuple(x.shape)} in the model"
            )
    return tree.nested({name: like_array(found[name], x, tree.backend) for name, x in like.items()})


def _nested(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return dicts within dicts for names such as `layer/weight`."""
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split("/")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name!r} is below an array")
        place[last] = array
    return nested


def _digest(path: str | None) -> str:
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


# --- exported programs ----------------------------------------------------------------------------------------------


def _jax_program(path: str, config: ModelConfig, backend: str | None) -> Program:
    with user_error(f"--model {path}"):
        _backend_for("jax", backend, "float32")
        adapter = adapter_named("ExportedJaxModel")
        content = Path(path).read_bytes()
        import jax
        from jax import export

        with _program_of("JAX"):
            exported = export.deserialize(bytearray(content))
            (shapes, _), _ = jax.tree_util.tree_unflatten(exported.in_tree, exported.in_avals)
            if any("64" in str(x.dtype) for x in exported.in_avals):
                jax.config.update("jax_enable_x64", True)
            params = jax.tree_util.tree_map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)
        model = adapter(exported, config.output_names)
        if config.parameters is None:
            raise ValueError("a program of JAX holds no parameters: name an .npz file of them in model.parameters")
    return Program(model, read_parameters(config.parameters, params), model.input_names, _digest(path))


def _torch_program(path: str, config: ModelConfig, backend: str | None) -> Program:
    with user_error(f"--model {path}"):
        _backend_for("torch", backend, "float32")
        adapter = adapter_named("ExportedTorchModel")
        import torch

        with open(path, "rb") as file:
            content = io.BytesIO(file.read())
        with _program_of("torch.export"):
            program = torch.export.load(content)
        model = adapter(program, config.output_names)
    params = model.parameters()
    if config.parameters is not None:
        params = read_parameters(config.parameters, params)
    return Program(model, params, model.input_names, _digest(path))


@contextmanager
def _program_of(library: str) -> Iterator[None]:
    """Turn what a library raises for a file into one line, and its warnings and notes into nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, ImportError):  # JAX reads programs with flatbuffers, and says what to install
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"this is no program of {library} ({type(error).__name__}: {reason})") from error
    finally:
        logging.disable(before)


class Guarded:
    """A model whose exceptions are the user's to see, in one line.

    Args:
        model: the model.
        name: what the user calls it.
    """

    def __init__(self, model: CompiledModel, name: str) -> None:
        self._model = model
        self._name = name

    def evaluate(self, params: Any, data: Any, **keywords: Any) -> Any:
        """Evaluate the model."""
        with user_code(self._name):
            return self._model.evaluate(params, data, **keywords)

    def outputs_and_pullback(self, params: Any, data: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Return the outputs, and the function from their gradients to those of the parameters."""
        with user_code(self._name):
            outputs, pullback = outputs_and_pullback(self._model, params, data)

        def guarded(given: Any) -> Any:
            with user_code(self._name):
                return pullback(given)

        return outputs, guarded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
