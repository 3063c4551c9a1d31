"""Value and gradient of logits that are larger than the memory this process may use, by Dask and by hand.

    python tests/shards/larger_than_memory.py dask --gigabytes 4

Each chunk of logits is drawn from its own seed when it is needed, and its gradient is written to a file of its own.
With `streamed`, the same chunks go through the call on NumPy arrays, in as many threads, by hand. It prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import mithril_losses as ml

CLASSES, ROWS = 1024, 8192  # of a chunk: 32 MiB
IGNORED = -100


def logits_of(chunk: int) -> np.ndarray:
    return np.random.default_rng(chunk).standard_normal((ROWS, CLASSES), dtype=np.float32)


def labels_of(chunk: int) -> np.ndarray:
    labels = np.random.default_rng((chunk, 1)).integers(0, CLASSES, ROWS)
    labels[: ROWS // 8] = IGNORED
    return labels


class Files:
    """What `dask.array.store` writes to: a file for each chunk."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __setitem__(self, at: tuple[slice, ...], part: np.ndarray) -> None:
        np.save(self.folder / f"{at[0].start // ROWS}.npy", part)


def by_dask(chunks: int, files: Files, progress: bool) -> float:
    import dask
    import dask.array as da
    from dask.diagnostics import ProgressBar

    def lazy(draw, *shape, dtype):
        parts = [da.from_delayed(dask.delayed(draw)(i), (ROWS, *shape), dtype) for i in range(chunks)]
        return da.concatenate(parts)

    logits, labels = lazy(logits_of, CLASSES, dtype=np.float32), lazy(labels_of, dtype=np.int64)
    loss, gradient = ml.value_and_gradient(ml.cross_entropy_with_logits)(logits, labels, ignore_index=IGNORED)
    written = gradient.store(files, compute=False, lock=False)
    with ProgressBar(out=sys.stderr) if progress else contextlib.nullcontext():
        loss, _ = dask.compute(loss, written)
    return float(loss)


def streamed(chunks: int, files: Files) -> float:
    call = ml.value_and_gradient(ml.cross_entropy_with_logits, threads=1)
    counted = float(chunks * (ROWS - ROWS // 8))  # known here without a look at the labels

    def one(chunk: int) -> float:
        loss, gradient = call(logits_of(chunk), labels_of(chunk), ignore_index=IGNORED, normalizer=counted)
        files[slice(chunk * ROWS, None),] = gradient
        return float(loss)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return sum(pool.map(one, range(chunks)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=["dask", "streamed"])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--limit", type=float, default=1.0, help="of the memory of this process, in gigabytes")
    parser.add_argument("--progress", action="store_true")
    given = parser.parse_args()
    limit = int(given.limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    chunks = int(given.gigabytes * 2**30 / (4 * ROWS * CLASSES))
    folder = tempfile.mkdtemp()
    try:
        files = Files(folder)
        ml.value_and_gradient(ml.cross_entropy_with_logits)(logits_of(0), labels_of(0), ignore_index=IGNORED)
        start = time.perf_counter()
        loss = by_dask(chunks, files, given.progress) if given.way == "dask" else streamed(chunks, files)
        seconds = time.perf_counter() - start
        last = np.load(files.folder / f"{chunks - 1}.npy", mmap_mode="r")[-1].tolist()
    finally:
        shutil.rmtree(folder)
    # `getrusage` would give that of the process that started this one, if it was larger
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**20
    print(json.dumps({"loss": loss, "seconds": seconds, "peak_gigabytes": peak, "chunks": chunks, "last": last[:3]}))


if __name__ == "__main__":
    main()
