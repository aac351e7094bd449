"""Gradients that get lost, or too large, on their way through the layers; and units that let none through."""

import re

import numpy as np

from keras_optreg.diagnosis.recorded import Curve, Recorded
from keras_optreg.diagnosis.rule import EPOCHS, Rule, number

_MATRICES = re.compile(r"(kernel|embeddings)$")


def _by_layer(run: Recorded) -> dict[str, float]:
    """The typical gradient of each matrix, in the order of the model; not of biases, gains and states."""
    found = {}
    for path, curve in run.each("gradient_norm").items():
        finite = curve.values[np.isfinite(curve.values)]
        if _MATRICES.search(path) and finite.any():
            found[path] = float(np.median(finite))
    return {path: norm for path, norm in found.items() if norm > 0}


class VanishingGradients(Rule):
    """A layer's gradient is a thousandth of another's, or less.

    Medians over the training of the norms for kernels and embeddings. Those that are exactly zero are of dead units;
    where gradients explode, it is the large ones that are wrong.
    """

    RATIO = 1e-3
    name = "vanishing gradients"
    needs = (("gradient_norm",),)
    remedy = (
        "relu, gelu or silu in place of sigmoid and tanh; he_normal or glorot_uniform as initializer; residual "
        "connections; BatchNormalization or LayerNormalization; LSTM or GRU in place of SimpleRNN."
    )
    source = 'Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010'

    def evidence(self, run: Recorded) -> str | None:
        typical = _by_layer(run)
        if len(typical) < 2 or ExplodingGradients().evidence(run):
            return None
        largest = max(typical, key=typical.__getitem__)
        starved = [path for path, norm in typical.items() if norm < self.RATIO * typical[largest]]
        if not starved:
            return None
        least = min(starved, key=typical.__getitem__)
        others = f", and {len(starved) - 1} other layers below a thousandth" if len(starved) > 1 else ""
        return (
            f"the gradient of {least} has a norm of {number(typical[least])}, that of {largest} "
            f"{number(typical[largest])}, {typical[largest] / typical[least]:.0e} times as much{others}."
        )


class ExplodingGradients(Rule):
    """Gradients are not finite, or leap, or the loss hangs on the last digits of the weights.

    Any of: a norm is NaN or infinite; it is a hundred times the median of its ten neighbours, and above the first;
    in the first epoch ‖gradient‖ · ‖weights‖ / loss is above a thousand (medians), where 1 to 100 is usual: a change of
    the weights by a thousandth, as a usual update makes, would change the loss by as much as the loss itself.
    """

    FACTOR, NEIGHBOURS, SENSITIVITY = 100.0, 5, 1e3
    name = "exploding gradients"
    needs = (("gradient_norm",),)
    remedy = (
        "gradient clipping (global_clipnorm=1.0 of any optimizer); smaller initial weights (glorot_uniform, "
        "orthogonal); normalization layers; LSTM or GRU in place of SimpleRNN; NaNGuard."
    )
    source = (
        'Pascanu et al., "On the difficulty of training recurrent neural networks", 2013; Schoenholz et al., "Deep '
        'information propagation", 2017 (from layer to layer)'
    )

    def evidence(self, run: Recorded) -> str | None:
        norms = run.get("gradient_norm")
        return None if norms is None else self._leap(run, norms) or self._sensitivity(run, norms)

    def _leap(self, run: Recorded, norms: Curve) -> str | None:
        usual = _median_of_neighbours(norms.values, self.NEIGHBOURS)
        leaps = (usual > 0) & (norms.values > np.maximum(self.FACTOR * usual, norms.values[0]))
        found = np.flatnonzero(leaps | ~np.isfinite(norms.values))
        if not found.size:
            return None
        i = int(found[0])
        about = "" if np.isnan(usual[i]) else f"; about it, {number(usual[i])}"
        return f"the norm of the gradient is {number(norms.values[i])} at {norms.where(i)}{_most_of_it(run, i)}{about}."

    def _sensitivity(self, run: Recorded, norms: Curve) -> str | None:
        loss, weights = run.of_data(), run.get("weight_norm")
        if loss is None or weights is None or not np.isfinite(loss.values[0]) or loss.values[0] <= 0:
            return None
        early = -(-len(norms) // len(loss))
        gradient, weight = float(np.median(norms.values[:early])), float(np.median(weights.values[:early]))
        if gradient * weight <= self.SENSITIVITY * loss.values[0]:
            return None
        return (
            f"in the first epoch the norm of the gradient is {number(gradient)}{_most_of_it(run, early // 2)}, beside "
            f"weights of norm {number(weight)} and a loss of {number(loss.values[0])}."
        )


def _median_of_neighbours(values: np.ndarray, reach: int) -> np.ndarray:
    """Of the finite ones, `reach` before and `reach` behind; NaN where there are fewer than `reach`."""
    padded = np.pad(np.where(np.isfinite(values), values, np.nan), reach, constant_values=np.nan)
    windows = np.delete(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), reach, axis=1)
    windows = np.sort(windows, axis=1)  # NaN last
    count = np.isfinite(windows).sum(axis=1)
    rows = np.arange(len(values))
    middle = (windows[rows, np.maximum(count - 1, 0) // 2] + windows[rows, np.minimum(count // 2, 2 * reach - 1)]) / 2
    return np.where(count >= reach, middle, np.nan)


def _most_of_it(run: Recorded, index: int) -> str:
    """The weight with the largest gradient there; not finite is more than any number."""
    there = {path: curve.values[index] for path, curve in run.each("gradient_norm").items() if index < len(curve)}
    return f", most of it in {max(there, key=lambda path: np.nan_to_num(there[path], nan=np.inf))}" if there else ""


class DeadUnits(Rule):
    """Of a layer's units, four in ten or more are never active; or a kernel gets no gradient at all.

    The first as the probe `DeadUnits` measured it last; the second where `GradientNorm` of a kernel is exactly zero in
    the last quarter of the measurements.
    """

    FRACTION, PART = 0.4, 0.25
    name = "dead units"
    needs = (("dead_units",), ("gradient_norm",))
    remedy = (
        "a smaller learning rate or a warm-up; leaky_relu, gelu or elu in place of relu; biases that start at zero; "
        "inputs of mean 0 and variance 1."
    )
    source = (
        'Stanford CS231n, notes on activation functions, 2015; Lu et al., "Dying ReLU and initialization: theory and '
        'numerical examples", 2020'
    )

    def evidence(self, run: Recorded) -> str | None:
        dead = {layer: curve.values[-1] for layer, curve in run.each("dead_units").items()}
        many = [f"{share:.0%} of the units of {layer}" for layer, share in dead.items() if share >= self.FRACTION]
        if many:
            return f"{', '.join(many)} are zero for all examples."
        norms = {path: curve.values for path, curve in run.each("gradient_norm").items() if _MATRICES.search(path)}
        long = {path: values for path, values in norms.items() if len(values) >= EPOCHS}
        none = [path for path, values in long.items() if not values[-max(2, round(self.PART * len(values))) :].any()]
        return f"the gradient of {', '.join(none)} is exactly zero." if none else None
