"""Stop, skip or go back when gradients are no longer numbers."""

import math
from collections.abc import Mapping
from typing import Any, Self

from keras import ops

from keras_optreg import live_numbers
from keras_optreg.bounds import COUNT, POSITIVE, POSITIVE_COUNT, check
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.actions.rates import check_settable, multiply_rate, rate_of
from keras_optreg.callbacks.actions.trainable import SCHEDULED
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
    after every `every` updates, and before the validation and the end of each epoch. Then, when `limit` allows it, the
    model and the optimizer go back to the last such moment at which all was well, or to the beginning of the epoch,
    with weights, slots, counts, seeds, statistics and the running means of the epoch, and training goes on with the
    data that follow. Rates, strengths and whatever else callbacks schedule stay as they are. A step so good that it is
    followed by one with weights that are not finite counts as bad itself. After `limit` times in a row training stops,
    at the last good state.

    Place it first: what other callbacks evaluate, average or save at the end of an epoch has then been looked at. The
    means of an epoch in whose last few updates something is found have been logged by Keras already.

    Under loss scaling, steps that overflow are the scaling's affair and are not seen. Without a `limit` nothing is
    copied; with one, everything is, when an epoch begins and after every `every` updates. On TensorFlow a model without
    an input shape is built in its first step: nothing can be kept before it, and its gradients are seen from the
    second step on.

    Args:
        limit: how many times in a row it goes back before it stops; 0 stops at once, with the weights as they are.
        factor: what the learning rate (or the scale of its schedule) is multiplied by each time it goes back, > 0.
        every: updates between two looks. The more, the less it costs, and the more is lost with a step back.

    Attributes:
        stop_reason: why training was stopped, as a sentence; None when it was not.
        events: what was found and done, a sentence each.

    Raises:
        ValueError: for numbers out of their ranges; at the start of training, with a `limit`, when the model is not
            built.
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
        self._gradients = NonFiniteGradients()
        self._monitor = Monitor([self._gradients, Logs()], [_Look(self)], every)
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
        self._good: list[tuple[Any, Any]] = []
        self._is_kept = self._is_looked_at = True

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
        if self.limit and not model.built:
            raise ValueError(
                f"NaNGuard: the model {model.name!r} is not built, so from its first step there is nothing to go back "
                "to. Give it an Input, or call it on a batch before fit; or use NaNGuard(), which stops."
            )
        if self.factor != 1:
            check_settable("NaNGuard", model)
        self._monitor.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._is_kept = False  # the means begin anew, and callbacks may change which weights train
        self._monitor.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        if self.limit and not self._is_kept:
            self._keep(self.model)
        self._monitor.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._batch, self._logs = batch, logs or {}
        self._is_looked_at = False
        self._monitor.on_train_batch_end(batch, logs)

    def on_test_begin(self, logs=None):
        self._look_at_the_rest()

    def on_epoch_end(self, epoch, logs=None):
        self._look_at_the_rest()

    def on_train_end(self, logs=None):
        self._monitor.on_train_end(logs)
        self._good = []

    def _look_at_the_rest(self) -> None:
        """The updates of an epoch after its last look."""
        if not self._is_looked_at:
            self.look({**self._logs, **self._gradients.measure(self.model, self._logs)})

    def look(self, values: Mapping[str, Any]) -> None:
        """Act on what was measured since the last look."""
        self._is_looked_at = True
        model = self.model
        what = _described(values, [w.path for w in model.trainable_variables])
        if what is None and self.limit and not _is_finite(model):
            what = "the update made weights that are not finite"
        if what is None:
            self._in_a_row = 0
            self._is_kept = False
            return
        where = f"epoch {self._epoch + 1}, batch {self._batch + 1}"
        if self._in_a_row >= self.limit:
            times = f", {self._in_a_row + 1} times in a row" if self._in_a_row else ""
            self.stop_reason = f"{where}: {what}{times}; training stopped"
            self.events = [*self.events, self.stop_reason]
            model.stop_training = True
            self._go_back(model)
            return
        self._in_a_row += 1
        self._go_back(model)
        done = "went back to the last good state"
        if self.factor != 1:
            for optimizer in updating_optimizers(model):
                multiply_rate(optimizer, self.factor)
            done += f", with learning rate {rate_of(updating_optimizers(model)[0]):.4g}"
        self.events = [*self.events, f"{where}: {what}; {done}"]

    def _keep(self, model: Any) -> None:
        # When the next batch begins: the weights are training's own then, and callbacks have done what they do.
        self._good = [(v, ops.copy(ops.stop_gradient(v.value))) for v in _state(model)]
        self._is_kept = True

    def _go_back(self, model: Any) -> None:
        if self._good:
            model.reset_metrics()  # some are made in the first step of all
        for variable, value in self._good:
            variable.assign(ops.copy(value))  # the step is given the buffer, and the copy may be wanted again


class _Look(Writer):
    """Hands on what the monitor measured."""

    def __init__(self, guard: NaNGuard):
        self._guard = guard

    def write(self, step: int, values: Any) -> None:
        self._guard.look(values)


def _state(model: Any) -> list[Any]:
    """Without rates, strengths and scheduled numbers, which callbacks set: they are not what a bad step spoils."""
    of_model = [v for v in model.variables if v.name != live_numbers.NAME]
    of_optimizer = [v for v in model.optimizer.variables if v.name not in RATES and not v.name.startswith(SCHEDULED)]
    return [*of_model, *model.metrics_variables, *of_optimizer]


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
