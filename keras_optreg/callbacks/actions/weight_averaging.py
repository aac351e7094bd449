"""Average the weights over training, and evaluate with the average."""

import warnings
from typing import Any

import numpy as np
from keras import ops

from keras_optreg.bounds import CLOSED_FRACTION, COUNT, check
from keras_optreg.callbacks.actions.swapped_weights import SwappedWeights, copy_of
from keras_optreg.introspection import averaging_optimizers, inner_optimizer, num_batches, optimizers_of


class WeightAveraging(SwappedWeights):
    """Averages the weights as training goes; validation, checkpoints and the end of `fit` have the average.

    When to use it: near the end of a training with a constant, cyclical or slowly falling learning rate, where the
    average lies in a flatter place than any single point and generalises better; or all the way, as a smoothed model.

        ā ← ā + (w − ā)/n              the mean of the weights at n points (SWA), by default
        ā ← decay · ā + (1 − decay)·w  an exponential moving average, with `decay`; it begins as w

    Training itself goes on from w: with and without this callback it gives the same weights until its end, when ā
    stays in the model, also where the optimizer has `use_ema`. Place it before callbacks that save or copy weights at
    the end of an epoch, such as `ModelCheckpoint` or `EarlyStopping(restore_best_weights=True)`. A model saved in
    between is the average; to resume the training, keep this callback's `state_dict()`, which has w as well.
    `ReduceLROnPlateau(restore_best_weights=True)` refuses to stand beside it.

    A point with NaN or infinity in it is left out, with a warning. Each weight is averaged while it trains: one that
    joins (`GradualUnfreezing`) begins its average then, and one that is frozen (`FreezeBatchNorm`) is in the model as
    it was when it was frozen.

    Sums are float32, on the host. For an average of every step in large models, `use_ema=True` of any optimizer of this
    package costs less: it is taken inside the compiled step.

    Args:
        decay: in [0, 1], near 1 for a long memory: 0.9 is about the last 10 points; None for the plain mean.
        every: `"epoch"`, the weights at the end of each, or a number of updates.
        start: the first epoch that counts, from 0, or with a number for `every` the updates before the first that may.
            The paper averages the last quarter of the training.
        batch_norm_data: inputs from the training data, for models with batch normalisation, whose statistics belong
            to the weights that made them: an array, a list or a dict of arrays (a model with several inputs), or an
            iterable of batches `(x, y)`, such as a dataset. Before every evaluation the statistics are computed anew
            from all of it, as the mean over its batches. Some thousand examples are enough.
        batch_size: examples in one batch of `batch_norm_data`, when that is arrays.

    Attributes:
        count: how many points are in the average.
        skipped: how many were left out, because they were not finite.
        average: the average of each weight that has trained, a float32 array, by its place in `model.weights`; empty
            before the first point.
        training_weights: what training goes on from, while the average is in the model, or None; part of the state.

    Raises:
        ValueError: for numbers out of their ranges.
        TypeError: at the start of training, when the optimizer has an average of its own (`ScheduleFreeSGD`,
            `ScheduleFreeAdamW`, `Lookahead`); `EvaluateAtAverage` is for these.

    Example:
        ```python
        averaging = kor.callbacks.WeightAveraging(start=15, batch_norm_data=x_train[:2048])
        model.fit(x_train, y_train, validation_split=0.1, epochs=20, callbacks=[averaging])
        ```

    Reference:
        Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018, arXiv:1803.05407,
        algorithm 1. The moving average: Polyak & Juditsky, 1992.

    Differs: `keras.callbacks.SwapEMAWeights` leaves the average in the model after `predict`, keeps the statistics of
    batch normalisation of the other weights, and needs an optimizer with `use_ema`.
    """

    state = ("count", "skipped", "average", "training_weights", "_counts")

    def __init__(
        self,
        decay: float | None = None,
        every: int | str = "epoch",
        start: int = 0,
        batch_norm_data: Any = None,
        batch_size: int = 128,
    ):
        check("WeightAveraging", {"start": start}, {"start": COUNT})
        if decay is not None:
            check("WeightAveraging", {"decay": decay}, {"decay": CLOSED_FRACTION})
        if every != "epoch" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(
                f"The `every` of WeightAveraging is 'epoch' or a number of updates >= 1. Received: every={every!r}"
            )
        self.decay = decay
        self.every = every
        self.start = start
        super().__init__(batch_norm_data, batch_size)

    def reset(self) -> None:
        super().reset()
        self.count = 0
        self.skipped = 0
        self.average: dict[int, np.ndarray] = {}
        self._counts: dict[int, int] = {}  # the points of each weight: some join later
        self.training_weights: Any = None

    def outcome(self) -> str | None:
        if not self.skipped:
            return None
        return f"averaged {self.count} points; {self.skipped} with NaN or infinity were left out"

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if averaging := averaging_optimizers(self.model):
            raise TypeError(
                f"WeightAveraging averages the weights of optimizers that have no average of their own. Received: "
                f"{type(averaging[0]).__name__}. Use EvaluateAtAverage() instead, which evaluates with its average."
            )
        self._kept = self.training_weights

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._is_due = self.every == "epoch" and epoch >= self.start
        if self.every != "epoch":
            optimizer = inner_optimizer(self.model)
            self._before, self._accumulated = num_batches(optimizer), optimizer.gradient_accumulation_steps or 1
            self._seen = self._before

    def on_train_batch_end(self, batch, logs=None):
        if isinstance(self.every, str):
            return
        before, self._seen = self._seen // self._accumulated, self._before + batch + 1
        after = self._seen // self._accumulated
        if after > self.start and after // self.every > before // self.every:
            self._take_in()

    def on_test_begin(self, logs=None):
        if self._is_training:
            self._end_of_epoch()
        super().on_test_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._end_of_epoch()
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self._kept = None  # the average stays in the model
        if any(o.use_ema for o in optimizers_of(self.model)):
            self._put_average()  # Keras has just overwritten it with the optimizer's
        if not self.count and not self.skipped:
            warnings.warn(
                f"WeightAveraging has averaged nothing: training ended before start={self.start} "
                f"{'epochs' if self.every == 'epoch' else 'updates'} were over. The model has its last weights.",
                stacklevel=2,
            )

    def _end_of_epoch(self) -> None:
        if self._is_due:  # once, before validation where there is any
            self._is_due = False
            self._take_in()

    def _take_in(self) -> None:
        weights = self._trained()
        if weights and not ops.all(ops.stack([ops.all(ops.isfinite(w)) for w in weights.values()])):
            self._skip()
            return
        self.count += 1
        for i, variable in weights.items():
            w = copy_of(variable).astype("float32")
            self._counts[i] = self._counts.get(i, 0) + 1
            share = 1 / self._counts[i] if self.decay is None else 1 - self.decay
            average = self.average.get(i, w)
            self.average[i] = average + (w - average) * share

    def _skip(self) -> None:
        if not self.skipped:
            warnings.warn(
                "WeightAveraging leaves out a point of the average, and all others like it: weights are NaN or "
                "infinite. NaNGuard() stops such a training and says where it began.",
                stacklevel=2,
            )
        self.skipped += 1

    def _trained(self) -> dict[int, Any]:
        """The weights that train now, by their places among all, which stay when others join or leave."""
        trainable = {id(w) for w in self.model.trainable_variables}
        return {i: w for i, w in enumerate(self.model.weights) if id(w) in trainable}

    def _enter(self) -> None:
        super()._enter()
        if self._is_training:
            self.training_weights = self._kept

    def _leave(self) -> None:
        super()._leave()
        if self._is_training:
            self.training_weights = None

    def _put_average(self) -> Any:
        weights = {i: w for i, w in self._trained().items() if i in self.average}
        kept = {i: copy_of(w) for i, w in weights.items()}
        for i, w in weights.items():
            w.assign(ops.cast(self.average[i], w.dtype))
        return kept or None

    def _put_back(self, kept: Any) -> None:
        weights = self.model.weights
        for i, value in kept.items():
            weights[i].assign(value)
