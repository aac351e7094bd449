"""What is done to gradients before an optimizer sees them, or to its update: `gradient_transforms=[Centralize(), ...]`.

They act in the order of the list, weight by weight, before `clipnorm`, `clipvalue` and `global_clipnorm`.
"""

from typing import Any, ClassVar, Self

import keras
from keras import ops

from keras_optreg.bounds import POSITIVE, Interval, check
from keras_optreg.typing import Tensor

__all__ = ["AdaptiveClip", "Cautious", "Centralize", "GradientTransform"]

_serializable = keras.saving.register_keras_serializable("keras_optreg")


class GradientTransform:
    """Changes the gradient of a weight, or the update that a rule makes of it. Subclass it to add one.

    Args:
        **numbers: what the formula takes, each inside its range in `bounds`; they are saved.
    """

    bounds: ClassVar[dict[str, Interval]] = {}
    changes_update: ClassVar[bool] = False
    """Whether `update` does something; refused where the rule rebuilds the weights from a copy of its own."""

    def __init__(self, **numbers: float):
        if unknown := set(numbers) - set(self.bounds):
            raise TypeError(f"{type(self).__name__} takes {list(self.bounds) or 'no arguments'}. Received: {unknown}")
        check(type(self).__name__, numbers, self.bounds)
        self._numbers = numbers

    def gradient(self, g: Tensor, w: Tensor) -> Tensor:
        """The gradient that clipping and the rule see, shaped like `g`; `w` is the weight before its decay."""
        return g

    def update(self, delta: Tensor, g: Tensor) -> Tensor:
        """What is added to the weight in place of `delta`; `g` is the gradient that the rule saw."""
        return delta

    def get_config(self) -> dict[str, Any]:
        return dict(self._numbers)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self._numbers.items())})"


@_serializable
class Centralize(GradientTransform):
    """Takes the mean over a unit's inputs out of its gradient: all axes but the last, for matrices and filters.

    When to use it: image networks with batch normalisation, where it speeds up training and needs nothing.

        g ← g − mean(g over all axes but the last)          rank 2 and above; vectors stay as they are

    Example:
        >>> keras.ops.convert_to_numpy(Centralize().gradient(keras.ops.array([[1.0, 4.0], [3.0, 8.0]]), None)).tolist()
        [[-1.0, -2.0], [1.0, 2.0]]

    Reference:
        Yong et al., "Gradient centralization: a new optimization technique for deep neural networks", 2020.
    """

    def gradient(self, g, w):
        if len(g.shape) < 2:
            return g
        return g - ops.mean(g, axis=tuple(range(len(g.shape) - 1)), keepdims=True)


@_serializable
class AdaptiveClip(GradientTransform):
    """Clips the gradient of each unit to a fraction of the unit's weights.

    When to use it: large rates and batches without batch normalisation, for which it was made. Its authors leave out
    the last linear layer.

        ‖g_unit‖ <= λ · max(‖w_unit‖, ε)          a unit: the last axis; a vector is one unit

    Args:
        clipping: λ > 0. 0.01 as in the paper; larger batches take less.
        epsilon: ε > 0, so that weights that start at zero can leave it. 1e-3 as in the paper.

    Raises:
        ValueError: when a number is outside its range.

    Example:
        >>> clip = AdaptiveClip(0.1)
        >>> g, w = keras.ops.array([[3.0], [4.0]]), keras.ops.array([[0.0], [10.0]])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(clip.gradient(g, w))[:, 0]]
        [0.6, 0.8]

    Reference:
        Brock et al., "High-performance large-scale image recognition without normalization", 2021, section 4.1,
        arXiv:2102.06171.
    """

    bounds = {"clipping": POSITIVE, "epsilon": POSITIVE}

    def __init__(self, clipping: float = 0.01, epsilon: float = 1e-3):
        super().__init__(clipping=clipping, epsilon=epsilon)

    def gradient(self, g, w):
        axes = tuple(range(len(g.shape) - 1)) if len(g.shape) > 1 else None
        g_norm, w_norm = (ops.sqrt(ops.sum(ops.square(x), axis=axes, keepdims=True)) for x in (g, w))
        longest = self._numbers["clipping"] * ops.maximum(w_norm, self._numbers["epsilon"])
        return ops.where(g_norm > longest, g * (longest / ops.maximum(g_norm, 1e-30)), g)


@_serializable
class Cautious(GradientTransform):
    """Leaves out the part of an update that goes against the present gradient, and makes up for its length.

    When to use it: with momentum methods, `Adam`, `AdamW`, `Lion`: one more line, often a little faster.

        u ← u · mask / max(mean(mask), 0.001),          mask = (u·g < 0): the update goes downhill

    Example:
        >>> u, g = keras.ops.array([-1.0, -2.0, 3.0, 0.5]), keras.ops.array([1.0, -1.0, -1.0, 1.0])
        >>> [float(x) + 0.0 for x in keras.ops.convert_to_numpy(Cautious().update(u, g))]
        [-2.0, 0.0, 6.0, 0.0]

    Differs: scaled as in the authors' code; the paper's text has size/(number of ones + 1).

    Reference:
        Liang et al., "Cautious optimizers: improving training with one line of code", 2024, arXiv:2411.16085.
    """

    changes_update = True

    def update(self, delta, g):
        mask = ops.cast(delta * g < 0, delta.dtype)
        return delta * mask / ops.maximum(ops.mean(mask), 1e-3)


def as_transforms(value: Any) -> list[GradientTransform]:
    """Normalise `gradient_transforms=`."""
    if value is None:
        return []
    listed = list(value) if isinstance(value, list | tuple) else [value]
    for transform in listed:
        if not isinstance(transform, GradientTransform):
            hint = f"Make an object of it: {transform.__name__}()." if isinstance(transform, type) else ""
            raise TypeError(
                "`gradient_transforms` takes a list of transforms, such as [Centralize(), AdaptiveClip(0.01)]. "
                f"{hint} Received: {transform!r}"
            )
    return listed
