"""`fit`, which trains any compiled model with any objective."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array, fresh
from mithril_losses.models import CompiledModel
from mithril_losses.numerics.validation import unknown
from mithril_losses.objectives import Objective, Schedule
from mithril_losses.training.checkpoints import CheckpointFile
from mithril_losses.training.errors import UserError
from mithril_losses.training.interruption import interruptions
from mithril_losses.training.loop import Loop, Metric, Monitor, Progress, Record, State
from mithril_losses.training.printing import PrintedProgress
from mithril_losses.training.ranks import Ranks
from mithril_losses.training.sources import Data, Order, Source
from mithril_losses.training.trees import Tree


@dataclass(frozen=True)
class FitResult:
    """A finished run.

    Attributes:
        params: the parameters after the last epoch, in the nesting in which they were given.
        best_params: the parameters after the best epoch.
        best_epoch: its number, counted from 1.
        history: one record per epoch: `epoch`, `train_loss`, `train_<component>`; `<set>_loss`, `<set>_<component>` and
            `<set>_<metric>` for each set of `evaluate_on`. Training losses are means over the examples, computed
            during the epoch; those of other sets are computed at its end.
        steps: the number of steps.
        stopped: why the run ended: "epochs", "patience" or "callback".
    """

    params: Any
    best_params: Any
    best_epoch: int
    history: list[Record]
    steps: int
    stopped: str

    def __repr__(self) -> str:
        """Return the numbers of the last epoch, without the parameters."""
        last = ", ".join(f"{name} {value:.5g}" for name, value in self.history[-1].items())
        return f"FitResult({last}; best epoch {self.best_epoch}, {self.steps} steps, stopped by {self.stopped})"


@dataclass(frozen=True)
class Epoch:
    """What callbacks get after each epoch.

    Attributes:
        record: the epoch's record in the history.
        params: the parameters after the epoch.
        is_best: whether it is the best epoch so far.
    """

    record: Record
    params: Any
    is_best: bool


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C during `fit`.

    Attributes:
        result: the run up to its last complete epoch, or None if there is none.
    """

    def __init__(self, result: FitResult | None) -> None:
        super().__init__("training was interrupted")
        self.result = result


@np.errstate(all="ignore")  # if a run diverges, one line says so, without warnings
def fit(
    model: CompiledModel,
    objective: Objective,
    params: Any,
    data: Data,
    *,
    optimizer: Any,
    epochs: int,
    batch_size: int | None = 32,
    evaluation_batch_size: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    batch_names: Sequence[str] = (),
    steps_per_epoch: int | None = None,
    inputs: Mapping[str, str] | None = None,
    evaluate_on: Mapping[str, Data] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    schedule: Schedule | None = None,
    clip_norm: float | None = None,
    monitor: str | None = None,
    maximize: bool = False,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | CheckpointFile | None = None,
    resume: bool = False,
    overwrite: bool = False,
    fingerprint: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    on_resume: Callable[[list[Record]], object] | None = None,
    on_batch: Callable[[Progress], object] | None = None,
    progress: bool = False,
    across: Any = None,
) -> FitResult:
    """Return the parameters that gradient descent finds for an objective, and the history of the run.

    Each step evaluates the model on a batch, takes the gradients of the objective with respect to its outputs, and
    hands them to the model. A model with `outputs_and_pullback` (PyTorch, NumPy) is evaluated once for a step.

    Args:
        model: a compiled model: an object with Mithril's `evaluate`, or an adapter of `mithril_losses.models`.
        objective: the objective on its outputs.
        params: the starting parameters, which are not changed: a dict of arrays, or any nesting that the model takes.
            They decide the library.
        data: the examples: a dict of arrays with a row for each example; an iterable of batches, such as a PyTorch
            `DataLoader`; or a function that returns the batches of an epoch, which are counted from 1. A batch is a
            dict of arrays, or a tuple of them with `batch_names`. Arrays of another library than that of the parameters
            are converted; their floating-point values get the dtype of the parameters.
        optimizer: `Sgd`, `Adam` or `AdamW` of `mithril_losses.training`, on every library. With JAX, a gradient
            transformation of optax. With PyTorch, a function from parameters to an optimizer of `torch.optim`, such as
            `functools.partial(torch.optim.AdamW, lr=1e-3)`.
        epochs: the number of epochs, those before a resumed run included.
        batch_size: the examples of a batch, if `data` is a dict of arrays; None is all.
        evaluation_batch_size: the same for the sets of `evaluate_on`.
        shuffle: whether such arrays get another order in each epoch.
        seed: decides these orders.
        batch_names: the names of the entries of batches that are tuples.
        steps_per_epoch: the number of batches that count as an epoch, for an iterator that does not begin anew.
        inputs: for each input of the model the name of the entry; by default the model gets the whole batch.
        evaluate_on: further data by name, such as `{"validation": …}`, evaluated after each epoch.
        metrics: functions `metric(outputs, batch)` that return a number, computed on the sets of `evaluate_on`.
        schedule: the factor of the learning rate, a function of the step, such as `cosine(steps=1000)`.
        clip_norm: the largest norm of all gradients together; larger gradients are scaled to it.
        monitor: the column of the history that says which epoch is best. By default the loss on the first set of
            `evaluate_on`, or the training loss.
        maximize: whether larger values of this column are better.
        patience: the run ends after so many epochs without a better one; None never ends it.
        checkpoint: a file that ends in `.npz`, in which the run is kept after each epoch.
        resume: whether to continue from this file, if it is there. The result is that of a run without a break; the
            state of PyTorch's random numbers is part of it.
        overwrite: whether a run in this file may be replaced.
        fingerprint: facts by name that must be equal when the run is resumed; by default `seed`, `batch_size` and
            `shuffle`.
        callbacks: functions of an `Epoch`, called after each epoch, when the checkpoint is written. If one returns
            True, the run ends.
        on_resume: a function of the history in the checkpoint, called before a resumed run goes on.
        on_batch: a function of `Progress`, called after each batch.
        progress: whether to print a line for each epoch on stderr, and a counter of batches on a terminal.
        across: the process group over whose processes batches are split. All of them call `fit`, each with its own part
            of the data; `batch_size` counts the own examples. Losses and metrics are then those of all parts.

    Raises:
        UserError: there is a run in the checkpoint already, or one that does not fit, or its folder cannot be written.
        DivergedError: a loss is no longer finite, or out of all proportion to what it was at the start.
        FitInterrupted: Ctrl-C, at the end of a batch. Its `result` is the run up to the last complete epoch.
        ValueError: an argument has an impossible value, or the parts do not fit together; also if processes of a group
            differ in their starting parameters or in the number of their batches.
        TypeError: data or optimizer are of a kind that `fit` does not know.

    Example:
        A line through four points.

        >>> from mithril_losses import Objective, Term, fit
        >>> from mithril_losses.models import CallableModel
        >>> from mithril_losses.training import Sgd
        >>> model = CallableModel(
        ...     forward=lambda params, data: {"y": params["slope"] * data["x"]},
        ...     vjp=lambda params, data, gradients: {"slope": np.sum(gradients["y"] * data["x"])},
        ... )
        >>> data = {"x": np.array([-1.0, 0.0, 1.0, 2.0]), "y": np.array([-3.0, 0.0, 3.0, 6.0])}
        >>> objective = Objective([Term("error", "mse_loss", outputs="y", targets="y")])
        >>> result = fit(model, objective, {"slope": np.array(0.0)}, data, optimizer=Sgd(0.2), epochs=30)
        >>> round(float(result.params["slope"]), 6)
        3.0
    """
    _require_positive(
        clip_norm, epochs=epochs, batch_size=batch_size, evaluation_batch_size=evaluation_batch_size,
        steps_per_epoch=steps_per_epoch, patience=patience,
    )  # fmt: skip
    ranks = Ranks(across)
    facts = {"seed": seed, "batch_size": batch_size, "shuffle": shuffle} if fingerprint is None else dict(fingerprint)
    facts |= {} if ranks.size == 1 else {"ranks": ranks.size}

    def parts() -> Loop:
        tree = Tree(params)
        ranks.require(tree.library)
        named = {name: fresh(x) for name, x in tree.named(params).items()}
        sets = {
            name: Source(found, tree.backend, Order(evaluation_batch_size, shuffle=False), batch_names)
            for name, found in (evaluate_on or {}).items()
        }
        source = Source(data, tree.backend, Order(batch_size, shuffle, seed), batch_names, steps_per_epoch)
        column = monitor or f"{next(iter(sets), 'train')}_loss"
        loop = Loop(
            model, objective, tree, named, source, optimizer, sets, metrics or {}, inputs, schedule, clip_norm,
            Monitor(column, maximize), facts, ranks,
        )  # fmt: skip
        if column not in loop.columns[1:]:
            raise ValueError(unknown("column to monitor", column, loop.columns[1:]))
        return loop

    loop = ranks.agreed(parts)
    storage = CheckpointFile(Path(checkpoint)) if isinstance(checkpoint, (str, os.PathLike)) else checkpoint
    printed = PrintedProgress() if progress and ranks.rank == 0 else None
    run = _Run(
        loop, epochs, patience, storage,
        callbacks=[*callbacks, lambda epoch: printed.record(epoch.record)] if printed else callbacks,
        on_resume=[call for call in (on_resume, printed and printed.resumed) if call],
        on_batch=[call for call in (on_batch, printed and printed.batch) if call],
    )  # fmt: skip
    return run(resume, overwrite)


def _require_positive(clip_norm: float | None, **counts: int | None) -> None:
    if clip_norm is not None and not clip_norm > 0.0:
        raise ValueError(f"clip_norm must be positive, got {clip_norm!r}")
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{name} must be a positive number, got {count!r}")


@dataclass
class _Run:
    """The course of a run: epochs, checkpoints, callbacks, and why it ends."""

    loop: Loop
    epochs: int
    patience: int | None
    storage: CheckpointFile | None
    callbacks: Sequence[Callable[[Epoch], object]]
    on_resume: Sequence[Callable[[list[Record]], object]]
    on_batch: Sequence[Callable[[Progress], object]]

    def __call__(self, resume: bool, overwrite: bool) -> FitResult:
        state = None
        ranks = self.loop.ranks
        with interruptions() as interruption, ExitStack() as stack:
            if self.storage is not None:
                owned = self.storage.owned
                ranks.agreed(lambda: stack.enter_context(owned()) if ranks.rank == 0 else None)

            def on_batch(progress: Progress) -> None:
                for call in self.on_batch:
                    call(progress)
                interruption.arrive()

            try:
                state = self._begin(resume, overwrite)
                self._compare(state)
                stopped = self._impatience(state) if state.epoch else ""
                while not stopped and state.epoch < self.epochs:
                    state = self.loop.run_epoch(state, on_batch, self.epochs)
                    self._save(state)
                    stopped = self._report(state)
            except KeyboardInterrupt as error:
                raise FitInterrupted(self._result(state, "") if state and state.epoch else None) from error
        return self._result(state, stopped or "epochs")

    def _begin(self, resume: bool, overwrite: bool) -> State:
        state = self.loop.ranks.agreed(lambda: self._found(resume, overwrite))
        if state.epoch:
            self._save(state)  # files beside the checkpoint may be missing
            for call in self.on_resume:
                call(state.history)
        return state

    def _found(self, resume: bool, overwrite: bool) -> State:
        """Return the state in the checkpoint if there is one, and otherwise that before the first epoch."""
        if self.storage is None or not os.path.lexists(self.storage.path):
            return self.loop.start()
        if resume:
            return self.loop.resume(self.storage.path, self.epochs)
        if not overwrite:
            raise UserError(f"{self.storage.path} holds a run already: resume it, or overwrite it")
        return self.loop.start()

    def _compare(self, state: State) -> None:
        """Raise on all ranks unless they are about to make the same steps."""
        ranks = self.loop.ranks
        if ranks.size > 1:
            kept = "no checkpoint" if self.storage is None else "a checkpoint"
            facts = f"{self.epochs} epochs after epoch {state.epoch}, patience {self.patience}, {kept}"
            ranks.compare(f"{facts}, {', '.join(self.loop.columns)}", self._numpy(state.params))

    def _report(self, state: State) -> str:
        """Call the callbacks, and return why the run ends with this epoch, or an empty text."""
        best = self.loop.monitor.best_epoch(state.history)
        epoch = Epoch(state.history[-1], self.loop.tree.nested(state.params), best == state.epoch)
        answers = [callback(epoch) for callback in self.callbacks]
        if any(self.loop.ranks.gathered(any(answer is True for answer in answers))):
            return "callback"
        return self._impatience(state)

    def _impatience(self, state: State) -> str:
        best = self.loop.monitor.best_epoch(state.history)
        return "patience" if self.patience is not None and state.epoch - best >= self.patience else ""

    def _save(self, state: State) -> None:
        storage, ranks = self.storage, self.loop.ranks
        if storage is not None:
            found, best = self.loop.checkpoint(state), self._numpy(state.best)
            ranks.agreed(lambda: storage.save(found, best) if ranks.rank == 0 else None)

    def _numpy(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: self.loop.tree.backend.to_numpy(x) for name, x in arrays.items()}

    def _result(self, state: State, stopped: str) -> FitResult:
        best = self.loop.monitor.best_epoch(state.history)
        nested = self.loop.tree.nested
        return FitResult(nested(state.params), nested(state.best), best, state.history, state.step, stopped)
