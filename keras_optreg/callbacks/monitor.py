"""Measure while training, and record."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_optreg.callbacks.probes import Probe
from keras_optreg.callbacks.probes.probe import stand_in
from keras_optreg.callbacks.writers import Writer
from keras_optreg.introspection import inner_optimizer, num_batches


class Monitor(keras.callbacks.Callback):
    """Lets probes measure and writers record.

    When: with `every=n`, after the steps n, 2n, 3n, ... (with `steps_per_execution=k`, after the execution in which
    such a step fell); with `every="epoch"`, at the end of each epoch, after validation. A probe that measures what
    happens over some steps (gradient norm, update ratio) measures over that one step, that one execution, or the whole
    epoch; in between it computes nothing.

    The step that writers get is `optimizer.iterations`, the number of real updates, which goes on across fits and
    across saving and loading. Steps are counted from it when an epoch begins, so with gradient accumulation `every`
    counts updates, not micro-batches.

    Everything that probes put into the model or the optimizer is gone when `fit` ends, or, after a `fit` that was
    interrupted, when the next one begins, with or without a monitor. It is left out of files saved meanwhile. A fit
    with gradient or loss probes compiles its train function anew. When `GradualUnfreezing` or `FreezeBatchNorm` changes
    which weights train, the probes start anew with those that do from then on.

    Args:
        probes: What to measure.
        writers: Where to record it.
        every: Updates between measurements, or `"epoch"`.

    Raises:
        TypeError: For what is no probe or no writer.
        ValueError: For another `every`; in training, when two probes measure under the same name.

    Example:
        ```python
        memory = MemoryWriter()
        monitor = Monitor([GradientNorm(), LearningRate()], [memory], every=10)
        model.fit(x, y, epochs=5, callbacks=[monitor])
        steps, norms = memory.history["gradient_norm"]
        ```
    """

    def __init__(self, probes: Sequence[Probe], writers: Sequence[Writer], every: int | str = "epoch"):
        super().__init__()
        for things, kind in ((probes, Probe), (writers, Writer)):
            if isinstance(things, Probe | Writer):
                raise TypeError(f"Monitor takes {kind.__name__.lower()}s as a list. Received: {things!r}")
            for thing in things:
                if not isinstance(thing, kind):
                    raise TypeError(f"Monitor takes {kind.__name__.lower()}s as a list. Received: {thing!r}")
        if every != "epoch" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"The `every` of Monitor is a number of steps >= 1, or 'epoch'. Received: every={every!r}")
        self.probes = list(probes)
        self.writers = list(writers)
        self.every = every
        self._watched: Any = None  # the model, while the probes are in it

    def on_train_begin(self, logs=None):
        self._stop()  # the training of another model may have been interrupted
        model = self.model
        for writer in self.writers:
            writer.open()
        self._is_first_epoch = True
        self._due = False
        if model.built:
            self._start(model)
        self._length = model.steps_per_execution
        self._accumulated = inner_optimizer(model).gradient_accumulation_steps or 1

    def _start(self, model: Any) -> None:
        self._watched, self._compiled_anew = model, False
        _Watch.on(model).join(self)
        self.start_probes()
        if self._compiled_anew:
            _compile_anew(model)

    def start_probes(self) -> None:
        """Put the probes into the model; one that is to measure already measures from here on."""
        self._compiled_anew |= any([probe.start(self._watched) for probe in self.probes])  # all, not until a True
        if self._due:
            self._prepare(self._watched)

    def stop_probes(self) -> None:
        """Take the probes out of the model."""
        for probe in self.probes:
            probe.stop(self._watched)

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        if self._is_first_epoch:
            start(self.writers, model, epoch)
            self._is_first_epoch = False
        self._before = num_batches(inner_optimizer(model))
        if self.every == "epoch" and self._watched is not None:
            self._due = True
            self._prepare(model)

    def on_train_batch_begin(self, batch, logs=None):
        if self.every == "epoch" or self._watched is None:
            return
        done, period = self._before + batch, self.every * self._accumulated
        self._due = (done + self._length) // period > done // period
        if self._due:
            self._prepare(self.model)  # on JAX, `self.model` brings the state to the host: only when due

    def on_train_batch_end(self, batch, logs=None):
        if self._watched is None:  # on TensorFlow, a model without an input shape is built in its first step
            self._start(self.model)
            if self.every == "epoch":
                self._due = True
                self._prepare(self.model)
        elif self._due and self.every != "epoch":
            self._due = False
            self._record(logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "epoch":
            self._due = False
            self._record(logs)

    def on_train_end(self, logs=None):
        self._stop()
        for writer in self.writers:
            writer.close()

    def _stop(self) -> None:
        if self._watched is None:
            return
        self.stop_probes()
        _Watch.on(self._watched).leave(self)
        if self._compiled_anew:
            _compile_anew(self._watched)
        self._watched = None

    def _prepare(self, model: Any) -> None:
        for probe in self.probes:
            probe.prepare(model)

    def _record(self, logs: dict[str, float] | None) -> None:
        model = self.model
        values: dict[str, float | np.ndarray] = {}
        for probe in self.probes:
            measured = {name: host(value) for name, value in probe.measure(model, logs or {}).items()}
            if twice := values.keys() & measured.keys():
                raise ValueError(
                    f"{type(probe).__name__} measures {', '.join(sorted(twice))}, which another probe of the same "
                    "Monitor measures too. Leave one of them out, or put it into a Monitor of its own."
                )
            values |= measured
        step = int(host(model.optimizer.iterations))
        for writer in self.writers:
            writer.write(step, values)
            if self.every == "epoch":
                writer.flush()


class _Watch:
    """The monitors whose probes are in a model; stands in front of `make_train_function`, with which each fit begins.

    A monitor that is still there then was in a fit that was interrupted, and hears of its end now. Within a fit the
    function is made anew when other weights train from now on: their probes start anew, before it is compiled.
    """

    def __init__(self, model: Any):
        self._model = model
        self._make_train_function = model.make_train_function
        self._monitors: list[Monitor] = []
        self._trained = [id(w) for w in model.trainable_variables]

    @classmethod
    def on(cls, model: Any) -> "_Watch":
        watch = model.__dict__.get("make_train_function")
        return watch if isinstance(watch, cls) else cls(model)

    def join(self, monitor: Monitor) -> None:
        if not self._monitors:
            self._put_back = stand_in(self._model, "make_train_function", self)
        self._monitors.append(monitor)

    def leave(self, monitor: Monitor) -> None:
        self._monitors.remove(monitor)
        if not self._monitors:
            self._put_back()

    def __call__(self, force: bool = False) -> Any:
        if not force:
            for monitor in list(self._monitors):
                monitor.on_train_end()
        elif self._trained != (trained := [id(w) for w in self._model.trainable_variables]):
            self._trained = trained
            for monitor in self._monitors:  # all leave first: they share the tap, which knows the weights by number
                monitor.stop_probes()
            for monitor in self._monitors:
                monitor.start_probes()
        return self._make_train_function(force=force)


def start(writers: Sequence[Writer], model: Any, epoch: int) -> None:
    """Tell writers where a training goes on that begins with this epoch.

    An optimizer that counts from 0 in a later epoch was made anew: it is another phase of the same run, and what stands
    there is not to be written over.
    """
    step = int(host(model.optimizer.iterations))
    if step or not epoch:
        for writer in writers:
            writer.start_after(step)


def host(value: Any) -> float | np.ndarray:
    """A float, or for a tensor with a rank a NumPy array."""
    if isinstance(value, (int, float)):
        return float(value)
    array = value if isinstance(value, np.ndarray) else np.asarray(keras.ops.convert_to_numpy(value))
    return float(array) if array.ndim == 0 else array


def _compile_anew(model: Any) -> None:
    model.make_train_function(force=True)
    model.test_function = None
