"""Two batches through everything, before the night."""

import copy
import io
import itertools
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_optreg.callbacks import DataLoss, GradientNorm, MemoryWriter, Monitor, TensorBoard
from keras_optreg.table import Table

_PATHS = ("log_dir", "filepath", "filename", "backup_dir", "path", "directory")


@dataclass
class CheckReport:
    """What `check` found; print it.

    Attributes:
        problems: What must be mended; empty when all is well.
        notes: What may be meant so, or not: weights without a gradient, Keras's warnings.
        logs: The logged numbers of the two batches.
        gradients: A table of weights and the mean norms of their gradients; `None` where there is no gradient.
        learning_rate: The rate after the two batches.
        seconds_per_step: Of the last step, or execution; `None` when there was only the first, which compiles.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    logs: dict[str, float] = field(default_factory=dict)
    gradients: Table = field(default_factory=lambda: Table(("weight", "gradient_norm"), []))
    learning_rate: float | None = None
    seconds_per_step: float | None = None

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        numbers = {**self.logs, "learning_rate": self.learning_rate, "seconds_per_step": self.seconds_per_step}
        lines = ["check: ok" if self.ok else f"check: {len(self.problems)} problem(s)"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  note: {note}" for note in self.notes]
        lines += ["  " + "  ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)]
        return "\n".join([*lines, str(self.gradients)])

    __repr__ = __str__


def check(
    model: keras.Model,
    x: Any,
    y: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
    batch_size: int = 32,
    validation_data: Any = None,
    sample_weight: Any = None,
) -> CheckReport:
    """Train and validate for two batches, put everything back, and report: a typing error costs seconds, not a night.

    Call it after `compile` with what you are about to give to `fit`. Weights, optimizer, metrics, random state of
    Python and NumPy and the callbacks are afterwards what they were: the model's state is kept and put back (whatever
    happens in between), and callbacks are deep copies. Files that a copy or its writers write go to a temporary
    directory, where the attribute that says where has one of the usual names: `log_dir`, `filepath`, `filename`,
    `backup_dir`, `path` or `directory`. Only what was not built, model, optimizer or metrics, is built afterwards.

    Args:
        model: A compiled model.
        x: Arrays, or a dataset: `tf.data`, `PyDataset`, a torch `DataLoader`. Only its first two batches are read.
        y: Targets, with arrays.
        callbacks: The callbacks of `fit`.
        batch_size: With arrays.
        validation_data: As in `fit`; the two training batches when `None`; `False` for a fit without validation.
        sample_weight: As in `fit`, with arrays.

    Returns:
        A `CheckReport`: `ok`, `problems`, the numbers, and the gradient of each weight.

    Raises:
        ValueError: When the model is not compiled.
        TypeError: When `x` is a generator, which would lose its first batches, or a callback cannot be copied.
        Exception: What building, training, validation or a callback raised, with a note of where.

    Example:
        ```python
        print(kor.check(model, x, y, callbacks=[kor.callbacks.EarlyStopping("val_acuracy")]))
        # ValueError: EarlyStopping monitors 'val_acuracy', which is not in the logs. There are: accuracy, loss, ...
        ```
    """
    if not getattr(model, "compiled", False):
        raise ValueError("check needs a compiled model: call model.compile(...) first, as before fit.")
    report = CheckReport()
    data, first = _two_batches(x, y, sample_weight, batch_size)
    if validation_data is None:
        data["validation_data"] = data["x"] if data.get("y") is None else _tuple(data)
    elif validation_data is not False:
        data["validation_data"] = _cut_validation(validation_data, batch_size)
    if not model.built:
        model(first)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.make_train_function()  # what an interrupted fit left in the model goes now, not in copies of its callbacks
    watch, memory, clock = GradientNorm(), MemoryWriter(), _Clock()
    with tempfile.TemporaryDirectory() as directory:
        copies = _copies(callbacks, model, Path(directory), report)
        monitors = [Monitor([watch], [memory]), Monitor([DataLoss()], [])]
        every = [clock, *monitors, *copies, _LastRate(report)]
        with _everything_put_back(model, every), _noting("running fit on two batches"), _quietly() as caught:
            history = model.fit(**data, epochs=1, shuffle=False, verbose=0, callbacks=every)
            report.logs = {name: float(values[-1]) for name, values in history.history.items()}
    report.seconds_per_step = clock.seconds
    _judge(report, copies, model, memory, [str(w.message).split("\n")[0] for w in caught])
    return report


def _judge(report: CheckReport, callbacks: list[Any], model: Any, memory: MemoryWriter, caught: list[str]) -> None:
    """Problems and notes from what was measured."""
    for name, value in report.logs.items():
        if not isfinite(value):
            report.problems.append(f"{name} is {value}")
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if isinstance(name, str) and name not in report.logs:
            what = f"{type(callback).__name__} monitors {name!r}, which is not logged"
            report.problems.append(f"{what}; there are: {', '.join(report.logs)}")
    means = {name: float(np.mean(np.asarray(values))) for name, (_, values) in memory.history.items()}
    if not means:
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            report.notes.append("no update took place: loss scaling left both steps out, as it may at the beginning")
        else:
            report.problems.append(
                "no update took place: the data gave no batch, or train_step does not call the optimizer's apply"
            )
        return
    rows = [(w.path, means.get(f"gradient_norm/{w.path}")) for w in model.trainable_variables]
    report.gradients = Table(("weight", "gradient_norm"), rows)
    for path, value in rows:
        if value is None:
            report.notes.append(f"{path} gets no gradient: the loss does not depend on it")
        elif not isfinite(value):
            report.problems.append(f"the gradient of {path} is {value}")
        elif value == 0:
            report.notes.append(f"the gradient of {path} is exactly 0: dead units, or a branch without effect")
    known = "Gradients do not exist"  # said above, and better
    report.notes += [f"warning: {text}" for text in dict.fromkeys(caught) if known not in text]


class _LastRate(keras.callbacks.Callback):
    """The learning rate, which is gone when the state is put back."""

    def __init__(self, report: CheckReport):
        super().__init__()
        self._report = report

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        if not hasattr(optimizer, "optimizers"):  # a MultiOptimizer has several
            self._report.learning_rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))


class _Clock(keras.callbacks.Callback):
    """Seconds a step, in the last execution; the first compiles."""

    seconds: float | None = None
    _executions = 0

    def on_train_batch_begin(self, batch, logs=None):
        self._begun, self._batch = time.perf_counter(), batch

    def on_train_batch_end(self, batch, logs=None):
        self._executions += 1
        if self._executions > 1:
            self.seconds = (time.perf_counter() - self._begun) / (batch - self._batch + 1)


class _Batches(keras.utils.PyDataset):
    def __init__(self, batches: list[Any]):
        super().__init__()
        self._batches = batches

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, index):
        return self._batches[index]


def _is_arrays(x: Any) -> bool:
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves if leaf is not None)


def _two_batches(x: Any, y: Any, sample_weight: Any, batch_size: int) -> tuple[dict[str, Any], Any]:
    """Arguments for fit, and the inputs of a first batch."""
    if y is not None or _is_arrays(x):

        def head(a: Any) -> Any:
            return a[: 2 * batch_size]

        data = {"x": x, "y": y, "sample_weight": sample_weight}
        data = {name: keras.tree.map_structure(head, value) for name, value in data.items() if value is not None}
        return {**data, "batch_size": batch_size}, keras.tree.map_structure(lambda a: a[:1], data["x"])
    taken = _take(x)
    first = next(iter(taken))
    return {"x": taken}, first[0] if isinstance(first, tuple) else first


def _take(dataset: Any) -> Any:
    """The first two batches of a dataset."""
    if hasattr(dataset, "take"):  # tf.data
        return dataset.take(2)
    if isinstance(dataset, keras.utils.PyDataset):
        return _Batches([dataset[i] for i in range(min(2, dataset.num_batches or 2))])
    if iter(dataset) is dataset:
        raise TypeError(
            "check would use up the first batches of a generator. Pass a dataset that can be read again, "
            "or a new generator's first batches as arrays."
        )
    batches = itertools.islice(iter(dataset), 2)
    arrays = [keras.tree.map_structure(np.asarray, batch) for batch in batches]
    return _Batches([tuple(batch) if isinstance(batch, list) else batch for batch in arrays])


def _cut_validation(data: Any, batch_size: int) -> Any:
    if isinstance(data, (tuple, list)) and _is_arrays(data):
        return tuple(keras.tree.map_structure(lambda a: a[: 2 * batch_size], part) for part in data)
    return _take(data)


def _tuple(data: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(data[name] for name in ("x", "y", "sample_weight") if name in data)


def _copies(callbacks: Any, model: Any, directory: Path, report: CheckReport) -> list[Any]:
    """Deep copies of the callbacks that write below `directory`."""
    given = [] if callbacks is None else list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    copies = []
    # One memo for all: what callbacks share stays shared, and the model and streams are not copied.
    memo: dict[int, Any] = {id(model): model, id(sys.stdout): sys.stdout}
    for callback in given:
        try:
            copies.append(copy.deepcopy(callback, memo))
        except Exception as error:
            raise TypeError(
                f"check runs on copies of the callbacks, and {type(callback).__name__} cannot be copied: {error}. "
                "Leave it out of the check."
            ) from error
    owners = {id(o): o for c in copies for o in (c, *getattr(c, "writers", ()))}.values()
    for number, owner in enumerate(owners):
        for name in _PATHS:
            old = owner.__dict__.get(name)
            if isinstance(old, (str, Path)) and str(old):
                _redirect(owner, str(old), directory / str(number), report)
                break
    return copies


def _redirect(owner: Any, old: str, directory: Path, report: CheckReport) -> None:
    """Put `directory` for the place of `old` in all attributes: some callbacks keep paths made from it."""
    place = next((p for p in (Path(old), *Path(old).absolute().parents) if p.exists()), Path("/"))
    is_file = place == Path(old) and place.is_file()
    if not os.access(place, os.W_OK) or (place.is_file() and not is_file):
        what = f"{type(owner).__name__} will not be able to write to {old!r}"
        report.problems.append(f"{what}: {place} does not allow it")
    directory.mkdir()
    new = str(directory / Path(old).name)
    for name, value in list(owner.__dict__.items()):
        if isinstance(value, (str, Path)) and str(value).startswith(old):
            setattr(owner, name, type(value)(new + str(value)[len(old) :]))


@contextmanager
def _noting(stage: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"This came from keras_optreg.check while {stage}; the model is as it was before.")
        raise


@contextmanager
def _quietly() -> Iterator[list[Any]]:
    """No output of callbacks; warnings as a list."""
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield caught


@contextmanager
def _everything_put_back(model: Any, callbacks: list[Any]) -> Iterator[None]:
    variables = [*model.variables, *model.optimizer.variables]
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    put_back_dice = _dice()
    history = model.__dict__.get("history")
    try:
        yield
    finally:
        for callback in callbacks:
            if isinstance(callback, (Monitor, TensorBoard)):
                callback.on_train_end()  # an error keeps fit from saying it, and their probes are in the model
        if hasattr(model, "_jax_state"):
            model._jax_state = None  # after an error mid-epoch it would be written over what is put back here
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        model.reset_metrics()
        model.stop_training = False
        model.history = history
        put_back_dice()


def _dice() -> Callable[[], None]:
    """Puts the global random states back; the generators of layers are among the model's variables."""
    from keras.src.backend.common import global_state

    python, numpy = random.getstate(), np.random.get_state()
    # Keras has no public way to its own; it makes one where none is, from the random state of Python.
    keras_own = global_state.get_global_attribute("global_seed_generator")
    drawn = keras_own and np.array(keras.ops.convert_to_numpy(keras_own.state))
    torch = sys.modules["torch"] if keras.config.backend() == "torch" else None  # its dropout rolls torch's own dice
    rolled = torch and torch.get_rng_state()

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        global_state.set_global_attribute("global_seed_generator", keras_own)
        if keras_own:
            keras_own.state.assign(drawn)
        if torch:
            torch.set_rng_state(rolled)

    return put_back
