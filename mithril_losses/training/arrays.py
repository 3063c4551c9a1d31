"""`.npz` files from elsewhere, read within limits: what is damaged or made up is refused in one line."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.training.errors import user_error

# The arrays that are read from one file may together be as large as the file, or as this number of bytes if that is
# larger: a compressed file can unpack to 1,000 times its size.
LARGEST_UNPACKED = 2**30


class ArrayFile(Mapping[str, Array]):
    """The arrays of an open `.npz` file by name; an array is read when it is accessed. See `open_arrays`."""

    def __init__(self, path: str | os.PathLike[str], archive: zipfile.ZipFile, largest: int) -> None:
        self._path = path
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self._left = self._largest = largest

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members  # the default of Mapping would read the array

    def __getitem__(self, name: str) -> Array:
        """Return an array.

        Raises:
            UserError: the array is damaged, is not an array, holds Python objects or is too large.
        """
        info = self._members[name]
        with _reading(self._path, name), self._archive.open(info) as member:
            shape, dtype = _read_header(member)
            unpacked = info.file_size - member.tell()
        with user_error(f"{self._path}: array {name!r}"):
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which are not read (allow_pickle is False)")
            if math.prod(shape) * dtype.itemsize != unpacked:
                raise ValueError(f"it holds {unpacked} bytes, which are not {dtype} of shape {shape}")
            self._left -= unpacked
            if self._left < 0:
                raise ValueError(
                    f"it unpacks to {unpacked:,} bytes, but the arrays that are read of this file may have "
                    f"{self._largest:,} bytes together; save them uncompressed (numpy.savez)"
                )
        with _reading(self._path, name), self._archive.open(info) as member:
            array: Array = np.lib.format.read_array(member, allow_pickle=False)
            member.read()  # the checksum is compared at the end
            return array


def _read_header(member: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is for structured arrays")
    try:
        shape, _, dtype = readers[version](member)
    except MemoryError as error:  # a header is short: the stack of the parser overflowed
        raise ValueError("the header is nested too deeply") from error
    return shape, dtype


@contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[ArrayFile]:
    """Open an `.npz` file, of which only those arrays are read that are accessed.

    Together these may have as many bytes as the file, or `LARGEST_UNPACKED` if that is larger.

    Raises:
        UserError: the file cannot be read, is damaged or is not an `.npz` file; or as in `ArrayFile`.
    """
    with ExitStack() as stack:
        with user_error(str(path)):
            file = stack.enter_context(open(path, "rb"))
            if file.read(2) not in (b"PK", b""):
                raise ValueError("this is not an .npz file of arrays by name")
        with _reading(path):
            largest = max(os.fstat(file.fileno()).st_size, LARGEST_UNPACKED)
            found = ArrayFile(path, zipfile.ZipFile(file), largest)
        yield found


@contextmanager
def _reading(path: str | os.PathLike[str], name: str = "") -> Iterator[None]:
    """Turn every exception that a library raises for the bytes of a file into one line.

    Damaged bytes may reach any line of the parsers of ZIP, deflate, Python literals and dtypes, which then raise
    exceptions of any kind, and warnings.
    """
    with user_error(str(path)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (OSError, MemoryError):
            raise
        except Exception as error:
            where = f"array {name!r} is" if name else "the file is"
            raise ValueError(f"{where} truncated or damaged ({type(error).__name__}: {error})") from error
