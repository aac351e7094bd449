"""AMSGrad: Adam whose step sizes never grow. Reddi, Kale & Kumar 2018, Algorithm 2, arXiv:1904.09237."""

from functools import partial
from typing import Any, Unpack

import keras

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import adam
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer
from keras_optreg.typing import BaseOptions


@keras.saving.register_keras_serializable("keras_optreg")
class AMSGrad(RuleOptimizer):
    """Adam divided by the largest mean square so far, so that a rare large gradient is not forgotten.

    When to use it: where Adam does not settle. The paper's example, a large gradient every 101st step, drives Adam to
    the wrong end of the interval.

    Equations (as in `Adam`, with v̂ for v in the step):

        v̂ ← max(v̂, v)
        w ← w − α·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v̂ + ε)

    Args:
        learning_rate: number >= 0, schedule or callable.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε >= 0.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = AMSGrad(0.1)
        >>> for g in ([10.0, 10.0], [0.1, 0.1]):
        ...     optimizer.apply([keras.ops.convert_to_tensor(g)], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.8323, -2.1677]

    Differs: the bias correction, which the paper leaves out, is kept, as in Keras and PyTorch: `Adam(amsgrad=True)`.
    """

    slots = {"m": ZEROS, "v": ZEROS, "v_max": ZEROS}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(partial(adam, amsgrad=True))
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}, **options)
