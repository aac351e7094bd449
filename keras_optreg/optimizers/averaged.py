"""Optimizers that train one point and are judged at another: what a model holds, and when."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_optreg.optimizers.compiled_step import assign_all
from keras_optreg.optimizers.update_order import Pairs
from keras_optreg.typing import Variable

ADVICE = "Add keras_optreg.callbacks.EvaluateAtAverage() to the callbacks of fit"


class Averaged(keras.optimizers.Optimizer):
    """Mixed into an optimizer whose average, and not the point where it takes gradients, is the result of training.

    While training, the model holds the training point. `to_average` puts the average there, which Keras asks for at
    the end of `fit`; the next update goes on from the training point, also after saving and loading, because
    `at_average` is saved.
    """

    at_average: Any = None
    """1 while the model holds the average."""
    is_evaluated_at_average = False
    """Whether `EvaluateAtAverage` sees to it."""
    _has_warned = False

    def build(self, variables: Sequence[Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.at_average = self.add_variable((), "zeros", name="at_average", aggregation="only_first_replica")

    def averages(self) -> Pairs:
        """Every weight with the value to evaluate; read at the training point."""
        raise NotImplementedError

    def training_points(self) -> Pairs:
        """Every weight with the value to train, read at the average."""
        raise NotImplementedError

    def to_average(self) -> None:
        """Put the average into the weights. Nothing happens where it is there, or before the first update."""
        if self._is_at_training_point():
            assign_all([*self.averages(), (self.at_average, ops.ones(()))])

    def to_training_point(self, kept: Pairs = ()) -> None:  # type: ignore[assignment]
        """Put the training point back into the weights: `kept`, where someone kept it to the last bit."""
        if self.is_at_average():
            assign_all([*(kept or self.training_points()), (self.at_average, ops.zeros(()))])

    def is_at_average(self) -> bool:
        """Whether the weights are the average now."""
        return self.built and bool(ops.convert_to_numpy(self.at_average) > 0)

    def _is_at_training_point(self) -> bool:
        """Whether there is an average, and the weights are not it. Before the first update there is none."""
        return self.built and not self.is_at_average() and int(ops.convert_to_numpy(self.iterations)) > 0

    def finalize_variable_values(self, var_list: Sequence[Variable]) -> None:
        """What Keras calls at the end of `fit`, and a loop of one's own should: the average goes into the weights."""
        super().finalize_variable_values(var_list)
        if not self.is_evaluated_at_average:
            self._warn(
                "validation and checkpoints of this fit used the weights at which gradients are taken, not their "
                f"average, and a further fit will take its first gradient at the average. {ADVICE}. (The weights are "
                "the average now.)"
            )
        self.to_average()

    def save_own_variables(self, store: Any) -> None:
        if self._is_at_training_point():
            self._warn(
                "what is being saved holds the weights at which gradients are taken, not their average, which is the "
                "result. Save at the end of an epoch, with EvaluateAtAverage() before the callback that saves, or call "
                "optimizer.to_average() first."
            )
        super().save_own_variables(store)

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(f"{type(self).__name__}: {what}", stacklevel=4)
