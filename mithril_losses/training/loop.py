"""The loop over epochs and batches, on any model, objective, optimizer and data: what `fit` runs."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mithril_losses.backends.namespaces import Array, fresh
from mithril_losses.models import CompiledModel
from mithril_losses.numerics.validation import unknown
from mithril_losses.objectives import Objective, Schedule
from mithril_losses.training.checkpoints import Checkpoint, load_checkpoint
from mithril_losses.training.errors import DivergedError, UserError
from mithril_losses.training.moving import mover_of
from mithril_losses.training.ranks import Ranks
from mithril_losses.training.sources import Batch, Source, size_of
from mithril_losses.training.trees import Tree, like_array

Record = dict[str, float]  # one epoch: "epoch", "train_loss", "train_<component>", "<set>_loss", "<set>_<metric>", …
Metric = Callable[[Mapping[str, Array], Mapping[str, Array]], Any]  # of outputs and batch

# A component that is this many times as large as at the start (plus one) counts as diverged, though it is finite.
OUT_OF_PROPORTION = 1e4


class Progress(NamedTuple):
    """The progress of a run, counted in batches; `total` is None if nobody knows how many there will be."""

    done: int
    total: int | None


class State(NamedTuple):
    """A run after an epoch.

    Attributes:
        epoch: the number of complete epochs.
        step: the number of complete steps.
        params: the parameters by name, which later steps leave as they are.
        optimizer: the state of the optimizer.
        history: one record per epoch.
        best: the parameters of the best epoch.
    """

    epoch: int
    step: int
    params: dict[str, Array]
    optimizer: Any
    history: list[Record]
    best: dict[str, Array]


@dataclass(frozen=True)
class Monitor:
    """The column of the history by which epochs are compared.

    Attributes:
        column: its name.
        maximize: whether larger is better.
    """

    column: str
    maximize: bool = False

    def best_epoch(self, history: Sequence[Record]) -> int:
        """Return the number of the best epoch, the first one among equals."""
        sign = -1.0 if self.maximize else 1.0
        values = [sign * record[self.column] for record in history]
        return values.index(min(values)) + 1


@dataclass
class Loop:
    """Everything that a run consists of.

    Attributes:
        model: the compiled model.
        objective: its objective.
        tree: the structure of the parameters.
        initial: the parameters before the first step, by name.
        data: the batches to train on.
        optimizer: see `mover_of`.
        evaluate_on: further data by name, on which each epoch is evaluated.
        metrics: functions of outputs and batch that return a number, by name.
        inputs: for each input of the model the entry of the batch; None hands over the whole batch.
        schedule: the factor of the learning rate, a function of the step.
        clip_norm: see `mover_of`.
        monitor: compares epochs.
        fingerprint: what must be equal in all parts of a resumed run.
        ranks: the processes that train together.
    """

    model: CompiledModel
    objective: Objective
    tree: Tree
    initial: dict[str, Array]
    data: Source
    optimizer: Any
    evaluate_on: Mapping[str, Source]
    metrics: Mapping[str, Metric]
    inputs: Mapping[str, str] | None
    schedule: Schedule | None
    clip_norm: float | None
    monitor: Monitor
    fingerprint: Mapping[str, Any]
    ranks: Ranks

    def __post_init__(self) -> None:
        self.mover = mover_of(self.optimizer, self.tree, self.clip_norm)

    @property
    def columns(self) -> list[str]:
        """The keys of a record."""
        return columns_of(self.objective, self.evaluate_on, self.metrics)

    # --- the course of a run -----------------------------------------------------------------------------------------

    def start(self) -> State:
        """Return the state before the first epoch."""
        return State(0, 0, self.initial, self.mover.start(self.initial), [], self.initial)

    def run_epoch(self, state: State, on_batch: Callable[[Progress], None], epochs: int) -> State:
        """Return the state after one more epoch.

        Raises:
            DivergedError: a loss is no longer finite, or out of all proportion to what it was at the start.
        """
        epoch, step, params, optimizer = state.epoch + 1, state.step, state.params, state.optimizer
        total = self.data.batches_per_epoch
        values, sizes = [], []
        with mode(self.model, training=True):
            for batch, size in self.ranks.batches(self.data.epoch(epoch), f"epoch {epoch}"):
                batch_values, gradients = self.gradients(params, batch, step)
                factor = 1.0 if self.schedule is None else float(self.schedule(step))
                step += 1
                params, optimizer = self.mover.move(params, gradients, optimizer, step, factor)
                values.append(batch_values)
                sizes.append(size)
                on_batch(Progress(step, None if total is None else epochs * total))
        if self.tree.library == "torch":  # whose optimizers go on writing into these tensors
            params = {name: fresh(x) for name, x in params.items()}
        record: Record = {"epoch": epoch}
        record |= {f"train_{name}": value for name, value in weighted_means(values, sizes).items()}
        for name, source in self.evaluate_on.items():
            record |= {f"{name}_{key}": value for key, value in self.evaluate(params, source, step).items()}
        start = {f"train_{name}": float(x) for name, x in values[0].items()} if epoch == 1 else state.history[0]
        _require_sound(record, start)
        history = [*state.history, record]
        best = params if self.monitor.best_epoch(history) == epoch else state.best
        return State(epoch, step, params, optimizer, history, best)

    def gradients(self, params: Mapping[str, Array], batch: Batch, step: int) -> tuple[Batch, Batch]:
        """Return the losses on a batch, and the gradients: through the model's outputs, and of the regularizers."""
        nested = self.tree.nested(params)
        outputs, pullback = outputs_and_pullback(self.model, nested, inputs_of(batch, self.inputs))
        params = _params_for(self.objective, nested)
        result = self.objective.evaluate(outputs, batch, params, step, across=self.ranks.across)
        found = self.ranks.summed(self.tree.named(pullback(result.output_gradients)))
        if result.parameter_gradients:  # which are those of all ranks already
            found = self.tree.named(self._added(self.tree.nested(found), result.parameter_gradients))
        return {"loss": result.loss} | result.components, found

    def evaluate(self, params: Mapping[str, Array], source: Source, step: int) -> dict[str, float]:
        """Return the losses and metrics on a set; see `evaluated`."""
        nested = self.tree.nested(params)
        return evaluated(
            self.model, self.objective, nested, source, step, self.inputs, self.metrics, ranks=self.ranks
        )  # fmt: skip

    def _added(self, gradients: Any, others: Mapping[str, Any]) -> Any:
        missing = {name: part for name, part in gradients.items() if name not in others}
        total, more = self.tree.named(gradients), self.tree.named({**gradients, **others})
        unchanged = {name for name in total if name.partition("/")[0] in missing or name in missing}
        return self.tree.nested({name: g if name in unchanged else g + more[name] for name, g in total.items()})

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint(self, state: State) -> Checkpoint:
        """Return all that the run needs to continue after this state."""
        arrays = {f"parameters/{name}": x for name, x in state.params.items()}
        arrays |= {f"optimizer/{name}": x for name, x in self.mover.arrays(state.optimizer).items()}
        if self.monitor.best_epoch(state.history) != state.epoch:
            arrays |= {f"best/{name}": x for name, x in state.best.items()}
        values = {name: self.tree.backend.to_numpy(x) for name, x in arrays.items()}
        for rank, own in enumerate(self.ranks.gathered(self._own_states())):
            values |= {_of_rank(rank, name): x for name, x in own.items()}
        return Checkpoint(state.epoch, values, state.history, self.fingerprint, state.step)

    def resume(self, path: Path, epochs: int) -> State:
        """Return the state in a checkpoint.

        Raises:
            UserError: the file is damaged or belongs to another run, or has more epochs than are asked for.
        """
        like = {f"parameters/{name}": x for name, x in self.initial.items()}
        like |= {f"optimizer/{name}": x for name, x in self.mover.slots(self.initial).items()}
        arrays = {name: self.tree.backend.to_numpy(x) for name, x in like.items()}
        for name, x in self._own_states().items():
            arrays |= {_of_rank(rank, name): x for rank in range(self.ranks.size)}
        best = {f"best/{name}": arrays[f"parameters/{name}"] for name in self.initial}
        found = load_checkpoint(path, self.fingerprint, arrays, self.columns, best)
        if found.epoch > epochs:
            raise UserError(f"{path}: {found.epoch} epochs are done already, but {epochs} are asked for")
        backend = self.tree.backend
        params = {name: like_array(found.arrays[f"parameters/{name}"], x, backend) for name, x in self.initial.items()}
        slots = _below("optimizer/", found.arrays)
        kept = _below("best/", found.arrays)
        best = {name: like_array(x, self.initial[name], backend) for name, x in kept.items()} or params
        for name, buffer in _state_of(self.model).items():
            values = found.arrays[_of_rank(self.ranks.rank, f"model/{name}")]
            buffer.copy_(like_array(values, buffer, backend))
        self._set_random_states(found.arrays)
        self.data.skip(found.epoch)
        return State(found.epoch, found.steps, params, self.mover.restored(params, slots), found.history, best)

    def _own_states(self) -> dict[str, Array]:
        """Return what differs between ranks: buffers of the model, and random numbers."""
        found = {f"model/{name}": self.tree.backend.to_numpy(x) for name, x in _state_of(self.model).items()}
        return found | {f"random/{name}": state.numpy() for name, state, _ in self._generators()}

    def _set_random_states(self, arrays: Mapping[str, Array]) -> None:
        for name, state, restore in self._generators():
            values = arrays[_of_rank(self.ranks.rank, f"random/{name}")]
            restore(state.copy_(like_array(values, state, self.tree.backend)))

    def _generators(self) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
        """Yield name, state and setter of each generator of PyTorch that draws dropout or the order of the data."""
        if self.tree.library != "torch":
            return
        import torch

        yield "torch", torch.get_rng_state(), torch.set_rng_state
        device = self.tree.backend.device
        if device.type == "cuda":
            yield "cuda", torch.cuda.get_rng_state(device), lambda state: torch.cuda.set_rng_state(state, device)
        generator = getattr(self.data.origin, "generator", None)  # of a DataLoader
        if isinstance(generator, torch.Generator):
            yield "data", generator.get_state(), generator.set_state


def columns_of(objective: Objective, sets: Iterable[str], metrics: Iterable[str]) -> list[str]:
    """Return the keys of a record.

    Raises:
        ValueError: two of them are the same.
    """
    parts = ["loss", *(part.name for part in (*objective.terms, *objective.regularizers))]
    train = [f"train_{part}" for part in parts]
    columns = ["epoch", *train, *(f"{name}_{part}" for name in sets for part in (*parts, *metrics))]
    if len(set(columns)) < len(columns):
        raise ValueError(f"two columns of the history would have the same name: {', '.join(columns)}")
    return columns


def _require_sound(record: Record, start: Mapping[str, float]) -> None:
    """Raise if a value is not finite, or out of proportion to the first batch (in epoch 1) or to the first epoch."""
    for name, value in record.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"training diverged: {name} is {value} in epoch {record['epoch']}; try a smaller learning rate"
            )
        before = start[name] if name.startswith("train_") else math.inf
        if value > OUT_OF_PROPORTION * (1.0 + abs(before)):
            raise DivergedError(
                f"training diverged: {name} is {value:.4g} in epoch {record['epoch']}, and was {before:.4g} at the "
                "start; try a smaller learning rate"
            )


def evaluated(
    model: CompiledModel,
    objective: Objective,
    params: Any,
    source: Source,
    step: int,
    inputs: Mapping[str, str] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    check_finite: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Return losses and metrics on a set: means over its batches, weighted by the numbers of examples."""
    values, sizes, ranks = [], [], ranks or Ranks()
    params_of_objective = _params_for(objective, params)
    with mode(model, training=False):
        for batch, size in ranks.batches(source.epoch(1), "a set to evaluate on"):
            outputs = model.evaluate(params, inputs_of(batch, inputs))
            result = objective.evaluate(
                outputs, batch, params_of_objective, step, gradients=False, check_finite=check_finite,
                across=ranks.across,
            )  # fmt: skip
            found = {name: metric(outputs, batch) for name, metric in (metrics or {}).items()}
            if ranks.size > 1 and found:  # a metric sees the own examples only
                own = {name: float(x) for name, x in found.items()}
                parts = [part for part in ranks.gathered((own, size_of(batch))) if part[1]]
                found = weighted_means(*zip(*parts, strict=True))
            values.append({"loss": result.loss} | result.components | found)
            sizes.append(size)
    return weighted_means(values, sizes)


def _of_rank(rank: int, name: str) -> str:
    """Return the name in a checkpoint of what each rank has of its own."""
    return f"rank{rank}/{name}" if rank else name


def inputs_of(batch: Mapping[str, Array], inputs: Mapping[str, str] | None) -> dict[str, Array]:
    """Return the inputs of a model in a batch: the entries that `inputs` names, or all.

    Raises:
        ValueError: an entry is missing.
    """
    if inputs is None:
        return dict(batch)
    for entry in inputs.values():
        if entry not in batch:
            raise ValueError(unknown("data entry", entry, batch))
    return {name: batch[entry] for name, entry in inputs.items()}


def _params_for(objective: Objective, params: Any) -> Any:
    return params if objective.regularizers else None


def mode(model: CompiledModel, training: bool) -> AbstractContextManager[None]:
    """Compute inside the block as in training or as in evaluation, where the model makes a difference."""
    enter = getattr(model, "mode", None)
    return nullcontext() if enter is None else enter(training)


def outputs_and_pullback(model: CompiledModel, params: Any, data: Batch) -> tuple[Batch, Callable[[Any], Any]]:
    """Return the outputs, and the function from their gradients to those of the parameters."""
    both = getattr(model, "outputs_and_pullback", None)
    if both is not None:
        found: tuple[Batch, Callable[[Any], Any]] = both(params, data)
        return found
    return model.evaluate(params, data), lambda given: model.evaluate(params, data, output_gradients=given)[1]


def _state_of(model: CompiledModel) -> dict[str, Array]:
    state = getattr(model, "state", None)
    return {} if state is None else state()


def _below(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}


def weighted_means(values: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> dict[str, float]:
    """Return the mean of each value over batches of these sizes.

    Example:
        >>> weighted_means([{"loss": 1.0}, {"loss": 4.0}], [2, 1])
        {'loss': 2.0}
    """
    return {name: _mean([float(batch[name]) for batch in values], sizes) for name in values[0]}


def _mean(values: Sequence[float], sizes: Sequence[int]) -> float:
    broken = [value for value in values if not math.isfinite(value)]
    return broken[0] if broken else math.fsum(map(operator.mul, values, sizes)) / sum(sizes)
