"""Tables and folders of arrays from elsewhere, as arrays by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mithril_losses.backends.extras import missing
from mithril_losses.backends.namespaces import Array
from mithril_losses.training.arrays import LARGEST_UNPACKED
from mithril_losses.training.errors import UserError, user_error

_CHUNK = 4096  # the rows of an array that are in memory at a time


class Table(Mapping[str, Array]):
    """The columns of a table by name: numbers, or text; a column is converted when it is accessed."""

    def __init__(self, path: str, table: Any) -> None:
        self._path = path
        self._table = table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table.column_names)

    def __contains__(self, name: object) -> bool:
        return name in self._table.column_names

    def __getitem__(self, name: str) -> Array:
        """Return a column.

        Raises:
            UserError: there are two columns of this name, a value is missing, or it holds neither numbers nor text.
        """
        with _reading(f"{self._path}: column {name!r}"):
            column = self._table.column(name)
            if column.null_count:
                row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
                raise UserError(
                    f"{self._path}: column {name!r} has no value in row {row} (the first is 0); {column.null_count} "
                    "values are missing"
                )
            kind = str(column.type)
            if kind.startswith("dictionary"):
                column = column.combine_chunks().dictionary_decode()
                kind = str(column.type)
            values: Array = column.to_numpy(zero_copy_only=False)
        if kind in ("string", "large_string", "string_view"):
            return values.astype(str)
        if values.dtype.kind == "b":
            return values.astype(np.int64)
        if values.dtype.kind not in "fiu":
            raise UserError(f"{self._path}: column {name!r} must hold numbers or text, got {kind}")
        return values


def read_table(path: str) -> Table:
    """Return the table in a CSV or Parquet file.

    Raises:
        UserError: the file cannot be read, is damaged or too large, or the library for it is not installed.
    """
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: {missing('a table', error.name, 'data')}") from error
    with user_error(path), open(path, "rb"):
        pass
    with _reading(path):
        if path.lower().endswith(".parquet"):
            with parquet.ParquetFile(path, memory_map=False) as file:
                unpacked = 8 * file.metadata.num_rows * file.metadata.num_columns
                largest = max(os.path.getsize(path), LARGEST_UNPACKED)
                if unpacked > largest:
                    raise UserError(f"{path}: it unpacks to {unpacked:,} bytes; the limit is {largest:,} bytes")
                found = file.read(use_threads=False)
        else:
            options = csv.ReadOptions(use_threads=False)
            found = csv.read_csv(path, read_options=options, parse_options=csv.ParseOptions(newlines_in_values=True))
        names = found.column_names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{path}: two columns have the name {twice!r}")
        if found.num_rows == 0:
            raise UserError(f"{path}: there is no row")
        assert isinstance(found, pyarrow.Table)
        return Table(path, found)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn every exception that the library raises for a file into one line."""
    with user_error(where, ValueError):
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"it is damaged, or no such file ({type(error).__name__}: {reason})") from error


class Folder(Mapping[str, Array]):
    """The `.npy` files of a folder by name, of which only those parts are read that are accessed.

    Raises:
        UserError: (when accessed) the file is damaged, or holds Python objects.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = {file.stem: file for file in sorted(Path(path).glob("*.npy"))}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Array:
        """Return an array that stays in its file."""
        with _reading(str(self._files[name])):
            return np.load(self._files[name], mmap_mode="r", allow_pickle=False)


class Rows:
    """Some rows of an array, which are read and changed when they are accessed.

    Args:
        array: the array, in memory or in a file.
        rows: the numbers of the rows.
        changes: functions of the rows that are read, one after the other.
    """

    def __init__(self, array: Array, rows: Array, changes: tuple[Callable[[Array], Array], ...] = ()) -> None:
        self._array = array
        self._rows = rows
        self._changes = changes
        self.shape = (len(rows), *self[:1].shape[1:])
        self.ndim = len(self.shape)
        self.dtype = self[:1].dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Array:
        found = np.asarray(self._array[self._rows[index]])
        for change in self._changes:
            found = change(found)
        return found

    def changed(self, change: Callable[[Array], Array]) -> Rows:
        """Return the rows after one more change."""
        return Rows(self._array, self._rows, (*self._changes, change))


def changed(array: Array | Rows, change: Callable[[Array], Array]) -> Array | Rows:
    """Return an array after a change; of rows in a file the change is made when they are read."""
    return array.changed(change) if isinstance(array, Rows) else change(array)


def chunks(array: Array | Rows) -> Iterator[Array]:
    """Yield an array in parts, so that one in a file is never in memory as a whole."""
    for start in range(0, len(array), _CHUNK):
        yield np.asarray(array[start : start + _CHUNK])
