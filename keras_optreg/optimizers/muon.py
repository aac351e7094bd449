"""Muon: momentum whose update is made orthogonal. Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg import select
from keras_optreg.bounds import FRACTION, NON_NEGATIVE, POSITIVE_COUNT
from keras_optreg.optimizers.matrices import as_matrix, newton_schulz
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor, Variable


def muon(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    momentum: float,
    nesterov: bool,
    newton_schulz_steps: int,
    update_rms: float,
) -> Step:
    """Jordan's update, in Liu et al.'s scale where `update_rms` is not 0."""
    m = moving_average(state["m"], g, momentum)
    u = as_matrix(moving_average(g, m, 1 - momentum) if nesterov else m)
    rows, columns = u.shape
    scale = update_rms * max(rows, columns) ** 0.5 if update_rms else max(1.0, columns / rows) ** 0.5
    return Step(-lr * scale * ops.reshape(newton_schulz(u, newton_schulz_steps), g.shape), {"m": m})


@keras.saving.register_keras_serializable("keras_optreg")
class Muon(RuleOptimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix: all directions move alike.

    When to use it: the hidden matrices of transformers and other large networks. `Partition` gives embeddings, the
    output layer, biases and scales to another optimizer.

        head = select.matching("(^|/)head/")
        Partition([(select.kernels() & ~head, Muon(1e-3))], rest=AdamW(1e-3))

    Equations (a weight is the matrix (inputs, outputs) of shape A × B):

        m ← μ·m + (1 − μ)·g,        u = (1 − μ)·g + μ·m with `nesterov`, else m
        O = U·Vᵀ of u = U·S·Vᵀ, about, by Newton-Schulz steps
        w ← w − α·0.2·√max(A, B)·O          (`update_rms=0`: α·√max(1, B/A)·O)

    Args:
        learning_rate: number >= 0, schedule or callable. 0.001: with `update_rms=0.2` it is that of AdamW. Jordan's
            0.02 belongs to `update_rms=0`.
        momentum: μ in [0, 1). 0.95 as in Jordan's code.
        nesterov: look ahead with the present gradient, as Jordan does.
        newton_schulz_steps: products, >= 1. 5 as in Jordan's code.
        update_rms: the root mean square of the update at a learning rate of 1, >= 0. 0.2, about that of AdamW, as in
            Liu et al.; 0 for Jordan's own scale.
        **options: what all optimizers take, see `SGD`. Liu et al. use `weight_decay=0.1`. No proximal penalties: a
            constant gradient does not move a weight in proportion.

    Raises:
        ValueError: for a number outside its range, an unknown argument or a proximal penalty; when built with vectors
            or embeddings, for which the method is not made.

    Example:
        >>> import keras
        >>> w = keras.Variable([[1.0, 0.0], [0.0, 2.0]])
        >>> Muon(0.1).apply([keras.ops.array([[3.0, 0.0], [0.0, 0.01]])], [w])
        >>> [round(float(x), 3) for x in keras.ops.convert_to_numpy(w).ravel()]      # both directions, not the first
        [0.98, 0.0, 0.0, 1.967]

    Differs: `keras.optimizers.Muon` brings an Adam of its own for the weights it leaves out, with arguments for it, and
    chooses them by name and rank; on a matrix both agree. In float32, where Jordan's code has bfloat16. A filter is
    one matrix, its window among the inputs; the kernels of `MultiHeadAttention`, (inputs, heads, size), are seen as
    (inputs · heads, size). Cost: `benchmarks/matrix_cost.py`.

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is scalable
        for LLM training", 2025, arXiv:2502.16982.
    """

    slots = {"m": ZEROS}
    bounds = {"momentum": FRACTION, "newton_schulz_steps": POSITIVE_COUNT, "update_rms": NON_NEGATIVE}
    constants = ("update_rms",)
    rule = staticmethod(muon)
    elementwise = False

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        newton_schulz_steps: int = 5,
        update_rms: float = 0.2,
        **options: Unpack[BaseOptions],
    ):
        own = {"momentum": momentum, "nesterov": nesterov}
        own |= {"newton_schulz_steps": newton_schulz_steps, "update_rms": update_rms}
        super().__init__(learning_rate, own=own, **options)

    def build(self, variables: Sequence[Variable]) -> None:
        """As every optimizer's, for matrices only."""
        embeddings = set(select.embeddings().positions(variables))
        others = [select.path_of(v) for i, v in enumerate(variables) if len(v.shape) < 2 or i in embeddings]
        if others:
            raise ValueError(
                f"Muon is for hidden matrices, and got {', '.join(others)}. Give these to another optimizer: "
                "Partition([(select.kernels(), Muon(1e-3))], rest=AdamW(1e-3))."
            )
        super().build(variables)
