"""Let a schedule set the strength of a penalty, per epoch or per batch."""

from collections.abc import Callable
from typing import Any

from keras_optreg.callbacks.actions.scheduled import Scheduled
from keras_optreg.introspection import hand_on, penalties_of
from keras_optreg.live_numbers import LiveNumbers
from keras_optreg.select import Selector


class PenaltySchedule(Scheduled):
    """Set a strength by a schedule: warm a penalty up, or anneal it.

    Use it where a penalty that is strong from the beginning keeps the model from learning (group lasso, `MCP`), or for
    one that is needed only early. It acts in the next step, wherever the penalty stands: in the loss, on activations,
    in the optimizer's `penalties=`. Nothing is traced or compiled again.

        strength = schedule(t)

    t is Keras's number of the epoch, or the number of batches since epoch 0 began (with `steps_per_execution=k` it
    moves in steps of k): each `fit` begins at t = 0, unless `initial_epoch` or `load_state_dict` says otherwise. What
    was set last stays after `fit`, and is saved with the model. It is added to the logs under the strength's name.

    Args:
        penalty: the penalty object that was attached or given to a layer or an optimizer. Or a selector: all penalties
            of this package on the weights it matches, for models that were loaded, where each layer has its own.
        schedule: a schedule, ours or Keras's, or a function from t to the strength, >= 0.
        every: `"batch"` or `"epoch"`.
        name: which strength, for penalties with several (`"l1"` of `L1L2`). Defaults to the only one.

    Raises:
        TypeError: when `penalty` is no penalty of this package or `schedule` cannot be called.
        ValueError: for another `every`, an unknown or missing name, a value outside the range of the strength; at the
            start of training, when the penalty acts nowhere in the model, or when `initial_epoch` is above 0 and t
            cannot be known.

    Example:
        ```python
        penalty = kor.regularizers.GroupLasso(0.0)
        model.compile(kor.optimizers.Adam(1e-3, penalties=penalty), "mse")
        ramp = kor.schedules.PolynomialDecay(0.0, 1000, end_learning_rate=1e-3)
        model.fit(x, y, epochs=30, callbacks=[kor.callbacks.PenaltySchedule(penalty, ramp)])
        ```
    """

    def __init__(self, penalty: Any, schedule: Callable[[Any], Any], every: str = "batch", name: str | None = None):
        if not isinstance(penalty, LiveNumbers | Selector):
            raise TypeError(
                "PenaltySchedule takes a penalty object of keras_optreg, such as the L2(1e-4) that was attached, or a "
                f"selector of penalised weights. Received: {penalty!r}"
            )
        self.penalty = penalty
        self.name = name
        if isinstance(penalty, LiveNumbers):
            self.log_name = self._name_in(penalty)
        super().__init__(schedule, every)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if isinstance(self.penalty, Selector):
            chosen = {id(variable) for variable in self.penalty.of(self.model)}
            self._penalties = [p for p, variable in penalties_of(self.model) if id(variable) in chosen]
        else:
            self._penalties = [p for p, _ in penalties_of(self.model) if p is self.penalty][:1]
        if not self._penalties:
            raise ValueError(
                f"PenaltySchedule: {self.penalty!r} acts nowhere in the model {self.model.name!r}, so its strength "
                "would change nothing. Give the very object that was attached, or given to a layer or to the "
                "optimizer; after loading or cloning a model, whose penalties are others, a selector: "
                "PenaltySchedule(select.kernels(), ...)."
            )
        [self.log_name, *_] = [self._name_in(penalty) for penalty in self._penalties]
        self._last: float | None = None
        hand_on(self.model)

    def _name_in(self, penalty: LiveNumbers) -> str:
        names = [*penalty.numbers]
        if not names:
            raise ValueError(
                f"PenaltySchedule: {penalty!r} has no strength of its own. Give the part of it that is meant."
            )
        if self.name is None and len(names) == 1:
            return names[0]
        if self.name not in names:
            raise ValueError(
                f"PenaltySchedule: which strength of {penalty!r}? Give its name, one of {names}. "
                f"Received: name={self.name!r}"
            )
        return self.name

    def _apply(self, t: int) -> None:
        value = float(self.schedule(t))
        if value != self._last:
            self._last = value
            _ = self.model  # on JAX this brings the state to the host, so that what is set here is not overwritten
            for penalty in self._penalties:
                setattr(penalty, self._name_in(penalty), value)

    def _value(self) -> float:
        return float(getattr(self._penalties[0], self.log_name))
