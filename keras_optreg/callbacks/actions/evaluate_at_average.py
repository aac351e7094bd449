"""Validate, predict and save with the averaged weights, and train on with the others."""

from typing import Any

from keras_optreg.callbacks.actions.swapped_weights import SwappedWeights, copy_of
from keras_optreg.introspection import averaging_optimizers, inner_optimizer


class EvaluateAtAverage(SwappedWeights):
    """Puts the average into the model for validation, prediction, checkpoints and the end of training, and back.

    When to use it: with optimizers whose average is their result: `ScheduleFreeSGD`, `ScheduleFreeAdamW`, `Lookahead`.
    Place it before callbacks that save or copy weights at the end of an epoch, such as `ModelCheckpoint`.

    Training goes on from the very weights it had: with and without validation it gives the same numbers. A model that
    was saved at the average and loaded trains on where it was. Weights that another callback loads at the end of an
    epoch are overwritten when the next one begins.

    Args:
        batch_norm_data: Inputs from the training data, for models with batch normalisation, whose statistics belong
            to the weights that made them: an array, a list or a dict of arrays (a model with several inputs), or an
            iterable of batches `(x, y)`, such as a dataset. Before every evaluation the statistics are computed anew
            from all of it, as the mean over its batches. Some thousand examples are enough.
        batch_size: Examples in one batch of `batch_norm_data`, when that is arrays.

    Raises:
        TypeError: At the start of training or evaluation, when the optimizer has no average of its own.

    Example:
        ```python
        model.compile(kor.optimizers.ScheduleFreeAdamW(2.5e-3, warmup_steps=500), "mse")
        model.fit(x, y, validation_split=0.1, epochs=20, callbacks=[
            kor.callbacks.EvaluateAtAverage(), keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True)])
        ```

    Reference:
        Defazio et al., "The road less scheduled", 2024, arXiv:2405.15682; for the statistics, Izmailov et al.,
        "Averaging weights leads to wider optima and better generalization", 2018, section 3.
    """

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        for optimizer in self._optimizers():
            optimizer.is_evaluated_at_average = True

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        for optimizer in self._optimizers():
            optimizer.is_evaluated_at_average = False
        self.reset()

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        for optimizer in self._optimizers():  # in a new fit, perhaps from a file that a callback has just loaded
            optimizer.to_training_point()

    def _optimizers(self) -> list[Any]:
        found = averaging_optimizers(self.model)
        if not found:
            kind = type(inner_optimizer(self.model)).__name__
            raise TypeError(
                f"EvaluateAtAverage: {kind} has no average to evaluate. It is for ScheduleFreeSGD, ScheduleFreeAdamW "
                "and Lookahead of keras_optreg.optimizers; WeightAveraging averages the weights of any other."
            )
        return found

    def _put_average(self) -> list[Any] | None:
        waiting = [o for o in self._optimizers() if o.built and not o.is_at_average()]
        kept = [(o, [(v, copy_of(v)) for v in o._trainable_variables]) for o in waiting]
        for optimizer in waiting:
            optimizer.to_average()
        return kept if any(o.is_at_average() for o in waiting) else None  # there is none before the first update

    def _put_back(self, kept: list[Any]) -> None:
        for optimizer, weights in kept:
            optimizer.to_training_point(weights)
