"""One row a penalty: how to make it, and its formula and gradient in float64 NumPy, written from the textbook."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy.optimize import brentq, minimize

from keras_optreg import regularizers
from keras_optreg.regularizers import views

_RNG = np.random.default_rng(0)
W = _RNG.normal(size=(4, 3)) * 10.0 ** np.random.default_rng(1).integers(-2, 2, size=(4, 3))
W[0, 0] = 0.0
# With the zeros that matter to groups: one number, a row, a column, a filter, a head.
MATRIX = _RNG.normal(size=(4, 5))
MATRIX[0, 0] = MATRIX[1] = MATRIX[:, 2] = 0.0
KERNEL = _RNG.normal(size=(2, 2, 3, 4))
KERNEL[..., 1] = 0.0
HEADS = _RNG.normal(size=(3, 4, 2))
HEADS[:, 1] = HEADS[2] = 0.0
FULL, TALL = _RNG.normal(size=(4, 5)), _RNG.normal(size=(5, 3))


@dataclass(frozen=True)
class Case:
    """A row; `proximal(w, steps)` is a float64 solver, and None where each element is for itself or there is none."""

    name: str
    make: Callable[[], Any]
    value: Callable[[np.ndarray], float]
    gradient: Callable[[np.ndarray], np.ndarray]
    keras_equal: Callable[[], Any] | None = None
    proximal: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    tensors: tuple[np.ndarray, ...] = (W,)
    tolerance: float = 1e-6

    def __str__(self) -> str:
        return self.name


def l1(strength: float) -> dict[str, Any]:
    return {"value": lambda w: strength * np.abs(w).sum(), "gradient": lambda w: strength * np.sign(w)}


def l2(strength: float) -> dict[str, Any]:
    return {"value": lambda w: strength * (w**2).sum(), "gradient": lambda w: 2 * strength * w}


def both(first: float, second: float) -> dict[str, Any]:
    return {
        "value": lambda w: first * np.abs(w).sum() + second * (w**2).sum(),
        "gradient": lambda w: first * np.sign(w) + 2 * second * w,
    }


# ---------------------------------------------------------------- groups


def group_numbers(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """For each element, the number of its group."""
    index = np.indices(shape)
    return np.ravel_multi_index([index[axis] for axis in axes], [shape[axis] for axis in axes])


def group(strength: float, *axes: int, power: float = 0.0) -> dict[str, Any]:
    """λ Σ_g n^power ‖w_g‖, for groups of n members numbered by the axes."""

    def each(w: np.ndarray):
        numbers = group_numbers(w.shape, axes)
        for number in np.unique(numbers):
            members = numbers == number
            yield members, strength * members.sum() ** power

    def gradient(w: np.ndarray) -> np.ndarray:
        g = np.zeros_like(w)
        for members, scale in each(w):
            if w[members].any():
                g[members] = scale * w[members] / np.linalg.norm(w[members])
        return g

    def proximal(w: np.ndarray, steps: np.ndarray) -> np.ndarray:
        z = np.zeros_like(w)
        for members, scale in each(w):
            z[members] = shrunk(w[members], scale * steps[members])
        return z

    return {
        "value": lambda w: sum(scale * np.linalg.norm(w[members]) for members, scale in each(w)),
        "gradient": gradient,
        "proximal": proximal,
    }


def shrunk(w: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """argmin_z ½ Σ (z − w)²/steps + ‖z‖ by bisection: Brent's root of Σ (w/(r + steps))² = 1."""
    some = w != 0
    if not some.any() or (steps[some].all() and np.linalg.norm(w[some] / steps[some]) <= 1):
        return np.zeros_like(w)

    def excess(r: float) -> float:
        return np.sum((w[some] / (r + steps[some])) ** 2) - 1

    lowest, highest = np.maximum(np.abs(w) - steps, 0).max() * (1 - 1e-12), np.linalg.norm(w)
    r = highest if excess(highest) >= 0 else brentq(excess, lowest, highest, xtol=1e-300, rtol=1e-14, maxiter=2000)
    return w * r / (r + steps)


def sparse_group(first: float, second: float, *axes: int) -> dict[str, Any]:
    """The map by Dykstra's alternation of the two (Bauschke & Combettes 2008), which needs no rule to compose them."""
    single, grouped = l1(first), group(second, *axes)

    def proximal(w: np.ndarray, steps: np.ndarray) -> np.ndarray:
        x, p, q = w, 0.0, 0.0
        for _ in range(3000):
            y = grouped["proximal"](x + p, steps)
            p, old = x + p - y, x
            x = np.sign(y + q) * np.maximum(np.abs(y + q) - first * steps, 0)
            q = y + q - x
            if np.abs(x - y).max() + np.abs(x - old).max() < 1e-12:
                break
        return x * (np.abs(y) > 1e-9) * (np.abs(x) > 1e-9)  # it comes close to its zeros

    return {
        "value": lambda w: single["value"](w) + grouped["value"](w),
        "gradient": lambda w: single["gradient"](w) + grouped["gradient"](w),
        "proximal": proximal,
    }


# ---------------------------------------------------------------- matrices: a filter a row


def rows(w: np.ndarray) -> np.ndarray:
    return np.stack([w[..., i].ravel() for i in range(w.shape[-1])])


def from_rows(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([row.reshape(shape[:-1]) for row in matrix], axis=-1)


def decomposed(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.linalg.svd(rows(w), full_matrices=False)


def nuclear(strength: float) -> dict[str, Any]:
    def gradient(w: np.ndarray) -> np.ndarray:
        u, s, v = decomposed(w)
        return strength * from_rows((u * (s > 1e-10)) @ v, w.shape)

    def proximal(w: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """By descent on Z = A·Bᵀ, for ‖Z‖_* is the least ½(‖A‖² + ‖B‖²): no singular value is computed."""
        matrix, step = rows(w), steps.flat[0]
        (n, m), k = matrix.shape, min(matrix.shape)

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            a, b = x[: n * k].reshape(n, k), x[n * k :].reshape(m, k)
            error = a @ b.T - matrix
            slope = np.concatenate([(error @ b).ravel(), (error.T @ a).ravel()]) + step * strength * x
            return 0.5 * (error**2).sum() + 0.5 * step * strength * (x**2).sum(), slope

        start = np.random.default_rng(0).normal(size=(n + m) * k)
        options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0, "gtol": 1e-9}
        x = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        return from_rows(x[: n * k].reshape(n, k) @ x[n * k :].reshape(m, k).T, w.shape)

    return {
        "value": lambda w: strength * decomposed(w)[1].sum(),
        "gradient": gradient,
        "proximal": proximal,
        "tolerance": 1e-5,
    }


def spectral(strength: float) -> dict[str, Any]:
    def gradient(w: np.ndarray) -> np.ndarray:
        u, s, v = decomposed(w)
        return strength * (s[0] > 0) * from_rows(np.outer(u[:, 0], v[0]), w.shape)

    return {"value": lambda w: strength * decomposed(w)[1][0], "gradient": gradient, "tolerance": 1e-5}


def orthogonality(strength: float) -> dict[str, Any]:
    def excess(w: np.ndarray) -> np.ndarray:
        return rows(w) @ rows(w).T - np.eye(w.shape[-1])

    return {
        "value": lambda w: strength * (excess(w) ** 2).sum(),
        "gradient": lambda w: 4 * strength * from_rows(excess(w) @ rows(w), w.shape),
        "tolerance": 1e-5,
    }


def srip(strength: float) -> dict[str, Any]:
    """λ max |σᵢ² − 1|, over the singular values."""

    def worst(w: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        u, s, v = decomposed(w)
        i = np.argmax(np.abs(s**2 - 1))
        return u[:, i], s[i], v[i]

    def gradient(w: np.ndarray) -> np.ndarray:
        u, s, v = worst(w)
        return strength * np.sign(s**2 - 1) * 2 * s * from_rows(np.outer(u, v), w.shape)

    return {"value": lambda w: strength * abs(worst(w)[1] ** 2 - 1), "gradient": gradient, "tolerance": 1e-5}


K = keras.regularizers
R = regularizers
CASES = [
    Case("L1", lambda: R.L1(0.3), **l1(0.3), keras_equal=lambda: K.L1(0.3)),
    Case("L1.halved", lambda: R.L1.halved(0.3), **l1(0.3 / 2), keras_equal=lambda: K.L1(0.15)),
    Case("L1.per_example", lambda: R.L1.per_example(0.3, 5), **l1(0.3 / 10), keras_equal=lambda: K.L1(0.03)),
    Case("L2", lambda: R.L2(0.2), **l2(0.2), keras_equal=lambda: K.L2(0.2)),
    Case("L2.halved", lambda: R.L2.halved(0.2), **l2(0.2 / 2), keras_equal=lambda: K.L2(0.1)),
    Case("L2.per_example", lambda: R.L2.per_example(0.2, 4), **l2(0.2 / 8), keras_equal=lambda: K.L2(0.025)),
    Case("L1L2", lambda: R.L1L2(0.3, 0.2), **both(0.3, 0.2), keras_equal=lambda: K.L1L2(0.3, 0.2)),
    Case("L1L2.halved", lambda: R.L1L2.halved(0.3, 0.2), **both(0.15, 0.1), keras_equal=lambda: K.L1L2(0.15, 0.1)),
    Case(
        "L1L2.per_example",
        lambda: R.L1L2.per_example(0.3, 0.2, 5),
        **both(0.03, 0.02),
        keras_equal=lambda: K.L1L2(0.03, 0.02),
    ),
    Case("GroupLasso", lambda: R.GroupLasso(0.7), **group(0.7, -1), tensors=(MATRIX, W, KERNEL)),
    Case("per filter", lambda: R.GroupLasso(0.7, views.per_filter), **group(0.7, -1), tensors=(KERNEL,)),
    Case("per input", lambda: R.GroupLasso(0.7, views.per_input), **group(0.7, -2), tensors=(MATRIX, KERNEL)),
    Case("per head", lambda: R.GroupLasso(0.7, views.per_head), **group(0.7, -2), tensors=(HEADS,)),
    Case("per output head", lambda: R.GroupLasso(0.7, views.per_output_head), **group(0.7, 0), tensors=(HEADS,)),
    Case("by two axes", lambda: R.GroupLasso(0.7, views.axes(-1, 0)), **group(0.7, 0, -1), tensors=(HEADS, KERNEL)),
    Case(
        "weighted by size",
        lambda: R.GroupLasso(0.3, views.per_output.weighted_by_size()),
        **group(0.3, -1, power=0.5),
        tensors=(MATRIX, KERNEL),
    ),
    Case(
        "SparseGroupLasso", lambda: R.SparseGroupLasso(0.3, 0.4), **sparse_group(0.3, 0.4, -1), tensors=(MATRIX, KERNEL)
    ),
    Case("NuclearNorm", lambda: R.NuclearNorm(0.4), **nuclear(0.4), tensors=(FULL, TALL, KERNEL)),
    Case("SpectralNorm", lambda: R.SpectralNorm(0.4, 100), **spectral(0.4), tensors=(FULL, TALL, MATRIX, KERNEL)),
    Case("Orthogonality", lambda: R.Orthogonality(0.1), **orthogonality(0.1), tensors=(TALL, FULL, MATRIX, KERNEL)),
    Case("SRIP", lambda: R.SRIP(0.1, 100), **srip(0.1), tensors=(TALL, FULL, KERNEL)),
]
