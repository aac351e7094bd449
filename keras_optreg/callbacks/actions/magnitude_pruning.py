"""Set the smallest weights to zero, more and more of them, and keep them there."""

from math import inf
from typing import Any

import numpy as np
from keras import ops

from keras_optreg import select
from keras_optreg.bounds import COUNT, FRACTION, POSITIVE_COUNT, Interval, check
from keras_optreg.callbacks.actions.action import Action
from keras_optreg.table import Table


class MagnitudePruning(Action):
    """Sets the smallest weights to zero while training, more and more of them, and keeps them there.

    When to use it: a network of which most weights are zero at nearly the accuracy of the full one; it wants a trained
    or half-trained model to begin with, a few epochs from `begin_step` to `end_step`, and some more after that. List it
    after callbacks that put other weights into the model (`EvaluateAtAverage`, `SwapEMAWeights`, `EarlyStopping` with
    `restore_best_weights`) and before those that save (`ModelCheckpoint`).

    At the steps t₀, t₀ + Δt, ... and at t₁ the share of zeros becomes

        s(t) = s_f + (s_i − s_f)(1 − (t − t₀)/(t₁ − t₀))³           (equation 1, with t₁ = t₀ + nΔt)

    which is fast at first, while there is much to choose from, and slow at the end. Of n weights, round(s·n) are then
    zero, exactly: those with the smallest |w|, of equal ones the first. A pruned weight never comes back: after every
    batch, and wherever else in `fit` weights may have been replaced, it is set to zero again, so that validation,
    checkpoints and the end of `fit` have the zeros, with `use_ema`, `Lookahead` and Schedule-Free, too.

    Steps are `optimizer.iterations`, the real updates of the model's whole life, also under gradient accumulation; a
    second `fit` goes on, and one that begins behind a pruning step prunes at once. What was pruned is read off the
    weights: in a `fit` that begins after step t₀, a selected weight that is exactly zero is taken as pruned.
    `state_dict` says it without that guess. With `steps_per_execution=k` zeros are set after every k steps, and the
    steps between them move pruned weights. Frozen weights are left alone.

    Args:
        final_sparsity: s_f, the share of zeros at the end, in [0, 1).
        end_step: t₁, the step of the last pruning; with `end_step=begin_step` it is the only one.
        begin_step: t₀, the step of the first pruning.
        every: Δt, steps between prunings.
        initial_sparsity: s_i, the share of zeros at t₀; at most `final_sparsity`.
        on: A selector; all kernels by default.
        globally: Compare all selected weights with each other, so that layers may end with different shares, instead of
            pruning each weight to s by itself.

    Attributes:
        sparsity: The share of zeros that the masks hold now, over all selected weights.
        masks: For each selected weight a NumPy array of bools, False where it is pruned; None before a first `fit`.

    Raises:
        ValueError: For numbers out of their ranges; in training, when `on` matches no trainable weight, or a state that
            was loaded is of other weights.

    Example:
        ```python
        pruning = MagnitudePruning(0.8, begin_step=1000, end_step=5000)
        model.fit(x, y, epochs=20, callbacks=[pruning])
        print(pruning.report())
        ```

    Reference:
        Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
        arXiv:1710.01878, equation 1. They prune each layer by itself; `globally` is not in the paper.
    """

    state = ("masks",)

    def __init__(
        self,
        final_sparsity: float = 0.8,
        *,
        end_step: int,
        begin_step: int = 0,
        every: int = 100,
        initial_sparsity: float = 0.0,
        on: select.Selector | None = None,
        globally: bool = False,
    ):
        numbers = {
            "final_sparsity": final_sparsity,
            "initial_sparsity": initial_sparsity,
            "begin_step": begin_step,
            "end_step": end_step,
            "every": every,
        }
        check("MagnitudePruning", numbers, {"final_sparsity": FRACTION, "begin_step": COUNT, "every": POSITIVE_COUNT})
        ranges = {
            "initial_sparsity": Interval(0, final_sparsity, high_included=True),
            "end_step": Interval(begin_step, inf, is_count=True),
        }
        check("MagnitudePruning", numbers, ranges)
        self.final_sparsity = final_sparsity
        self.initial_sparsity = initial_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.every = every
        self.on = select.kernels() if on is None else select.as_selector(on)
        self.globally = globally
        super().__init__()

    def reset(self) -> None:
        self.masks: list[np.ndarray] | None = None
        self._weights: list[Any] = []
        self._paths: list[str] = []

    def sparsity_at(self, step: int) -> float:
        """The share of zeros that holds at a step: equation 1 at the last pruning until then, 0 before the first."""
        due = self._last_pruning(step)
        if due is None:
            return 0.0
        done = (due - self.begin_step) / (self.end_step - self.begin_step) if due < self.end_step else 1.0
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * (1 - done) ** 3

    @property
    def sparsity(self) -> float:
        masks = self.masks or []
        return 1 - sum(int(mask.sum()) for mask in masks) / max(sum(mask.size for mask in masks), 1)

    def report(self) -> Table:
        """A row for each weight that the last training pruned: its path, its size, its zeros and their share.

        There are none before a training, also where a state was loaded.
        """
        counts = [(mask.size, mask.size - int(mask.sum())) for mask in self.masks or []]
        rows = [(path, n, zeros, zeros / n) for path, (n, zeros) in zip(self._paths, counts, strict=False)]
        footer = f"{sum(zeros for _, zeros in counts)} of {sum(n for n, _ in counts)} weights are zero"
        return Table(("path", "weights", "zeros", "sparsity"), rows, footer)

    # -------------------------------------------------------------- when

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._weights = []  # found when the model is built, and other callbacks have loaded what they load

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model  # on JAX this brings the state to the host, so that what is set here is not overwritten
        if model.built:
            self._follow(model)

    def on_train_batch_end(self, batch, logs=None):
        self._follow(self.model)

    def on_test_begin(self, logs=None):
        self._set_zeros()

    def on_epoch_end(self, epoch, logs=None):
        self._set_zeros()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs=None):
        self._set_zeros()
        self._weights = []

    # -------------------------------------------------------------- what

    def _last_pruning(self, step: int) -> int | None:
        if step < self.begin_step:
            return None
        return (
            min(step - (step - self.begin_step) % self.every, self.end_step) if step < self.end_step else self.end_step
        )

    def _follow(self, model: Any) -> None:
        """Prune when a pruning step has come, and set the zeros."""
        step = int(ops.convert_to_numpy(model.optimizer.iterations))
        if not self._weights:
            self._find_weights(model, step)
        due = self._last_pruning(step)
        if due != self._pruned_at:
            self._prune(self.sparsity_at(step))
            self._pruned_at = due
        self._set_zeros()

    def _find_weights(self, model: Any, step: int) -> None:
        trainable = [v for v in model.trainable_variables if not getattr(v, "overwrite_with_gradient", False)]
        self._weights = [trainable[i] for i in self.on.resolve(trainable, "MagnitudePruning(on=...)")]
        self._paths = [select.path_of(v) for v in self._weights]
        self._pruned_at: int | None = None
        shapes = [tuple(v.shape) for v in self._weights]
        if self.masks is None:
            # Until the first pruning a zero is the initializer's, and no sign of anything.
            is_late = step > self.begin_step
            masks = [
                _numpy_of(v) != 0 if is_late else np.ones(s, bool) for v, s in zip(self._weights, shapes, strict=True)
            ]
        elif [mask.shape for mask in self.masks] == shapes:
            masks = self.masks
        else:
            raise ValueError(
                f"MagnitudePruning has the state of weights of the shapes {[mask.shape for mask in self.masks]}, and "
                f"`on` selects weights of the shapes {shapes}. Load the state of the same model and selector."
            )
        self._keep(masks)

    def _prune(self, sparsity: float) -> None:
        masks = self.masks or []
        # What is pruned already is smaller than anything, also than a zero that is not.
        sizes = [np.where(mask, np.abs(_numpy_of(v)), -1.0) for v, mask in zip(self._weights, masks, strict=True)]
        if self.globally:
            together = _without_smallest(np.concatenate([size.ravel() for size in sizes]), sparsity)
            ends = np.cumsum([size.size for size in sizes])[:-1]
            flat = np.split(together, ends)
        else:
            flat = [_without_smallest(size.ravel(), sparsity) for size in sizes]
        self._keep([mask.reshape(size.shape) for mask, size in zip(flat, sizes, strict=True)])

    def _keep(self, masks: list[np.ndarray]) -> None:
        self.masks = masks
        self._on_device = [ops.convert_to_tensor(mask) for mask in masks]

    def _set_zeros(self) -> None:
        _ = self.model  # as above
        for variable, mask in zip(self._weights, self._on_device if self._weights else [], strict=True):
            value = ops.convert_to_tensor(variable)
            variable.assign(ops.where(mask, value, ops.zeros_like(value)))


def _numpy_of(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(variable, "float32"))


def _without_smallest(sizes: np.ndarray, share: float) -> np.ndarray:
    """False for the smallest, of equal ones the first, and for all that are negative; True for the rest."""
    n = max(round(share * sizes.size), int((sizes < 0).sum()))
    if n == 0:
        return np.ones(sizes.shape, bool)
    largest = np.partition(sizes, n - 1)[n - 1]
    keep = ~(sizes <= largest)
    ties = np.flatnonzero(sizes == largest)
    keep[ties[n - np.count_nonzero(sizes < largest) :]] = True
    return keep
