"""The box."""

from math import inf
from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import Interval, check
from keras_optreg.constraints.constraint import Constraint


@keras.saving.register_keras_serializable("keras_optreg")
class Box(Constraint):
    """Keeps every weight between two numbers.

    When to use it: weights with a meaning that has limits, fixed-point hardware, and the clipped critic of the first
    Wasserstein GAN.

        {w: low <= w <= high}
        w ← min(max(w, low), high)

    Args:
        low: The least value; `-math.inf` for none.
        high: The largest value, at least `low`; `math.inf` for none.

    Raises:
        ValueError: For what is no number, or when `high` is below `low`.

    Example:
        >>> keras.ops.convert_to_numpy(Box(-0.5, 1.0)(keras.ops.array([-2.0, 0.25, 3.0]))).tolist()
        [-0.5, 0.25, 1.0]

    Reference:
        Parikh, Boyd, "Proximal algorithms", 2014, section 6.2.4. The critic: Arjovsky, Chintala, Bottou, "Wasserstein
        GAN", 2017, arXiv:1701.07875, Algorithm 1.
    """

    def __init__(self, low: float, high: float):
        check("Box", {"low": low}, {"low": Interval(-inf, inf, high_included=True)})
        check("Box", {"high": high}, {"high": Interval(low, inf, high_included=True)})
        self.low, self.high = float(low), float(high)

    def nearest(self, w: Any) -> Any:
        return ops.clip(w, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}
