"""One's own data: tables, archives and folders of arrays; columns by name, classes, splits and scales."""

import math
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow
from parameterized import parameterized
from pyarrow import csv, parquet

from mithril_losses.training.config import TrainingConfig
from mithril_losses.training.data import Preparation
from mithril_losses.training.errors import UserError
from mithril_losses.training.run import Trainer, train
from mithril_losses.training.tables import Rows

DRAW = np.random.default_rng(0)
KINDS = DRAW.integers(0, 3, 60)
COLUMNS: dict[str, Any] = {
    "width": KINDS + DRAW.normal(0.0, 0.2, 60),
    "count": DRAW.integers(0, 9, 60),
    "color": np.array(["red", "green"])[KINDS % 2],
    "price": 5.0 * KINDS + DRAW.normal(0.0, 0.1, 60),
    "kind": np.array(["c", "a", "b"])[KINDS],
}
REGRESSION = {"name": "price", "loss": "mse_loss", "output": "y", "target": "price"}
CLASSES = {"name": "kind", "loss": "cross_entropy_with_logits", "output": "y", "target": "kind"}


class DataTestCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name: str, columns: dict[str, Any] | None = None) -> str:
        path = self.folder / name
        table = pyarrow.table(columns or COLUMNS)
        parquet.write_table(table, path) if name.endswith(".parquet") else csv.write_csv(table, path)
        return str(path)

    def config(self, term: dict[str, Any] | None = None, size: int = 3, **sections: Any) -> TrainingConfig:
        table = {
            "dtype": "float64",
            "data": {"file": str(self.folder / "t.csv"), "features": ["width", "color"]},
            "model": {"outputs": {"y": {"size": size}}},
            "objective": {"terms": [term or CLASSES]},
            "optimizer": {"kind": "adam", "learning_rate": 0.05},
            "run": {"epochs": 2, "picture": False, "output": str(self.folder / "run")},
        }
        for name, section in sections.items():
            table[name] = {**table.get(name, {}), **section} if isinstance(section, dict) else section
        return TrainingConfig.model_validate(table)


class TestTables(DataTestCase):
    @parameterized.expand(["t.csv", "t.parquet"])
    def test_columns_become_arrays(self, name: str) -> None:
        file = self.write(name)
        trainer = Trainer(self.config(data={"file": file, "features": ["width", "color", "count"]}))
        train = trainer.sets["train"]
        self.assertEqual({key: array.shape for key, array in train.items()}, {"features": (48, 4), "kind": (48,)})
        rows = [next(i for i in range(60) if COLUMNS["width"][i] == x[0]) for x in train["features"]]
        expected = np.stack(
            [
                COLUMNS["width"][rows],
                COLUMNS["color"][rows] == "green",
                COLUMNS["color"][rows] == "red",
                COLUMNS["count"][rows],
            ],
            axis=1,
        )
        np.testing.assert_array_equal(train["features"], expected)
        np.testing.assert_array_equal(np.array(["a", "b", "c"])[train["kind"]], COLUMNS["kind"][rows])

    def test_both_formats_train_alike(self) -> None:
        histories = [
            train(self.config(data={"file": self.write(name)}, run={"output": str(self.folder / name[2:])})).history
            for name in ("t.csv", "t.parquet")
        ]
        self.assertEqual(*histories)

    def test_all_columns_but_the_targets_are_features(self) -> None:
        self.write("t.csv")
        trainer = Trainer(self.config(data={"features": None}))
        self.assertEqual(trainer.preparation.features, ["width", "count", "color", "price"])

    @parameterized.expand(["numpy", "jax", "torch"])
    def test_a_column_is_the_target_of_an_output_of_size_1(self, backend: str) -> None:
        self.write("t.csv")
        trainer = Trainer(self.config(REGRESSION, size=1, backend=backend))
        self.assertEqual(tuple(trainer.sets["train"]["price"].shape), (48, 1))
        found = trainer.evaluate(trainer.program.params, trainer.sets["test"])["price"]
        y = trainer.predict(trainer.program.params, trainer.sets["test"])["y"]
        test = np.asarray(trainer.in_memory(trainer.sets["test"]["price"]))
        np.testing.assert_allclose(found, np.mean((y - test) ** 2), rtol=1e-6)

    def test_whole_numbers_are_targets_of_a_regression(self) -> None:
        self.write("t.csv")
        trainer = Trainer(self.config(REGRESSION | {"target": "count"}, size=1))
        self.assertEqual(trainer.sets["train"]["count"].dtype, np.float64)

    def test_text_of_two_classes_is_a_target_of_bits(self) -> None:
        self.write("t.csv")
        term = {"name": "bits", "loss": "binary_cross_entropy_with_logits", "output": "y", "target": "color"}
        trainer = Trainer(self.config(term, size=1, data={"features": ["width"]}))
        self.assertEqual(set(np.unique(trainer.sets["train"]["color"])), {0.0, 1.0})
        self.assertEqual(trainer.preparation.classes, {"color": ["green", "red"]})

    def test_a_text_that_only_the_test_set_has_is_known(self) -> None:
        colors = np.array(["red"] * 59 + ["blue"])
        self.write("t.csv", COLUMNS | {"color": colors})
        trainer = Trainer(self.config())
        self.assertEqual(trainer.preparation.categories, {"color": ["blue", "red"]})
        self.assertEqual(sum(float(part["features"][:, 1].sum()) for part in trainer.sets.values()), 1.0)


class TestArrays(DataTestCase):
    def arrays(self) -> dict[str, Any]:
        return {"x": DRAW.standard_normal((60, 4)), "y": KINDS, "other": np.ones(3)}

    def configured(self, path: Path, **data: Any) -> TrainingConfig:
        term = CLASSES | {"target": "y"}
        return self.config(term, data={"file": str(path), "features": None, "input": "x"} | data)

    def test_a_folder_gives_what_an_archive_gives(self) -> None:
        arrays = self.arrays()
        np.savez(self.folder / "d.npz", **arrays)
        (self.folder / "d").mkdir()
        for name, array in arrays.items():
            np.save(self.folder / "d" / f"{name}.npy", array)
        for scale in ("none", "standard"):
            parts = {"run": {"output": str(self.folder / scale), "epochs": 3}}
            one, other = (self.configured(self.folder / path, scale=scale) for path in ("d.npz", "d"))
            first = train(one.model_copy(update={"run": one.run.model_copy(update=parts["run"])}))
            update = {"output": str(self.folder / f"{scale}2"), "epochs": 3}
            second = train(other.model_copy(update={"run": other.run.model_copy(update=update)}))
            for record, expected in zip(second.history, first.history, strict=True):
                np.testing.assert_allclose(list(record.values()), list(expected.values()), rtol=1e-12)
            self.assertEqual(second.test.keys(), first.test.keys())

    def test_a_folder_is_not_loaded(self) -> None:
        (self.folder / "d").mkdir()
        for name, array in self.arrays().items():
            np.save(self.folder / "d" / f"{name}.npy", array)
        trainer = Trainer(self.configured(self.folder / "d"))
        self.assertIsInstance(trainer.sets["train"]["x"], Rows)
        self.assertIsInstance(trainer.sets["train"]["x"]._array, np.memmap)
        self.assertIsInstance(trainer.sets["train"]["x"][:2], np.ndarray)

    def test_a_folder_of_broken_files(self) -> None:
        (self.folder / "d").mkdir()
        np.save(self.folder / "d" / "y.npy", KINDS)
        for content, words in ((b"no array", "damaged"), (b"", "damaged")):
            (self.folder / "d" / "x.npy").write_bytes(content)
            with self.assertRaisesRegex(UserError, rf"\A[^\n]*x\.npy[^\n]*{words}[^\n]*\Z"):
                Trainer(self.configured(self.folder / "d"))
        np.save(self.folder / "d" / "x.npy", np.array([{}] * 60), allow_pickle=True)
        with self.assertRaisesRegex(UserError, "Python objects"):
            Trainer(self.configured(self.folder / "d"))


class TestSets(DataTestCase):
    def sizes(self, trainer: Trainer) -> dict[str, int]:
        return {name: len(part["kind"]) for name, part in trainer.sets.items()}

    def test_files_of_their_own_for_validation_and_test(self) -> None:
        file = self.write("t.csv")
        first, last = ({key: values[part] for key, values in COLUMNS.items()} for part in (slice(7), slice(-9, None)))
        data = {"file": file, "validation_file": self.write("v.csv", first), "test_file": self.write("e.csv", last)}
        trainer = Trainer(self.config(data=data))
        self.assertEqual(
            {name: len(part["kind"]) for name, part in trainer.sets.items()}, {"train": 60, "validation": 7, "test": 9}
        )
        np.testing.assert_allclose(trainer.sets["validation"]["features"][:, 0], first["width"])
        result = train(self.config(data=data))
        self.assertIn("validation_loss", result.history[0])
        self.assertNotIn("test_loss", result.history[0])
        self.assertEqual(set(result.test), {"loss", "kind", "accuracy_y"})

    def test_fractions_and_seeds(self) -> None:
        self.write("t.csv")
        fractions = {"test_fraction": 0.25, "validation_fraction": 0.1}
        one, same, other = (Trainer(self.config(seed=seed, data=fractions)) for seed in (0, 0, 1))
        self.assertEqual(
            {name: len(part["kind"]) for name, part in one.sets.items()}, {"train": 39, "validation": 6, "test": 15}
        )
        for name in one.sets:
            np.testing.assert_array_equal(one.sets[name]["features"], same.sets[name]["features"])
            self.assertFalse(np.array_equal(one.sets[name]["features"], other.sets[name]["features"]))
        together = np.sort(np.concatenate([part["features"][:, 0] for part in one.sets.values()]))
        np.testing.assert_array_equal(together, np.sort(COLUMNS["width"]))

    def test_stratified_sets_have_the_same_frequencies(self) -> None:
        kinds = np.array(["rare"] * 8 + ["often"] * 52)
        self.write("t.csv", COLUMNS | {"kind": kinds})
        fractions = {"test_fraction": 0.25, "validation_fraction": 0.25, "stratify": "kind"}
        trainer = Trainer(self.config(size=2, data=fractions))
        counts = {name: np.bincount(part["kind"]).tolist() for name, part in trainer.sets.items()}
        self.assertEqual(counts, {"train": [26, 4], "validation": [13, 2], "test": [13, 2]})

    def test_features_are_scaled_as_the_training_set_says(self) -> None:
        self.write("t.csv", COLUMNS | {"width": 1e3 + 50.0 * COLUMNS["width"], "count": np.full(60, 7)})
        data = {"features": ["width", "count"], "scale": "standard"}
        trainer = Trainer(self.config(data=data))
        features = trainer.sets["train"]["features"]
        np.testing.assert_allclose(features.mean(axis=0), [0.0, 0.0], atol=1e-9)
        np.testing.assert_allclose(features.std(axis=0), [1.0, 0.0], atol=1e-9)
        test = trainer.sets["test"]["features"]
        mean, deviation = np.array(trainer.preparation.mean), np.array(trainer.preparation.deviation)
        unscaled = test * deviation + mean
        self.assertTrue(np.isin(unscaled[:, 0].round(6), (1e3 + 50.0 * COLUMNS["width"]).round(6)).all())

    def test_the_preparation_is_read_back(self) -> None:
        self.write("t.csv")
        trainer = Trainer(self.config(data={"scale": "standard"}))
        path = self.folder / "preparation.json"
        path.write_text(trainer.preparation.to_json(), encoding="utf-8")
        self.assertEqual(Preparation.from_json(path), trainer.preparation)
        for text in ('{"width": -1.5}', "[]", '{"a": 1}', "{" * 9_000):
            path.write_text(text, encoding="utf-8")
            with self.assertRaisesRegex(UserError, "not the preparation of a run"):
                Preparation.from_json(path)


class TestMessages(DataTestCase):
    @parameterized.expand(
        [
            ("a column", {"features": ["widht"]}, {}, "unknown column 'widht'; did you mean 'width'"),
            ("a target among the features", {"features": ["width", "kind"]}, {}, "'kind' is also a target"),
            ("a gap", {}, {"width": [None, *COLUMNS["width"][1:]]}, "column 'width' has no value in row 0"),
            ("infinity", {}, {"width": [math.inf, *COLUMNS["width"][1:]]}, "column 'width' holds inf at"),
            ("dates", {}, {"width": np.array(["2020-01-01"] * 60, "M8[D]")}, "must hold numbers or text, got date32"),
            ("lists", {}, {"width": [[1.0]] * 60}, "must hold numbers or text, got list"),
            ("names", {}, {"color": [f"{i}" for i in range(60)]}, "column 'color' has 60 different texts"),
            ("no such labels", {"stratify": "kinds"}, {}, "unknown column 'kinds'"),
            ("an empty set", {"validation_fraction": 0.001}, {}, "data.validation_fraction: .* empty"),
            ("another file", {"test_file": "none.csv", "test_fraction": None}, {}, "none.csv: No such file"),
        ]
    )
    def test_name_what_is_wrong(self, case: str, data: dict[str, Any], columns: dict[str, Any], words: str) -> None:
        file = self.write("t.parquet", COLUMNS | columns)
        data = {key: value for key, value in ({"file": file} | data).items() if value is not None}
        with mock.patch("mithril_losses.training.data.MOST_CATEGORIES", 50), self.assertRaisesRegex(UserError, words):
            Trainer(self.config(data=data))

    def test_a_library_that_is_missing(self) -> None:
        file = self.write("t.csv")
        with mock.patch.dict("sys.modules", pyarrow=None), self.assertRaisesRegex(UserError, r"\[data\]"):
            Trainer(self.config(data={"file": file}))

    def test_two_columns_of_one_name(self) -> None:
        (self.folder / "t.csv").write_text("width,width,color,kind\n" + "1,2,r,a\n" * 9, encoding="utf-8")
        with self.assertRaisesRegex(UserError, "two columns have the name 'width'"):
            Trainer(self.config())

    def test_a_table_may_not_unpack_beyond_the_limit(self) -> None:
        file = self.write("t.parquet", {"width": np.zeros(100_000), "color": ["r"] * 100_000, "kind": ["a"] * 100_000})
        limit = mock.patch("mithril_losses.training.tables.LARGEST_UNPACKED", 1_000_000)
        with limit, self.assertRaisesRegex(UserError, "it unpacks to 2,400,000 bytes"):
            Trainer(self.config(data={"file": file}))
