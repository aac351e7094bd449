"""Let a schedule set a number of the optimizer, per epoch or per batch."""

from collections.abc import Callable
from typing import Any

from keras_optreg.callbacks.actions.live_parameter import LiveParameter
from keras_optreg.callbacks.actions.scheduled import Scheduled
from keras_optreg.introspection import updating_optimizers


class ParameterSchedule(Scheduled):
    """Set a number of the optimizer by a schedule: its momentum, a β, its weight decay.

    When to use it: momentum that grows (Sutskever et al. 2013), or goes against the rate as in the one-cycle policy;
    weight decay that grows while the rate falls. For the learning rate there are schedules and `LearningRateDecay`, for
    strengths of penalties `PenaltySchedule`, for rates of dropout `DropoutSchedule`.

        number = schedule(t)

    t is Keras's number of the epoch, or the number of batches since epoch 0 began (with `steps_per_execution=k` it
    moves in steps of k): each `fit` begins at t = 0, unless `initial_epoch` or `load_state_dict` says otherwise. What
    was set last stays after `fit`: it is `optimizer.<name>`, and saved with the model. It is added to the logs under
    its name.

    The compiled step, which is traced once for each `fit`, reads the number from a variable while `fit` runs, in
    float32: β₂ = 0.999 is then 0.99900001, and
    a training at a constant schedule is that of the number itself to about that. Files are the same with and without.
    Corrections of bias, 1 − βᵗ, take the β of the step as if it had always been so.

    Args:
        name: A number of the optimizer's rule, or `"weight_decay"`, of which there must be some (0.0 will do), also as
            `FullyDecoupled`, which it stays. Not those that the method needs as fixed numbers: counts, values at the
            start, and a few that the error names.
        schedule: A schedule, ours or Keras's, or a function from t to the number.
        every: `"batch"` or `"epoch"`.
        optimizer: Which one, where the model has several, as in `Partition`: the object. Defaults to all of them
            that have the number.

    Raises:
        TypeError: When `schedule` cannot be called; at the start of training, for Keras's own optimizers, whose
            numbers are constants in the compiled step.
        ValueError: For another `every`; in training, for a name that cannot be scheduled, a value outside its range, or
            one with which the method would keep other things for each weight (momentum 0).

    Example:
        ```python
        model.compile(kor.optimizers.SGD(0.1, momentum=0.5, nesterov=True), "mse")
        grow = kor.schedules.PolynomialDecay(0.5, 1000, end_learning_rate=0.95)
        model.fit(x, y, epochs=30, callbacks=[kor.callbacks.ParameterSchedule("momentum", grow)])
        ```
    """

    def __init__(self, name: str, schedule: Callable[[Any], Any], every: str = "batch", *, optimizer: Any = None):
        super().__init__(schedule, every)
        self.name = self.log_name = name
        self.optimizer = optimizer

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        model = self.model
        self._parameter = LiveParameter("ParameterSchedule", model, self.name, self._found(model))

    def on_train_end(self, logs=None):
        _ = self.model
        self._parameter.stop()

    def _found(self, model: Any) -> list[Any]:
        every = updating_optimizers(model)
        found = [o for o in every if o is self.optimizer] if self.optimizer is not None else every
        if not found:
            raise ValueError(
                f"ParameterSchedule: {type(self.optimizer).__name__} does not train the model {model.name!r}. Give the "
                "very object that the model was compiled with, or that is in its Partition."
            )
        if self.name in ("learning_rate", "lr"):
            raise ValueError(
                "ParameterSchedule: the learning rate has ways of its own. Give the optimizer a schedule, or use "
                "LearningRateDecay."
            )
        ours = [o for o in found if hasattr(o, "live")]
        if not ours:
            kind = type(found[0])
            raise TypeError(
                f"ParameterSchedule cannot set {self.name!r} of {kind.__module__}.{kind.__name__}, where it is a "
                "constant in the compiled step. Use the optimizer of the same name in keras_optreg.optimizers."
            )
        able = [o for o in ours if self.name in o.live.candidates()]
        taken = {id(o) for other in self._siblings(model) for o in other._parameter.optimizers}
        if any(id(o) in taken for o in able):
            raise ValueError(f"ParameterSchedule: two schedules set {self.name!r} of one optimizer. Leave one out.")
        return able or ours[:1]  # which says why not

    def _siblings(self, model: Any) -> list["ParameterSchedule"]:
        """Those that set the same number in this fit, and have begun."""
        others = [a for a in getattr(getattr(model, "history", None), "actions", ()) if a is not self]
        return [other for other in others if isinstance(other, ParameterSchedule) and other.name == self.name]

    def _apply(self, t: int) -> None:
        value = float(self.schedule(t))
        if all(now == value for now in self._parameter.values()):
            return
        _ = self.model  # on JAX this brings the state to the host, so that what is set here is not overwritten
        for optimizer in self._parameter.optimizers:
            self._parameter.set(optimizer, value)

    def _value(self) -> float:
        return self._parameter.values()[0]
