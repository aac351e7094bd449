"""Stop, skip or go back when gradients are no longer numbers."""

import math
from collections.abc import Mapping
from typing import Any, Self

from keras import ops

from keras_optreg import live_numbers
from keras_optreg.bounds import COUNT, POSITIVE, POSITIVE_COUNT, check
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.actions.rates import check_settable, multiply_rate, rate_of
from keras_optreg.callbacks.monitor import Monitor
from keras_optreg.callbacks.probes import Logs, NonFiniteGradients
from keras_optreg.callbacks.writers import Writer
from keras_optreg.introspection import updating_optimizers

RATES = ("learning_rate", "learning_rate_scale")


class NaNGuard(Action):
    """Stops a training whose gradients or loss are NaN or infinite, skips such steps, or goes back and on more slowly.

    When to use it: always, as `NaNGuard()`: it says which weight's gradient went first, which tells where to look.
    `NaNGuard.skip()` for data with a few bad batches; `NaNGuard.roll_back()` for runs that nobody watches.

    Gradients are looked at inside every compiled step, as the optimizer receives them. Whether one was found is asked
    after every `every` updates. Then, when `limit` allows it, the model and the optimizer go back to the last such
    moment at which all was well, with weights, slots, counts, seeds, statistics and the running means of the epoch, and
    training goes on with the data that follow. A step so good that it is followed by one with weights that are not
    finite counts as bad itself. After `limit` times in a row training stops, at the last good state.

    Under loss scaling, steps that overflow are the scaling's affair and are not seen. Without a `limit` nothing is
    copied; with one, everything is, after every `every` updates.

    Args:
        limit: how many times in a row it goes back before it stops; 0 stops at once, with the weights as they are.
        factor: what the learning rate (or the scale of its schedule) is multiplied by each time it goes back, > 0.
        every: updates between two looks. The more, the less it costs, and the more is lost with a step back.

    Attributes:
        stop_reason: why training was stopped, as a sentence; None when it was not.
        events: what was found and done, a sentence each.

    Raises:
        ValueError: for numbers out of their ranges.
        TypeError: at the start of training, when `factor` is not 1 and the rate of an optimizer cannot be set: one of
            Keras's own that follows a schedule.

    Example:
        ```python
        guard = kor.callbacks.NaNGuard.roll_back()
        model.fit(x, y, epochs=20, callbacks=[guard])
        print(guard.outcome())
        ```
    """

    state = ("events", "stop_reason", "_in_a_row")

    def __init__(self, limit: int = 0, factor: float = 1.0, every: int = 1):
        numbers = {"limit": limit, "factor": factor, "every": every}
        check("NaNGuard", numbers, {"limit": COUNT, "factor": POSITIVE, "every": POSITIVE_COUNT})
        self.limit = limit
        self.factor = factor
        self.every = every
        self._monitor = Monitor([NonFiniteGradients(), Logs()], [_Look(self)], every)
        super().__init__()

    @classmethod
    def skip(cls, limit: int = 10) -> Self:
        """Leave bad steps out, with all that they did; stop after more than `limit` in a row."""
        return cls(limit, every=1)

    @classmethod
    def roll_back(cls, factor: float = 0.5, every: int = 100, limit: int = 5) -> Self:
        """Go back to the last good state, which is at most 2·`every` − 1 updates old, with a smaller learning rate."""
        return cls(limit, factor, every)

    def reset(self) -> None:
        self.events: list[str] = []
        self.stop_reason: str | None = None
        self._in_a_row = 0
        self._good: list[tuple[Any, Any]] | None = None

    def outcome(self) -> str | None:
        return "; ".join(self.events) or None

    def set_params(self, params: Any) -> None:
        super().set_params(params)
        self._monitor.set_params(params)

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._monitor.set_model(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.stop_reason = None
        model = self.model
        if self.factor != 1:
            check_settable("NaNGuard", model)
        self._monitor.on_train_begin(logs)
        if self.limit and model.built:
            self._keep(model)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._monitor.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self._monitor.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._batch = batch
        self._monitor.on_train_batch_end(batch, logs)

    def on_train_end(self, logs=None):
        self._monitor.on_train_end(logs)
        self._good = None

    def look(self, values: Mapping[str, Any]) -> None:
        """Act on what was measured since the last look."""
        model = self.model
        what = _described(values, [w.path for w in model.trainable_variables])
        if what is None and self.limit and not _is_finite(model):
            what = "the update made weights that are not finite"
        if what is None:
            self._in_a_row = 0
            if self.limit:
                self._keep(model)
            return
        where = f"epoch {self._epoch + 1}, batch {self._batch + 1}"
        if self._good is None or self._in_a_row >= self.limit:
            times = f", {self._in_a_row + 1} times in a row" if self._in_a_row else ""
            self.stop_reason = f"{where}: {what}{times}; training stopped"
            self.events = [*self.events, self.stop_reason]
            model.stop_training = True
            if self._good is not None:
                self._go_back()
            return
        self._in_a_row += 1
        self._go_back()
        done = "went back to the last good state"
        if self.factor != 1:
            for optimizer in updating_optimizers(model):
                multiply_rate(optimizer, self.factor)
            done += f", with learning rate {rate_of(updating_optimizers(model)[0]):.4g}"
        self.events = [*self.events, f"{where}: {what}; {done}"]

    def _keep(self, model: Any) -> None:
        # Rates and strengths are set by callbacks, and not what a bad step spoils.
        state = [v for v in _state(model) if v.name not in (*RATES, live_numbers.NAME)]
        self._good = [(v, ops.copy(ops.stop_gradient(v.value))) for v in state]

    def _go_back(self) -> None:
        for variable, value in self._good or ():
            variable.assign(ops.copy(value))  # the step is given the buffer, and the copy may be wanted again


class _Look(Writer):
    """Hands on what the monitor measured."""

    def __init__(self, guard: NaNGuard):
        self._guard = guard

    def write(self, step: int, values: Any) -> None:
        self._guard.look(values)


def _state(model: Any) -> list[Any]:
    return [*model.variables, *model.metrics_variables, *model.optimizer.variables]


def _is_finite(model: Any) -> bool:
    return all(bool(ops.all(ops.isfinite(w))) for w in model.trainable_variables)


def _described(values: Mapping[str, Any], paths: list[str]) -> str | None:
    """What is not finite, or None. The backward pass goes from the loss to the inputs: the last weight went first."""
    bad = [path for path in paths if f"non_finite/{path}" in values]
    loss = float(values.get("loss", 0.0))
    found = []
    if not math.isfinite(loss):
        found.append(f"the loss was {loss}")
    if bad:
        others = f" (first on the way back from the loss; so were those of {len(bad) - 1} of {len(paths) - 1} others)"
        found.append(f"the gradient of {bad[-1]} was not finite{others if len(bad) > 1 else ''}")
    return " and ".join(found) or None
