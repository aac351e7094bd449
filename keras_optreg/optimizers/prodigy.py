"""Prodigy: Adam that finds its own learning rate. Mishchenko & Defazio 2024, Algorithm 4, arXiv:2306.06101."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE, POSITIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import WEIGHT, ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor

Tensors = dict[str, Tensor]


def prodigy(
    g: Tensor,
    w: Tensor,
    state: Tensors,
    *,
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
    shared: Tensors,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    initial_distance: float,
) -> Step:
    """One step with the distance of the last one, as Algorithm 4 has it; d grows in `share`."""
    d = ops.cast(shared["d_before"], w.dtype)
    m = moving_average(state["m"], d * g, beta_1)
    v = moving_average(state["v"], ops.square(d * g), beta_2)
    s = _gradients(g, state, lr * d * (d / initial_distance), beta_2)
    delta = -lr * d * (m / (ops.sqrt(v) + d * epsilon) + wd * w)
    return Step(delta, {"m": m, "v": v, "s": s, "w0": state["w0"]})


def _gradients(g: Tensor, state: Tensors, weight: Tensor, beta_2: float) -> Tensor:
    """s: the moving sum of gradients. Both sums are divided by d₀, which cancels: d₀² is small for float32."""
    return moving_average(state["s"], weight * g, beta_2**0.5)


def measure(g: Tensor, w: Tensor, state: Tensors, shared: Tensors, *, lr: Tensor, t: Tensor, **own: float) -> Tensors:
    """The two sums over all weights from which the distance is estimated."""
    d = ops.cast(shared["d"], w.dtype)
    weight = lr * d * (d / own["initial_distance"])
    s = _gradients(g, state, weight, own["beta_2"])
    return {"r": weight * ops.sum(g * (state["w0"] - w)), "s_1": ops.sum(ops.abs(s))}


def share(shared: Tensors, sums: Tensors, *, lr: Tensor, t: Tensor, **own: float) -> Tensors:
    """D ← max(d, r/‖s‖₁): a lower bound of the distance from the first weights to a solution."""
    r = moving_average(shared["r"], sums["r"], own["beta_2"] ** 0.5)
    found = r / ops.maximum(sums["s_1"], 1e-30)
    return {"r": r, "d": ops.maximum(shared["d"], found), "d_before": shared["d"]}


@keras.saving.register_keras_serializable("keras_optreg")
class Prodigy(RuleOptimizer):
    """Adam whose learning rate is an estimate of how far the solution is, which grows while training.

    When to use it: no time to tune the rate. Leave it at 1, with a cosine or linear decay to 0 over the run.

    Equations (d: the distance estimated so far, starts at `initial_distance`; γ = `learning_rate`):

        m ← β₁·m + (1 − β₁)·d·g          v ← β₂·v + (1 − β₂)·d²·g²
        r ← √β₂·r + (1 − √β₂)·γ·d²·⟨g, w₀ − w⟩          s ← √β₂·s + (1 − √β₂)·γ·d²·g
        w ← w − γ·d·m/(√v + d·ε),        d ← max(d, r/‖s‖₁)          sums over all weights of the model

    Args:
        learning_rate: number >= 0, schedule or callable. 1 as in the paper: a factor on the distance that was found.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.999 as in the paper.
        epsilon: ε >= 0. 1e-8 as in the paper.
        initial_distance: d₀ > 0, any number well below the distance to the solution. 1e-6 as in the paper.
        **options: what all optimizers take, see `SGD`. `weight_decay` λ shrinks weights by γ·d·λ. No proximal
            penalties: the estimate knows nothing of them.

    Raises:
        ValueError: for a number outside its range, an unknown argument or a proximal penalty.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Prodigy(initial_distance=0.01)
        >>> for _ in range(4):
        ...     optimizer.apply([2 * w], [w])
        >>> [round(float(x), 3) for x in keras.ops.convert_to_numpy(w)]
        [0.621, -1.625]

    Differs: follows Algorithm 4, where a step uses the distance of the last one throughout; the authors' code has the
    new one beside ε. No correction of bias, as in both.
    """

    slots = {"m": ZEROS, "v": ZEROS, "s": ZEROS, "w0": WEIGHT}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE, "initial_distance": POSITIVE}
    constants = ("initial_distance",)
    rule = staticmethod(prodigy)
    measure = staticmethod(measure)
    share = staticmethod(share)
    takes_decay = True

    def __init__(
        self,
        learning_rate: Any = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        initial_distance: float = 1e-6,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "initial_distance": initial_distance}
        super().__init__(learning_rate, own=own, **options)

    @property
    def shared_slots(self) -> dict[str, float]:
        """The sum r, and the distances of the next step and of this one, from `initial_distance`."""
        return {"r": 0.0, "d": self.initial_distance, "d_before": self.initial_distance}
