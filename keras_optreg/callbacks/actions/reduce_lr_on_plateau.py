"""Lower the learning rate when a number has stopped getting better."""

from typing import Any

import numpy as np

from keras_optreg.bounds import NON_NEGATIVE, Interval, check
from keras_optreg.callbacks.actions.live_parameter import LiveParameter
from keras_optreg.callbacks.actions.monitored import Monitored
from keras_optreg.callbacks.actions.rates import check_settable, multiply_rate, rate_of
from keras_optreg.callbacks.actions.swapped_weights import SwappedWeights
from keras_optreg.introspection import averaging_optimizers, updating_optimizers


class ReduceLROnPlateau(Monitored):
    """Lower the learning rate by a factor when a monitored number has not improved for `patience` epochs.

    When to use it: where it is not known beforehand how long a rate is of use; where the number of steps is known, a
    schedule does as well and is reproducible.

    Keras's arguments, under Keras's names, in Keras's order, and the same decisions. The differences: the rate may
    follow a schedule, which Keras refuses; `relative` improvements; `restore_best_weights`; NaN and infinite values are
    never the best (in Keras a first NaN stays the best for ever); a name that is not logged is an error, not a warning;
    the state can be saved.

    A value x improves on the best b when, for `mode="min"`, x < b − min_delta, or x < b − min_delta · |b| with
    `relative`. After `patience` epochs without improvement

        α ← max(factor · α, min_lr)                    a number
        scale ← scale · max(factor · α, min_lr)/α      of a schedule S, where α = scale · S(step) is the rate now

    and then for `cooldown` epochs nothing is counted. Of several optimizers (`Partition`) each rate is lowered so. What
    was set last stays after `fit`, and is saved with the model. Weight decay that is a number or a schedule falls with
    the rate, by which it is multiplied; `FullyDecoupled` does with `scale_weight_decay`. Do not put `LearningRateDecay`
    beside it: it sets the same rate.

    The rate is added to the logs as `learning_rate`, as it was in the epoch; of several optimizers as
    `learning_rate_<name of the optimizer>`.

    Args:
        monitor: A name in the logs: `"val_loss"`, `"val_accuracy"`, `"loss"`, ...
        factor: In (0, 1), what the rate is multiplied by.
        patience: Epochs without improvement before that.
        verbose: 1 prints what is done.
        mode: `"min"`, `"max"`, or `"auto"`: losses and what Keras's metrics say about themselves.
        min_delta: What counts as an improvement, in units of the number, or as a fraction of it with `relative`.
        cooldown: Epochs after a reduction in which nothing is counted.
        min_lr: The rate does not go below this.
        relative: Take `min_delta` as a fraction of the best value.
        restore_best_weights: After a reduction, go on from the weights of the best epoch. They are put back when the
            next epoch begins, so that what other callbacks save or restore does not depend on their order. The
            optimizer's state (momenta) is not. Not beside `WeightAveraging`: what it evaluates is not what trains.
        start_from_epoch: Epochs, from 0, before which values are ignored.
        scale_weight_decay: Multiply `FullyDecoupled` weight decay by what the rate is multiplied by. The step is traced
            anew when `fit` begins and ends.

    Attributes:
        best: The best value; `None` before there is one.
        best_epoch: Its epoch, from 0.
        reductions: (epoch, rate) of each reduction, the rate of the first optimizer.

    Raises:
        ValueError: For an unknown mode or a number out of range; at the start of training, for `restore_best_weights`
            with an optimizer that keeps the weights in its own state, and for `scale_weight_decay` where no weight
            decay is `FullyDecoupled(number)`; at the first epoch, for `restore_best_weights` beside `WeightAveraging`;
            at its end, when `monitor` is not in the logs or its direction is unknown.
        TypeError: At the start of training, when one of Keras's own optimizers follows a schedule.

    Example:
        ```python
        model.compile(kor.optimizers.SGD(kor.schedules.warmup(0.1, 500), momentum=0.9), "mse")
        model.fit(x, y, validation_split=0.1, epochs=100, callbacks=[ReduceLROnPlateau(factor=0.5, patience=3)])
        ```
    """

    state = ("best", "best_epoch", "best_weights", "wait", "cooldown_counter", "reductions", "_is_to_restore", "_seen")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 0.0001,
        cooldown: int = 0,
        min_lr: float = 0.0,
        relative: bool = False,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        scale_weight_decay: bool = False,
    ):
        numbers = {"factor": factor, "patience": patience, "cooldown": cooldown, "min_lr": min_lr}
        ranges = {**dict.fromkeys(numbers, NON_NEGATIVE), "factor": Interval(0, 1, low_included=False)}
        check("ReduceLROnPlateau", numbers, ranges)
        self.factor = factor
        self.patience = patience
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.restore_best_weights = restore_best_weights
        self.scale_weight_decay = scale_weight_decay
        super().__init__(monitor, mode, verbose, min_delta, relative, start_from_epoch)

    def reset(self) -> None:
        super().reset()
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: list[Any] | None = None
        self.wait = 0
        self.cooldown_counter = 0
        self.reductions: list[tuple[int, float]] = []
        self._is_to_restore = False
        self._decay: LiveParameter | None = None

    def outcome(self) -> str | None:
        if not self.reductions:
            return None
        steps = ", ".join(f"{rate:.4g} (epoch {epoch + 1})" for epoch, rate in self.reductions)
        return f"the learning rate was reduced to {steps}"

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        check_settable("ReduceLROnPlateau", self.model)
        owners = [o for o in updating_optimizers(self.model) if getattr(o, "owns_iterate", False)]
        if self.restore_best_weights and (owners := [*owners, *averaging_optimizers(self.model)]):
            raise ValueError(
                f"ReduceLROnPlateau cannot go back to the best weights with {type(owners[0]).__name__}, which keeps "
                "the weights in its own state too. Leave restore_best_weights out."
            )

        if self.scale_weight_decay:
            decaying = [
                o for o in updating_optimizers(self.model) if hasattr(o, "live") and o.live.is_fully_decoupled()
            ]
            if not decaying:
                raise ValueError(
                    "ReduceLROnPlateau(scale_weight_decay=True) is for weight_decay=FullyDecoupled(...). Other weight "
                    "decay is multiplied by the rate, and falls with it. Leave scale_weight_decay out."
                )
            self._decay = LiveParameter("ReduceLROnPlateau", self.model, "weight_decay", decaying)

    def on_train_end(self, logs=None):
        if self._decay is not None:
            self._decay.stop()
            self._decay = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.restore_best_weights:
            self._refuse_averages()
        if self._is_to_restore:
            self._is_to_restore = False
            self.model.set_weights(self.best_weights)
            self._say(f"Epoch {epoch + 1}: going on from the weights of the best epoch, {self.best_epoch + 1}.")

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        optimizers = updating_optimizers(self.model)
        for optimizer in optimizers:
            logs["learning_rate" if len(optimizers) == 1 else f"learning_rate_{optimizer.name}"] = rate_of(optimizer)
        value = self._value(epoch, logs)
        if value is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self._improves(value, self.best):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
        elif self.cooldown_counter <= 0:
            self.wait += 1
            if self.wait >= self.patience and any([self._reduce(optimizer) for optimizer in optimizers]):
                self.cooldown_counter, self.wait = self.cooldown, 0
                self.reductions = [*self.reductions, (epoch, rate_of(optimizers[0]))]
                self._is_to_restore = self.best_weights is not None
                self._say(f"Epoch {epoch + 1}: reducing the learning rate to {rate_of(optimizers[0]):.4g}.")

    def _refuse_averages(self) -> None:
        actions = getattr(getattr(self.model, "history", None), "actions", ())
        for action in actions:
            if isinstance(action, SwappedWeights):
                raise ValueError(
                    f"ReduceLROnPlateau cannot go back to the best weights beside {type(action).__name__}: at the end "
                    "of an epoch the model has an average, from which training does not go on. Leave "
                    "restore_best_weights out, or the average."
                )

    def _reduce(self, optimizer: Any) -> bool:
        rate = rate_of(optimizer)
        if rate <= np.float32(self.min_lr):  # as precise as the rate
            return False
        reduced = max(rate * self.factor, self.min_lr)
        multiply_rate(optimizer, reduced / rate)
        if self._decay is not None and optimizer in self._decay.optimizers:
            self._decay.set(optimizer, optimizer.live.number("weight_decay") * reduced / rate)
        return True
