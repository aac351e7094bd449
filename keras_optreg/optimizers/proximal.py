"""Proximal gradient methods by name: the rule of SGD or Adagrad, and a penalty that acts by its proximal map."""

from typing import Any

import keras

from keras_optreg.optimizers.adagrad import Adagrad
from keras_optreg.optimizers.sgd import SGD


def _check(owner: str, penalties: Any) -> None:
    if penalties is None:
        raise ValueError(
            f"{owner} needs a penalty for its proximal map: penalties=L1(1e-3), or a list of (selector, penalty) "
            f"pairs. Without one it is {owner.removeprefix('Proximal')}."
        )


@keras.saving.register_keras_serializable("keras_optreg")
class ProximalSGD(SGD):
    """Gradient descent on the loss, then the proximal map of a penalty: ISTA for L1, with exact zeros.

    When to use it: sparse linear models and pruning. Any optimizer here with `penalties=` does the same; this one has
    the method's name, and insists on the penalty.

    Equations (Ω the penalty, α learning rate; with momentum, v as in `SGD`):

        w ← argmin_z ½‖z − (w − α·g)‖² + α·Ω(z)

    Args:
        learning_rate: number >= 0, schedule or callable.
        momentum: μ in [0, 1). The step of the map is then α/(1 − μ), which keeps its fixed points.
        penalties: one penalty, on the kernels, or a list of (selector, penalty) pairs.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: without `penalties`, for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> from keras_optreg.regularizers import L1
        >>> w = keras.Variable([1.0, 0.05], name="kernel")
        >>> ProximalSGD(0.1, penalties=L1(1.0)).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.7, 0.0]

    Reference:
        Beck & Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", 2009.
    """

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.0, *, penalties: Any = None, **options: Any):
        _check("ProximalSGD", penalties)
        super().__init__(learning_rate, momentum, penalties=penalties, **options)


@keras.saving.register_keras_serializable("keras_optreg")
class ProximalAdagrad(Adagrad):
    """Adagrad, then the proximal map of a penalty in Adagrad's own metric: exact zeros with sparse gradients.

    When to use it: wide linear models on rare features, for which it was made.

    Equations (G the sum of squares as in `Adagrad`, Ω the penalty, α learning rate; by coordinate):

        w ← argmin_z ½·√(G + ε)/α·(z − w + α·g/√(G + ε))² + Ω(z)

    Args:
        learning_rate: number >= 0, schedule or callable.
        initial_accumulator_value: where G starts, >= 0.
        penalties: one penalty, on the kernels, or a list of (selector, penalty) pairs.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: without `penalties`, for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> from keras_optreg.regularizers import L1
        >>> w = keras.Variable([1.0, 0.05], name="kernel")
        >>> ProximalAdagrad(0.1, penalties=L1(1.0)).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.8518, 0.0]

    Differs: TensorFlow Addons gives the strengths as `l1_regularization_strength=λ₁` and
    `l2_regularization_strength=λ₂`, which are `penalties=L1L2(λ₁, λ₂/2)`, on all weights, and has no ε.

    Reference:
        Duchi & Singer, "Efficient online and batch learning using forward backward splitting", 2009.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        *,
        penalties: Any = None,
        **options: Any,
    ):
        _check("ProximalAdagrad", penalties)
        super().__init__(learning_rate, initial_accumulator_value, penalties=penalties, **options)
