"""Measures of the weights: their norms, how far an update moves them, and how they are distributed."""

from collections.abc import Iterable, Mapping
from math import prod
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optreg import select
from keras_optreg.bounds import POSITIVE, check
from keras_optreg.callbacks.probes.probe import Probe, compiled

_BLOCK = 2**15  # 128 KiB of float32: stays in the cache from one operation to the next


def norm(tensor: Any) -> Any:
    """Euclidean norm over all entries, summed in float32."""
    return ops.sqrt(_sum_of_squares(tensor))


def _sum_of_squares(tensor: Any) -> Any:
    if isinstance(tensor, np.ndarray):
        return np.vdot(numbers := tensor.astype("float32", copy=False), numbers)
    tensor = ops.cast(tensor, "float32")
    if keras.config.backend() != "tensorflow":
        return ops.sum(ops.square(tensor))
    import tensorflow as tf

    return 2.0 * tf.nn.l2_loss(tensor)  # in one pass, where TensorFlow would store the squares first


def _squared_distance(a: Any, b: Any) -> Any:
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return _sum_of_squares(a - b)
    a, b = a.reshape(-1), b.reshape(-1)
    return np.float32(sum(_sum_of_squares(a[i : i + _BLOCK] - b[i : i + _BLOCK]) for i in range(0, a.size, _BLOCK)))


def _num_zeros(tensor: Any) -> Any:
    if isinstance(tensor, np.ndarray):
        return np.count_nonzero(tensor == 0)
    return ops.sum(ops.cast(ops.equal(tensor, 0), "int32"))


def _in_place(tensor: Any) -> Any:
    """As NumPy sees it where it lies: a pass over it is several times as fast as eager operations, which store theirs.

    On a GPU, over several devices or in bfloat16 NumPy cannot, and the tensor stays what it is.
    """
    try:
        return np.from_dlpack(tensor)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return tensor


def _values(weights: Iterable[Any]) -> list[Any]:
    return [_in_place(ops.stop_gradient(w.value)) for w in weights]


def _on_host(numbers: list[Any]) -> np.ndarray:
    """One number of each weight; those of tensors were computed where the tensors are, and come all at once."""
    if all(isinstance(each, Real) for each in numbers):
        return np.array(numbers)
    return ops.convert_to_numpy(ops.stack(numbers))


def _norms(tensors: Iterable[Any]) -> np.ndarray:
    return np.sqrt(_on_host([_sum_of_squares(tensor) for tensor in tensors]))


def _whole(norms: Any) -> float:
    return float(np.linalg.norm(norms))


class _WeightProbe(Probe):
    """A probe of the trainable weights that a selector names."""

    def __init__(self, on: select.Selector | None = None):
        self.on = select.everything() if on is None else select.as_selector(on)

    def _weights(self, model: Any) -> list[Any]:
        weights = model.trainable_variables
        return [weights[i] for i in self.on.resolve(weights, type(self).__name__)]


class WeightNorm(_WeightProbe):
    """The norm of each weight, `weight_norm/<path>`, and of all together, `weight_norm`.

        ‖w‖ = √Σ wᵢ²

    Args:
        on: Which of the trainable weights, a selector; all of them when `None`.
    """

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        weights = self._weights(model)
        norms = _norms(_values(weights))
        each = {f"weight_norm/{select.path_of(w)}": float(n) for w, n in zip(weights, norms, strict=True)}
        return {"weight_norm": _whole(norms), **each}


class UpdateRatio(_WeightProbe):
    """How far the update moved each weight, relative to its size: `update_ratio/<path>`, and `update_ratio` over all.

        ‖w_after − w_before‖ / max(‖w_before‖, floor · √size)

    About 1e-3 is healthy; far above, the learning rate is too high, far below, too low or the layer hardly learns. The
    floor takes a root-mean-square below it as it, so that biases that start at zero do not give 1e11. Measured over
    one update, or, with `steps_per_execution` or per epoch, over all of them.

    Args:
        on: Which of the trainable weights, a selector; all of them when `None`.
        floor: The smallest root-mean-square of a weight that counts, > 0. 1e-3 is Adafactor's.

    Reference:
        Shazeer and Stern, "Adafactor: Adaptive learning rates with sublinear memory cost", 2018, section 8 (the floor).
    """

    def __init__(self, on: select.Selector | None = None, floor: float = 1e-3):
        super().__init__(on)
        check("UpdateRatio", {"floor": floor}, {"floor": POSITIVE})
        self.floor = floor
        self._before: list[Any] | None = None

    def prepare(self, model: Any) -> None:
        # A copy, since a variable's value is overwritten in place (TensorFlow, torch) or donated (JAX).
        self._before = [ops.copy(ops.stop_gradient(w.value)) for w in self._weights(model)]

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        weights = self._weights(model)
        if self._before is None:
            return {}
        after, before = _values(weights), [_in_place(b) for b in self._before]
        moved = np.sqrt(_on_host([_squared_distance(a, b) for a, b in zip(after, before, strict=True)]))
        sizes = np.maximum(_norms(before), [self.floor * prod(w.shape) ** 0.5 for w in weights])
        self._before = None
        each = {f"update_ratio/{select.path_of(w)}": float(r) for w, r in zip(weights, moved / sizes, strict=True)}
        return {"update_ratio": _whole(moved) / _whole(sizes), **each}

    def stop(self, model: Any) -> None:
        self._before = None


class Weights(_WeightProbe):
    """The weights themselves, as arrays `weights/<path>`; a histogram in TensorBoard.

    Args:
        on: Which of the trainable weights, a selector; all of them when `None`.
    """

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        return {f"weights/{select.path_of(w)}": w for w in self._weights(model)}


class ZeroFraction(_WeightProbe):
    """How many of the numbers in each weight are exactly zero, `zero_fraction/<path>`, and in all, `zero_fraction`.

        #{i : wᵢ = 0} / size

    Proximal penalties and pruning make exact zeros; a penalty in the loss makes small numbers, which do not count.

    Args:
        on: Which of the trainable weights, a selector; all of them when `None`. `select.kernels()` leaves out biases,
            which often start at zero.
    """

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        weights = self._weights(model)
        zeros = _on_host([_num_zeros(value) for value in _values(weights)]).tolist()
        sizes = [prod(w.shape) for w in weights]
        each = {
            f"zero_fraction/{select.path_of(w)}": n / size for w, n, size in zip(weights, zeros, sizes, strict=True)
        }
        return {"zero_fraction": sum(zeros) / sum(sizes), **each}


class Penalties(_WeightProbe):
    """The value of each weight's penalty, `penalty/<path>`, of those in the loss.

    After the measured step, where `DataLoss` has the mean of their sum over the batches. Frozen weights have none, as
    in the loss; a penalty given to the optimizer is not in the loss.

    Args:
        on: Of which of the trainable weights, a selector; all of them when `None`. Those without penalty have no entry.
    """

    def start(self, model: Any) -> bool:
        penalized = [w for w in self._weights(model) if getattr(w, "regularizer", None) is not None]
        self._names = [f"penalty/{select.path_of(w)}" for w in penalized]
        if penalized:
            self._evaluate = compiled(
                model, lambda: ops.stack([ops.cast(w.regularizer(w), "float32") for w in penalized])
            )
        return False

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        if not self._names:
            return {}
        return dict(zip(self._names, ops.convert_to_numpy(self._evaluate()).tolist(), strict=True))
