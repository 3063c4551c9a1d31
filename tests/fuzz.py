"""Train on generated configurations: each one runs, or ends with clear lines and exit code 2.

    .venv/bin/python tests/fuzz.py [--seconds 60] [--seed N] [--count 1] [--backend numpy]

Most files name real losses and wire them to outputs and data at random; then keys are misspelt, dropped, moved and
given values of other types, and bytes of the text are changed. The data are archives, folders of arrays or tables, some
of them damaged; some models are from elsewhere, and many of these are no models. These things must hold for every file:

* exit code 0, or exit code 2 (1 for a run that diverges) with nothing but lines `error: …` on stderr; no exception but
  `SystemExit`;
* nothing that a terminal would obey is printed;
* a file that runs has no key that was ignored: what was read holds every value of the file;
* the configuration that a run writes is that of the run, which is resumed and evaluated with it;
* nothing but the output folder is written, and nothing of a run that is there already changes.

Each file is made from its own seed. A failure prints the line that makes the same file again.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow
import typer
from pyarrow import csv, parquet
from typer.testing import CliRunner

from mithril_losses import catalogue
from mithril_losses.cli.commands import app
from mithril_losses.training.config import flatten, read_config

EXAMPLES, SIZE = 12, 4

Table = dict[str, Any]


class Failure(AssertionError):  # noqa: N818  (of a test)
    """A configuration did what none may do."""


# --- files ----------------------------------------------------------------------------------------------------------


def write_data(folder: Path) -> Path:
    """Write one array for each kind of target that a loss may ask for: as an archive, a folder and two tables."""
    generator = np.random.default_rng(0)
    arrays = {
        "x": generator.standard_normal((EXAMPLES, 3)),
        "real": generator.standard_normal((EXAMPLES, SIZE)),
        "masses": generator.dirichlet(np.ones(SIZE), EXAMPLES),
        "unit": generator.uniform(0.05, 0.95, (EXAMPLES, SIZE)),
        "bits": generator.integers(0, 2, (EXAMPLES, SIZE)),
        "signs": 2.0 * generator.integers(0, 2, (EXAMPLES, SIZE)) - 1.0,
        "label": generator.integers(0, SIZE, EXAMPLES),
        "row": generator.standard_normal(EXAMPLES),
        "points": generator.standard_normal((EXAMPLES, 5, SIZE)),
    }
    path = folder / "data.npz"
    np.savez(path, **arrays)
    (folder / "arrays").mkdir()
    for name, array in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", array)
    columns = {name: arrays[name] for name in ("label", "row")} | {"length": arrays["x"][:, 0]}
    columns["kind"] = np.array(["a", "b", "c", "d"])[arrays["label"]]
    columns["bit"] = arrays["bits"][:, 0]
    csv.write_csv(pyarrow.table(columns), folder / "data.csv")
    parquet.write_table(pyarrow.table(columns), folder / "data.parquet")
    (folder / "models.py").write_text(MODELS, encoding="utf-8")
    (folder / "junk.pt2").write_bytes(b"PK no program")
    (folder / "junk.bin").write_bytes(bytes(range(64)))
    return path


MODELS = """
import numpy as np

def good(names=("a", "b", "scores")):
    params = {name: np.ones((3, 4)) for name in names}
    return lambda xp, params, data: {name: data["x"] @ w for name, w in params.items()}, params

def other_outputs(): return good(["other"])
def no_dict(): return (lambda xp, params, data: data["x"]), {"w": np.ones(3)}
def nan(): return (lambda xp, params, data: {"a": data["x"] * params["w"] * np.nan}), {"w": np.ones(3)}
def none(): return None
def raises(): raise SystemError("no\\x1b[2J\\n such thing")
def many(): return (lambda xp, params, data: {"a": [1, 2]}), [np.ones(3), {"b": np.ones(2)}]
NUMBER = 3
"""
NAMED = ("good", "good", "good", "other_outputs", "no_dict", "nan", "none", "raises", "many", "NUMBER", "absent")


def valid_table(draw: random.Random, data: Path, output: Path) -> Table:
    """Return a configuration whose keys and types are right; its losses may still not fit their arrays."""
    outputs = draw.sample(["a", "b", "scores"], draw.randint(1, 3))
    source, entries = _source(draw, data)
    table: Table = {
        "seed": draw.randrange(5),
        "dtype": draw.choice(["float32", "float64"]),
        "data": source,
        "model": {"hidden": draw.choice([[], [3]]), "outputs": {name: {"size": SIZE} for name in outputs}},
        "objective": {"terms": [_term(draw, i, outputs, entries) for i in range(draw.randint(1, 3))]},
        "optimizer": draw.choice(
            [
                {"kind": "sgd", "learning_rate": 0.01, "clip_norm": 1.0},
                {"kind": "adam", "learning_rate": 0.001, "beta1": 0.5},
                {"kind": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
                {"kind": "sgd", "learning_rate": 0.01, "schedule": {"kind": "cosine", "steps": 9}},
            ]
        ),
        "run": {"epochs": 1, "batch_size": draw.choice([3, 6, 100]), "picture": False, "output": str(output)},
    }
    if draw.random() < 0.3:
        table["run"] |= {"patience": 1, "keep": draw.choice(["best", "last"]), "monitor": "train_loss"}
    if draw.random() < 0.2:
        table["run"] |= {"evaluation_batch_size": 2, "maximize": draw.random() < 0.5}
    if draw.random() < 0.4:
        losses = [name for name, pair in catalogue().items() if pair.family == "regularization"]
        table["objective"]["regularizers"] = [
            {"loss": draw.choice(losses), "parameters": draw.choice([["*"], ["*_weight"]]), "name": "penalty"}
        ]
    return table


def _source(draw: random.Random, data: Path) -> tuple[Table, list[str]]:
    """Return the table `data`, and the entries that targets may name."""
    kind = draw.choice(["npz", "npz", "npz", "folder", "csv", "parquet"])
    if kind in ("csv", "parquet"):
        source: Table = {"file": str(data.with_name(f"data.{kind}")), "features": ["length", "row"], "input": "x"}
        entries = ["label", "kind", "bit", "row", "x"]
    else:
        source = {"file": str(data if kind == "npz" else data.with_name("arrays")), "input": "x"}
        entries = ["real", "masses", "unit", "bits", "signs", "label", "row", "points", "x"]
    source |= {"test_fraction": 0.25} if draw.random() < 0.7 else {"test_file": source["file"]}
    if draw.random() < 0.3:
        source |= {"scale": draw.choice(["standard", "none"]), "validation_fraction": draw.choice([0.0, 0.25])}
    if draw.random() < 0.2:
        source["stratify"] = draw.choice(["label", "x"])
    return source, entries


def _term(draw: random.Random, index: int, outputs: list[str], entries: list[str]) -> Table:
    pair = draw.choice(list(catalogue().values()))
    term: Table = {"name": f"term{index}"}
    if draw.random() < 0.15:
        losses = draw.sample(["mse_loss", "mae_loss", "huber_loss"], draw.randint(1, 3))
        term |= {"losses": [{"loss": name, "weight": draw.uniform(0.1, 2.0)} for name in losses]}
        term |= {"output": draw.choice(outputs), "target": "real"}
        return _weighted(draw, term)
    term["loss"] = pair.name
    fixed = [name for name in pair.array_arguments if name not in pair.wrt]
    differentiable = [name for name in pair.wrt if name in pair.array_arguments]
    if len(differentiable) == 1 and draw.random() < 0.7:
        term["output"] = draw.choice(outputs)
    else:
        term["outputs"] = {name: draw.choice(outputs) for name in differentiable}
    if len(fixed) == 1 and draw.random() < 0.7:
        term["target"] = draw.choice(entries)
    elif fixed:
        term["targets"] = {name: draw.choice(entries) for name in fixed}
    options = {}
    for name in pair.options:
        domain = pair.domain.get(name)
        if hasattr(domain, "sample") and draw.random() < 0.4:
            options[name] = domain.sample(np.random.default_rng(draw.randrange(1000)))
        elif hasattr(domain, "names") and draw.random() < 0.4:
            options[name] = draw.choice(domain.names)
    if pair.takes_reduction and draw.random() < 0.4:
        options["reduction"] = draw.choice(["mean", "sum", "batch_sum", "weighted_mean"])
    return _weighted(draw, term | ({"options": options} if options else {}))


def _weighted(draw: random.Random, term: Table) -> Table:
    if draw.random() < 0.3:
        return term | {"weight": draw.uniform(-1.0, 2.0)}
    if draw.random() < 0.2:
        return term | {"schedule": {"kind": "linear_warmup", "steps": draw.randint(1, 5)}}
    return term


# --- mistakes -------------------------------------------------------------------------------------------------------

STRANGE: list[Any] = [
    0, -1, 1, 2**31, 2**63 - 1, -(2**63), 1e308, -0.0, 1e-320, math.nan, math.inf, True, False, "", " ", "mse_loss",
    "os.system", "__import__('os')", "../../etc", "é∂", "a\u0000b", "\u001b]0;\u0007\u009b2J", "x" * 300,
    [], [[]], [1, "a"], {}, {"a": {"b": []}},
]  # fmt: skip


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every table or list of the tree with each of its keys."""
    for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(branch, (dict, list)):
            yield from places(branch)


def mistake(draw: random.Random, table: Table) -> None:
    """Make one mistake somewhere in the table."""
    place, key = draw.choice(list(places(table)))
    kind = draw.randrange(6)
    if kind == 0:
        place[key] = draw.choice(STRANGE)
    elif kind == 1 and isinstance(place, dict):
        del place[key]
    elif kind == 2 and isinstance(place, dict):
        place[_misspelt(draw, key)] = place[key] if draw.random() < 0.5 else place.pop(key)
    elif kind == 3:
        other, elsewhere = draw.choice(list(places(table)))
        place[key] = json.loads(json.dumps(other[elsewhere]))
    elif kind == 4 and isinstance(place, list):
        place.append(draw.choice(STRANGE))
    elif isinstance(place[key], str):
        place[key] = _misspelt(draw, place[key])


def _misspelt(draw: random.Random, word: str) -> str:
    at = draw.randrange(len(word) + 1)
    return draw.choice([word[:at] + draw.choice("abz_0") + word[at:], word[:at] + word[at + 1 :], word.upper()])


def to_toml(value: Any) -> str:
    """Return a value, or a table as the text of a file, all of its tables in line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(x)}" for key, x in value.items()) + "}"
    return "[" + ", ".join(map(to_toml, value)) + "]"


def flags(seed: int, data: Path) -> list[str]:
    """Return the flags of a seed, among them perhaps a model from elsewhere."""
    draw = random.Random(-1 - seed)
    found = [flag for flag in ("--json", "-q", "-v", "--overwrite") if draw.random() < 0.15]
    if draw.random() < 0.2:
        folder = data.parent
        named = [
            f"{folder / 'models.py'}:{draw.choice(NAMED)}",
            str(folder / "junk.pt2"),
            str(folder / "junk.bin"),
            "x",
        ]
        found += ["--model", draw.choices(named, weights=[8, 1, 1, 1])[0]]
    return found


def damaged(seed: int, data: Path, folder: Path) -> Path:
    """Return data with a byte changed or the end cut off, copied into a folder; most seeds leave them as they are."""
    draw = random.Random(~seed)
    if draw.random() < 0.9:
        return data
    shutil.copytree(data.parent, folder / "data", ignore=lambda place, names: [n for n in names if n.startswith("tmp")])
    for path in (folder / "data").rglob("*.*"):
        if path.suffix in (".npz", ".npy", ".csv", ".parquet"):
            content = path.read_bytes()
            at = draw.randrange(len(content))
            rest = b"" if draw.random() < 0.5 else content[at + 1 :]
            path.write_bytes(content[:at] + bytes([draw.randrange(256)]) + rest)
    return folder / "data" / data.name


def make(seed: int, data: Path, output: Path, own_model: bool = False) -> bytes:
    """Return the file of a seed."""
    draw = random.Random(seed)
    table = valid_table(draw, data, output)
    if own_model:
        del table["model"]
    for _ in range(draw.choice([0, 0, 1, 1, 2, 4])):
        mistake(draw, table)
    text = "\n".join(f"{json.dumps(key)} = {to_toml(value)}" for key, value in table.items()).encode()
    if draw.random() < 0.1:
        at = draw.randrange(len(text))
        text = text[:at] + bytes([draw.randrange(256)]) + text[at + draw.randrange(3) :]
    return text


# --- what must hold -------------------------------------------------------------------------------------------------


def run(seed: int, folder: Path, data: Path, backend: str) -> int:
    """Train on the file of a seed, and return the exit code.

    Raises:
        Failure: it did what no configuration may do.
    """
    output, path, options = folder / "run", folder / "config.toml", flags(seed, data)
    path.write_bytes(make(seed, damaged(seed, data, folder), output, "--model" in options))
    before = set(folder.rglob("*"))
    result = _invoke(folder, ["train", str(path), "--backend", backend, *options])
    _check_end(result, "-v" in options)
    if result.exit_code == 0:
        _check_no_key_is_ignored(path, "--model" in options)
        if "--json" in options:
            json.loads(result.stdout)
    written = {each for each in set(folder.rglob("*")) - before if output not in (each, *each.parents)}
    own = tomllib.loads(path.read_text(encoding="utf-8"))["run"]["output"] if result.exit_code == 0 else None
    if written and own == str(output):
        raise Failure(f"written outside of the output folder: {', '.join(map(str, written))}")
    if own == str(output):
        _check_what_follows(path, folder, output, options[options.index("--model") :] if "--model" in options else [])
    return int(result.exit_code)


def _invoke(folder: Path, arguments: list[str]) -> Any:
    with contextlib.chdir(folder):  # of the paths that go astray some are relative
        return CliRunner().invoke(app, arguments, prog_name="mithril-losses")


def _check_end(result: Any, verbose: bool = False) -> None:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise Failure(f"{type(result.exception).__name__}: {result.exception}") from result.exception
    if obeyed := {each for each in result.output if not each.isprintable()} - {"\n"}:
        raise Failure(f"a terminal would obey {obeyed}")
    if result.exit_code in (1, 2):
        lines = "".join(result.stderr.splitlines(keepends=True)[-1:]) if verbose else result.stderr
        kind = "[^\n]+" if result.exit_code == 2 else "training diverged: [^\n]+"
        if not re.fullmatch(rf"(error: {kind}\n)+", lines):
            raise Failure(f"exit code {result.exit_code}, but stderr is {result.stderr!r}")
    elif result.exit_code != 0:
        raise Failure(f"exit code {result.exit_code}")


def _check_what_follows(path: Path, folder: Path, output: Path, model: list[str]) -> None:
    """Check that the run can be repeated, resumed and evaluated, and that none of this changes it unasked."""
    written = {each.name: each.read_bytes() for each in output.iterdir()}
    described = flatten(read_config(output / "config.toml", own_model=bool(model)).model_dump())
    asked = flatten(read_config(path, own_model=bool(model)).model_dump())
    if differing := {key for key in asked if key != "backend" and described.get(key) != asked[key]}:
        raise Failure(f"the configuration of the run has other values of {differing}")
    for arguments, code in (
        (["train", str(path), "--backend", described["backend"], *model], 2),
        (["train", "--config-of", str(output), "--resume", *model], 0),
        (["evaluate", str(output), *model], 0),
    ):
        result = _invoke(folder, arguments)
        _check_end(result)
        if result.exit_code != code:
            raise Failure(f"{' '.join(arguments)}: exit code {result.exit_code}: {result.stderr}")
    for name, content in written.items():
        if (output / name).read_bytes() != content and name != "config.toml":
            raise Failure(f"{name} has changed")


def _check_no_key_is_ignored(path: Path, own_model: bool = False) -> None:
    given = flatten(tomllib.loads(path.read_text(encoding="utf-8")))
    read = flatten(read_config(path, own_model=own_model).model_dump(exclude_unset=True))
    ignored = {key: value for key, value in given.items() if key not in read or not _is_same(read[key], value)}
    if ignored:
        raise Failure(f"the run ignored {ignored}")


def _is_same(read: Any, given: Any) -> bool:
    return bool(read == (float(given) if type(read) is float else given))


@dataclass
class Tally:
    """How many files were tried, and how many of them ran."""

    tried: int = 0
    ran: int = 0


def fuzz(
    seeds: Iterator[int], backend: str = "numpy", on_failure: Callable[[int, Failure], None] | None = None
) -> Tally:
    """Try the files of some seeds."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as base:
        data = write_data(Path(base))
        for seed in seeds:
            folder = Path(tempfile.mkdtemp(dir=base))
            try:
                tally.ran += run(seed, folder, data, backend) == 0
            except Failure as failure:
                if on_failure is None:
                    raise
                on_failure(seed, failure)
            tally.tried += 1
    return tally


def main(
    seconds: Annotated[float, typer.Option(help="how long to go on")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="the first seed; by default one that the clock gives")] = None,
    count: Annotated[int | None, typer.Option(help="stop after so many files")] = None,
    backend: Annotated[str, typer.Option(help="numpy, jax or torch")] = "numpy",
) -> None:
    """Train on generated configurations until the time is up."""
    start = time.monotonic()
    first = seed if seed is not None else time.time_ns() % 1_000_000_000
    failures: list[int] = []
    print(f"seeds from {first} on", flush=True)

    def seeds() -> Iterator[int]:
        offset = 0
        while time.monotonic() - start < seconds and (count is None or offset < count):
            yield first + offset
            offset += 1

    def report(failed: int, failure: Failure) -> None:
        failures.append(failed)
        print(f"FAILED {failure}\n  python tests/fuzz.py --seed {failed} --count 1 --backend {backend}", flush=True)

    tally = fuzz(seeds(), backend, report)
    print(
        f"{tally.tried} files, {tally.ran} ran, {tally.tried - tally.ran} refused or failed; {len(failures)} failures"
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    typer.run(main)
