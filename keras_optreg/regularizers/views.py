"""Views: which groups a penalty sees in a tensor, one for each index along some of its axes."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import prod, sqrt
from typing import Any, Self

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_optreg")
@dataclass(frozen=True, repr=False)
class View:
    """Splits a tensor into groups. Take one of this module by its name, or make one with `axes`.

    Args:
        name: what it shows as.
        axes: the axes whose indices number the groups; negative ones count from the end. The members of a group are
            all elements along the other axes.
        min_rank: the least rank of a tensor it is meant for.
        is_weighted: whether a group counts √(its number of members) times; see `weighted_by_size`.
    """

    name: str
    axes: tuple[int, ...]
    min_rank: int
    is_weighted: bool = False

    def weighted_by_size(self) -> Self:
        """The same groups, each counted √(number of members) times, as in Yuan & Lin 2006, equation 2.1.

        Then one strength is equally strict with the large groups of one layer and the small groups of another: the
        norm of n independent gradients grows as √n. Not the default, so that λ is the bound on a group's gradient.
        """
        return replace(self, is_weighted=True)

    def group_axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes from the front, in rising order, for a tensor of this shape.

        Raises:
            ValueError: when its rank is too low, or two of the axes are one.
        """
        rank = len(shape)
        if rank < self.min_rank:
            raise ValueError(
                f"The view {self!r} is for tensors of rank {self.min_rank} or more. Received one of shape "
                f"{tuple(shape)}. Select the weights that have it, for example with on=select.ndim({self.min_rank}), "
                "or take another view."
            )
        found = sorted({axis % rank for axis in self.axes})
        if len(found) < len(self.axes):
            raise ValueError(
                f"Two axes of the view {self!r} are the same one in a tensor of shape {tuple(shape)}. Name each once."
            )
        return tuple(found)

    def weight(self, shape: tuple[int, ...]) -> float:
        """How many times a group counts: 1, or √(number of members)."""
        return sqrt(self.size(shape)) if self.is_weighted else 1.0

    def size(self, shape: tuple[int, ...]) -> int:
        """The number of members of a group."""
        return prod(int(shape[axis]) for axis in self._member_axes(shape))

    def reduce(self, reduction: Callable[..., Any], x: Any) -> Any:
        """`ops.sum`, `ops.max` or the like over the members of each group, in a shape that goes with `x`."""
        members = self._member_axes(x.shape)
        return reduction(x, axis=members, keepdims=True) if members else x  # torch takes no axes for all axes

    def as_matrix(self, x: Any) -> Any:
        """The tensor as a matrix, shape (groups, members)."""
        members = self.size(x.shape)
        return ops.reshape(ops.transpose(x, self._order(x.shape)), (prod(map(int, x.shape)) // members, members))

    def from_matrix(self, matrix: Any, shape: tuple[int, ...]) -> Any:
        """The inverse of `as_matrix`, for a tensor of this shape."""
        order = self._order(shape)
        back = sorted(range(len(order)), key=order.__getitem__)
        return ops.transpose(ops.reshape(matrix, [int(shape[axis]) for axis in order]), back)

    def _member_axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        groups = self.group_axes(shape)
        return tuple(axis for axis in range(len(shape)) if axis not in groups)

    def _order(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.group_axes(shape) + self._member_axes(shape)

    def get_config(self) -> dict[str, Any]:
        return {**asdict(self), "axes": list(self.axes)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{**config, "axes": tuple(config["axes"])})

    def __repr__(self) -> str:
        return self.name + (".weighted_by_size()" if self.is_weighted else "")


per_output = View("per_output", (-1,), 1)
"""A group is all weights into one unit of a Dense kernel or one filter of a convolution: the last axis.

When a group is zero, its unit gives its bias whatever comes in, and can be removed.
"""

per_filter = View("per_filter", (-1,), 3)
"""The groups of `per_output`, for kernels of convolutions alone: a tensor of rank 2 is an error."""

per_input = View("per_input", (-2,), 2)
"""A group is all weights that leave one input or channel: axis −2. In an embedding it is the row of one token.

When a group is zero, its input is not used.
"""

per_head = View("per_head", (-2,), 3)
"""A group is one head in a query, key or value kernel of an attention layer, shape (width, heads, size).

`MultiHeadAttention` and `GroupQueryAttention` keep them so; in the latter key and value have fewer heads. A head whose
value kernel is zero gives what its value bias is, whatever comes in.
"""

per_output_head = View("per_output_head", (0,), 3)
"""A group is one head in the output kernel of an attention layer, shape (heads, size, width).

When a group is zero, its head adds nothing, whatever its other kernels and biases are.
"""


def axes(*indices: int) -> View:
    """A group for each index along these axes, at least one; negative ones count from the end.

    >>> axes(0, -1)
    axes(0, -1)
    >>> axes(0, -1).size((2, 3, 4, 5))
    12
    """
    if not indices or not all(isinstance(i, int) and not isinstance(i, bool) for i in indices):
        raise TypeError(
            f"axes takes the axes that number the groups, as in axes(-1) or axes(0, 1). Received: {indices}"
        )
    min_rank = max(i + 1 if i >= 0 else -i for i in indices)
    return View(f"axes({', '.join(map(str, indices))})", indices, min_rank)


def check(owner: str, view: Any, *, is_matrix: bool = False) -> View:
    """The view, when it is one; a penalty on the matrix of all groups takes none that weighs groups by their size."""
    if not isinstance(view, View):
        raise TypeError(
            f"The `view` of {owner} must be one of keras_optreg.regularizers.views, such as views.per_output. "
            f"Received: view={view!r}"
        )
    if is_matrix and view.is_weighted:
        raise ValueError(
            f"{owner} sees all groups as one matrix, so there is nothing to weigh by their size. "
            f"Pass view={replace(view, is_weighted=False)!r}. Received: view={view!r}"
        )
    return view
