"""Values and gradients of penalties in as few passes over memory as the backend allows."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

if TYPE_CHECKING:
    from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer


def with_gradient(penalty: "PenaltyRegularizer", x: Any) -> Any:
    """Ω(x) at the strengths of this step; its gradient is the penalty's own, where it has one.

    Backends that differentiate the formula do not agree at its kinks: the slope of |w| at 0 is 0 on TensorFlow and
    torch and 1 on JAX, where it would move weights that are exactly zero. And TensorFlow, which by default compiles
    nothing, would go operation by operation, each a pass over memory with a fresh temporary. The penalty's gradient is
    one formula, and compiled by itself a single pass.
    """
    home = penalty.home
    with home.reading() as strengths:
        if not penalty.has_gradient:
            return penalty.penalty(x)

        def gradient(x: Any, strengths: Any, upstream: Any) -> Any:
            if penalty.is_one_pass:
                with home.reading(values=strengths * upstream):
                    return penalty.gradient(x)
            with home.reading(values=strengths):
                return upstream * penalty.gradient(x)

        if keras.backend.backend() == "jax":
            return _on_jax(penalty.penalty, gradient, x, strengths)
        backward = gradient
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # One device only: the replicas of a strategy may be on devices that XLA does not know.
            if not (penalty.is_one_pass or tf.executing_eagerly() or tf.distribute.has_strategy()):
                backward = tf.function(gradient, autograph=False, jit_compile=True)

        @ops.custom_gradient
        def value(x: Any) -> Any:
            def grad(*args: Any, upstream: Any = None) -> Any:  # torch gives x, and the upstream gradient by name
                return backward(x, strengths, args[0] if upstream is None else upstream)

            return penalty.penalty(x), grad

        return value(x)


def _on_jax(penalty: Callable[..., Any], gradient: Callable[..., Any], x: Any, strengths: Any) -> Any:
    """The same in the one form that JAX takes in both directions."""
    import jax

    @jax.custom_jvp
    def value(x: Any) -> Any:
        return penalty(x)

    @value.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return value(*primals), ops.sum(gradient(*primals, strengths, 1.0) * tangents[0])

    return value(x)


def sum_of_squares(x: Any) -> Any:
    """Σx², on TensorFlow without a temporary of the squares."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return 2 * tf.nn.l2_loss(x)
    return ops.sum(ops.square(x))
