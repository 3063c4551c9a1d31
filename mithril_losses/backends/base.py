"""The base class of the backends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar

import numpy as np

from mithril_losses.backends.conversion import host_array, jax_array, library_of, torch_tensor
from mithril_losses.backends.namespaces import Array, is_dtype

_OTHER_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64")


class Backend(ABC):
    """An array library with one common interface: creation, array functions, conversions and derivatives.

    A loss that is written against `backend` runs on every library. Names that this class does not define are looked up
    in the library's array namespace: `backend.mean(x, axis=-1, keepdims=True)`, `backend.clip(x, 0, 1)`,
    `backend.linalg`, … `axis` and `keepdims` are passed by keyword, as in the array API standard.

    **Random numbers** come from one NumPy generator: the same seed gives the same numbers on every backend.

    **Conversions** change the library, not the dtype. The result shares no memory with the source and can be written
    into; only JAX arrays, which are immutable, are returned unchanged. Conversions between JAX and PyTorch use DLPack
    and stay on their device. NumPy has no bfloat16: such arrays become float32.

    A backend of another package is a subclass that sets `name`, `namespace` and `floating_dtypes`, defines `_adopt` and
    `gradient`, and is registered in the entry-point group `mithril_losses.backends`.

    Args:
        dtype: floating-point type of the arrays made here: one of `floating_dtypes`.
        device: the device of the arrays, such as "cpu" or "cuda:1"; None is the library's default.
        seed: the seed of the random numbers.

    Attributes:
        dtype: the dtype object of the library.
        device: the device object of the library.
        generator: the source of the random numbers; its state is `generator.bit_generator.state`.

    Raises:
        ValueError: the library has no such dtype, or the machine has no such device.
    """

    name: ClassVar[str]
    namespace: ClassVar[Any]
    floating_dtypes: ClassVar[tuple[str, ...]] = ("float16", "float32", "float64")

    def __init__(self, dtype: str = "float32", device: str | None = None, seed: int = 0) -> None:
        self.dtype = self._find_dtype(dtype, self.floating_dtypes)
        self.device = self._find_device(device)
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self.namespace, name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.namespace, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self.namespace) if name[0] != "_")})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dtype={_dtype_name(self.dtype)!r}, device={self.device!r})"

    # Creation

    def array(self, data: Any, dtype: Any = None) -> Array:
        """Return a new array with the values of nested lists, numbers or an array of any library.

        Without `dtype`, floating-point values get the dtype of the backend; other values keep their dtype.
        """
        x = self._adopt(data)
        if dtype is not None:
            return self._cast(x, self._find_dtype(dtype))
        return self._cast(x, self.dtype) if is_dtype(self.namespace, x.dtype, "real floating") else x

    def zeros(self, *shape: Any, dtype: Any = None) -> Array:
        """Return zeros: `zeros(2, 3)` or `zeros((2, 3))`."""
        return self.namespace.zeros(_shape(shape), **self._kind(dtype))

    def ones(self, *shape: Any, dtype: Any = None) -> Array:
        """Return ones: `ones(2, 3)` or `ones((2, 3))`."""
        return self.namespace.ones(_shape(shape), **self._kind(dtype))

    def full(self, shape: int | tuple[int, ...], value: Any, dtype: Any = None) -> Array:
        """Return an array filled with `value`; an integer or a boolean makes an array of integers or booleans."""
        return self.namespace.full(shape, value, **self._kind(dtype, value))

    def arange(self, start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Array:
        """Return `start`, `start + step`, … up to but without `stop`; integers if all three are integers."""
        if stop is None:
            start, stop = 0, start
        return self.namespace.arange(start, stop, step, **self._kind(dtype, start, stop, step))

    def linspace(self, start: float, stop: float, num: int, dtype: Any = None) -> Array:
        """Return `num` equally spaced numbers from `start` to `stop`, both included."""
        return self.namespace.linspace(start, stop, num, **self._kind(dtype))

    def eye(self, rows: int, columns: int | None = None, dtype: Any = None) -> Array:
        """Return ones on the diagonal, zeros elsewhere."""
        return self.namespace.eye(rows, columns, **self._kind(dtype))

    def zeros_like(self, x: Array, dtype: Any = None) -> Array:
        """Return zeros of the shape and dtype of `x`."""
        return self.namespace.zeros_like(x, dtype=None if dtype is None else self._find_dtype(dtype))

    def ones_like(self, x: Array, dtype: Any = None) -> Array:
        """Return ones of the shape and dtype of `x`."""
        return self.namespace.ones_like(x, dtype=None if dtype is None else self._find_dtype(dtype))

    def randn(self, *shape: Any) -> Array:
        """Return standard normal numbers: `randn(32, 10)` or `randn((32, 10))`."""
        return self._random(self.generator.standard_normal(_shape(shape)))

    def rand(self, *shape: Any) -> Array:
        """Return uniform numbers in [0, 1)."""
        return self._random(self.generator.random(_shape(shape)))

    def randint(self, low: int, high: int, shape: int | tuple[int, ...] = ()) -> Array:
        """Return uniform integers from `low` to `high - 1`."""
        return self.array(self.generator.integers(low, high, shape))

    def permutation(self, n: int) -> Array:
        """Return the integers 0 … n - 1 in random order."""
        return self.array(self.generator.permutation(n))

    def _random(self, values: Any) -> Array:
        # Libraries differ in how they round float64 to half precision, but not in how they round float32.
        narrow = _dtype_name(self.dtype) != "float64"
        return self.array(np.asarray(values, dtype=np.float32 if narrow else np.float64))

    # Facts about an array that the libraries spell differently

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape of `x`."""
        return tuple(x.shape)

    def size(self, x: Array) -> int:
        """Return the number of elements of `x`."""
        return math.prod(x.shape)

    # Conversions

    def to_numpy(self, x: Array) -> Array:
        """Return `x` as a NumPy array."""
        return np.array(host_array(x))

    def to_jax(self, x: Array) -> Array:
        """Return `x` as a JAX array.

        Raises:
            BackendNotInstalledError: JAX is not installed.
        """
        return jax_array(x)

    def to_torch(self, x: Array) -> Array:
        """Return `x` as a PyTorch tensor: a leaf, on which `requires_grad_(True)` works.

        Raises:
            BackendNotInstalledError: PyTorch is not installed.
        """
        return torch_tensor(x)

    def from_numpy(self, x: Array) -> Array:
        """Return the NumPy array `x` as an array of this backend."""
        return self._adopt(_of_library(x, "numpy"))

    def from_jax(self, x: Array) -> Array:
        """Return the JAX array `x` as an array of this backend."""
        return self._adopt(_of_library(x, "jax"))

    def from_torch(self, x: Array) -> Array:
        """Return the PyTorch tensor `x`, detached, as an array of this backend."""
        return self._adopt(_of_library(x, "torch"))

    # Derivatives

    @abstractmethod
    def gradient(self, function: Callable[..., Any], *arguments: Any, argnum: int = 0) -> Array:
        """Return the derivative of `function(*arguments)`, one number, with respect to one of its arguments.

        This method is for checks, not for training.

        Args:
            function: takes the arguments, returns one number.
            *arguments: the arguments of the function: arrays of this backend, or other objects.
            argnum: the position of the argument to differentiate by.

        Raises:
            ValueError: the function returns an array rather than one number.
        """

    # What each library must define

    @abstractmethod
    def _adopt(self, data: Any) -> Array:
        """Return a new array of this library, on this device, with the values and dtype of `data`."""

    def _cast(self, x: Array, dtype: Any) -> Array:
        return x if x.dtype == dtype else x.astype(dtype)

    def _native_dtype(self, name: str) -> Any:
        return getattr(self.namespace, name)

    def _devices(self) -> Mapping[str, Any]:
        """Return the devices of this machine by name."""
        return {"cpu": "cpu"}

    def _default_device(self) -> Any:
        return None

    def _find_dtype(self, dtype: Any, choices: tuple[str, ...] = ()) -> Any:
        choices = choices or self.floating_dtypes + _OTHER_DTYPES
        name = _dtype_name(dtype)
        if name not in choices:
            raise ValueError(f"unknown dtype {name!r} for {type(self).__name__}: choose from {', '.join(choices)}")
        return self._native_dtype(name)

    def _find_device(self, device: str | None) -> Any:
        if device is None:
            return self._default_device()
        devices = self._devices()
        if str(device) not in devices:
            raise ValueError(f"no device {str(device)!r} for {type(self).__name__}: choose from {', '.join(devices)}")
        return devices[str(device)]

    def _kind(self, dtype: Any, *values: Any) -> dict[str, Any]:
        """Return dtype and device of a new array; for integer values the library chooses the dtype."""
        if dtype is not None:
            dtype = self._find_dtype(dtype)
        elif not values or not all(isinstance(value, Integral) for value in values):
            dtype = self.dtype
        return {"dtype": dtype, "device": self.device}


def one_number(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with a check that its result is one number."""

    def checked(*arguments: Any) -> Any:
        value = function(*arguments)
        shape = tuple(getattr(value, "shape", ()))
        if shape != ():
            raise ValueError(f"a gradient needs a function that returns one number, got an array of shape {shape}")
        return value

    return checked


def _of_library(x: Any, library: str) -> Any:
    if library_of(x) != library:
        raise TypeError(f"from_{library} takes a {library} array, got {type(x).__module__}.{type(x).__qualname__}")
    return x


def _dtype_name(dtype: Any) -> str:
    """Return the name of a dtype of any library: "float32" for itself, `np.float32`, `torch.float32`, …"""
    return str(getattr(dtype, "name", getattr(dtype, "__name__", dtype))).removeprefix("torch.")


def _shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], Integral) else shape
