"""Shared maths of the methods that see a weight as a matrix: (inputs, outputs), all axes but the last joined."""

from keras import ops

from keras_optreg.optimizers.moments import moving_average
from keras_optreg.typing import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: the steepest at zero that keep singular values near 1, not those that end there."""


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(inputs, outputs) of a weight: Dense kernels as they are, filters with their window among the inputs."""
    rows = 1
    for n in shape[:-1]:
        rows *= int(n)
    return rows, int(shape[-1]) if shape else 1


def as_matrix(x: Tensor) -> Tensor:
    """The weight as a matrix, shape (inputs, outputs)."""
    return ops.reshape(x, matrix_shape(tuple(x.shape)))


def newton_schulz(x: Tensor, steps: int) -> Tensor:
    """About U·Vᵀ of the singular value decomposition x = U·S·Vᵀ, by `steps` products x ← a·x + (b·xxᵀ + c·(xxᵀ)²)·x.

    Args:
        x: a matrix.
        steps: 5 bring all singular values above 1e-2 of the norm to between 0.7 and 1.2.
    """
    a, b, c = QUINTIC
    is_tall = x.shape[0] > x.shape[1]
    x = ops.transpose(x) if is_tall else x  # the small side's products are cheaper
    x = x / (ops.sqrt(ops.sum(ops.square(x))) + 1e-7)
    for _ in range(steps):
        gram = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return ops.transpose(x) if is_tall else x


def rotated(x: Tensor, basis: dict[str, Tensor]) -> Tensor:
    """Q_Lᵀ·x·Q_R, shaped like x; a side without `q_left` or `q_right` keeps its axes."""
    y = as_matrix(x)
    y = ops.matmul(ops.transpose(basis["q_left"]), y) if "q_left" in basis else y
    y = ops.matmul(y, basis["q_right"]) if "q_right" in basis else y
    return ops.reshape(y, x.shape)


def rotated_back(x: Tensor, basis: dict[str, Tensor]) -> Tensor:
    """Q_L·x·Q_Rᵀ, shaped like x."""
    y = as_matrix(x)
    y = ops.matmul(basis["q_left"], y) if "q_left" in basis else y
    y = ops.matmul(y, ops.transpose(basis["q_right"])) if "q_right" in basis else y
    return ops.reshape(y, x.shape)


def next_basis(g: Tensor, old: dict[str, Tensor], beta: float, is_first: Tensor, is_due: Tensor) -> dict[str, Tensor]:
    """Moving averages `p_left` of g·gᵀ and `p_right` of gᵀ·g, and their eigenvectors `q_left`, `q_right`.

    The first gradient gives eigenvectors exactly; later ones, where `is_due`, take a power iteration. A side without
    `q_left` or `q_right` has none.
    """
    new = {}
    for side, x in (("left", g), ("right", ops.transpose(g))):
        if (q_name := f"q_{side}") in old:
            p = new[f"p_{side}"] = moving_average(old[f"p_{side}"], ops.matmul(x, ops.transpose(x)), beta)
            q = old[q_name]
            new[q_name] = ops.cond(
                is_first,
                lambda p=p: eigenvectors(p),
                lambda p=p, q=q: ops.cond(is_due, lambda: power_iteration(p, q), lambda: ops.copy(q)),
            )
    return new


def eigenvectors(p: Tensor) -> Tensor:
    """Of a symmetric matrix, as columns, those of the largest eigenvalues first."""
    return ops.flip(ops.linalg.eigh(p)[1], axis=-1)


def power_iteration(p: Tensor, q: Tensor) -> Tensor:
    """A step from the columns of q towards the eigenvectors of p: orthogonalises p·q."""
    return ops.linalg.qr(ops.matmul(p, q))[0]
