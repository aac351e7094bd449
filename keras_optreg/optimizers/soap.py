"""SOAP: Adam in the eigenbasis of Shampoo. Vyas et al. 2024, Algorithm 3, arXiv:2409.11321."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE, POSITIVE_COUNT
from keras_optreg.optimizers.matrices import as_matrix, matrix_shape, next_basis, rotated, rotated_back
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Scalar, Shaped, Step
from keras_optreg.typing import BaseOptions, Tensor

Tensors = dict[str, Tensor]


def soap(
    g: Tensor,
    w: Tensor,
    state: Tensors,
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    precondition_every: int,
    max_size: int,
) -> Step:
    """Algorithm 3; the first gradient of a weight gives its basis and moves nothing, as in the authors' code."""
    n, is_first = state["n"], ops.equal(state["n"], 0)
    m = ops.where(is_first, state["m"], moving_average(state["m"], g, beta_1))
    v = ops.where(is_first, state["v"], moving_average(state["v"], ops.square(rotated(g, state)), beta_2))
    steps = ops.maximum(n, 1.0)
    alpha = lr * ops.sqrt(1 - ops.power(beta_2, steps)) / (1 - ops.power(beta_1, steps))
    step = rotated_back(rotated(m, state) / (ops.sqrt(v) + epsilon), state)
    is_due = ops.logical_and(ops.logical_not(is_first), ops.equal(ops.mod(n, precondition_every), 0))
    basis = next_basis(as_matrix(g), state, beta_2, is_first, is_due)
    return Step(ops.where(is_first, 0.0, -alpha * step), {"m": m, "v": v, "n": n + 1, **basis})


@keras.saving.register_keras_serializable("keras_optreg")
class SOAP(RuleOptimizer):
    """Adam in the directions along which the gradients of a matrix vary independently.

    When to use it: large batches and few steps, where a step may cost more. Start from Adam's settings.

    Equations (a weight is the matrix (inputs, outputs); L, R: covariances of its rows and columns):

        g′ = Q_Lᵀ·g·Q_R                            m ← β₁·m + (1 − β₁)·g,    v ← β₂·v + (1 − β₂)·g′²
        w ← w − α·Q_L·(Q_Lᵀ·m̂·Q_R / (√v̂ + ε))·Q_Rᵀ
        L ← β₂·L + (1 − β₂)·g·gᵀ,  R ← β₂·R + (1 − β₂)·gᵀ·g
        every `precondition_every` steps    Q_L ← QR(L·Q_L),  Q_R ← QR(R·Q_R)

    Args:
        learning_rate: number >= 0, schedule or callable. 0.003 as in the paper. A learning rate of 1 moves a weight
            by about 1 along each direction.
        beta_1: β₁ in [0, 1). 0.95 as in the paper.
        beta_2: β₂ in [0, 1). 0.95 as in the paper.
        epsilon: ε >= 0, beside √v before its correction. 1e-8 as in the paper.
        precondition_every: updates between two changes of the basis, >= 1. 10 as in the paper.
        max_size: a side longer than this keeps its own axes, >= 1. 10000 as in the authors' code.
        **options: what all optimizers take, see `SGD`. The paper uses `weight_decay=1e-4`. No proximal penalties: in
            another basis they have another map.

    Raises:
        ValueError: for a number outside its range, an unknown argument or a proximal penalty.

    Example:
        >>> import keras
        >>> w = keras.Variable([[1.0, 2.0], [2.0, 1.0]])
        >>> optimizer = SOAP(0.1, epsilon=1e-3)
        >>> for _ in range(2):                                    # the first gives the basis
        ...     optimizer.apply([2 * w], [w])
        >>> [round(float(x), 3) for x in keras.ops.convert_to_numpy(w).ravel()]
        [1.0, 1.9, 1.9, 1.0]

    Differs: Algorithm 3 without the sorting between power iterations that the authors' code does. Vectors get Adam, as
    there; filters are one matrix, their window among the inputs. Along directions without any gradient the basis
    depends on the backend. Memory: Adam's, and two square matrices a side. Cost: `benchmarks/matrix_cost.py`.
    """

    bounds = {
        "beta_1": FRACTION,
        "beta_2": FRACTION,
        "epsilon": NON_NEGATIVE,
        "precondition_every": POSITIVE_COUNT,
        "max_size": POSITIVE_COUNT,
    }
    rule = staticmethod(soap)
    elementwise = False

    def __init__(
        self,
        learning_rate: Any = 0.003,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        precondition_every: int = 10,
        max_size: int = 10000,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
        own |= {"precondition_every": precondition_every, "max_size": max_size}
        super().__init__(learning_rate, own=own, **options)

    @property
    def slots(self) -> dict[str, Any]:
        """Moments, a count for each weight, covariances and bases."""

        def side(axis: int) -> Shaped:
            def square(shape: tuple[int, ...]) -> tuple[int, int] | None:
                n = matrix_shape(shape)[axis] if len(shape) > 1 else self.max_size + 1
                return (n, n) if n <= self.max_size else None

            return Shaped(square)

        matrices = {"p_left": side(0), "q_left": side(0), "p_right": side(1), "q_right": side(1)}
        return {"m": ZEROS, "v": ZEROS, "n": Scalar(), **matrices}
