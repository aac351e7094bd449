"""What each weight gets from the engine: decay, learning-rate multiplier, penalties. Resolved once, at build."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keras_optreg import bounds, select
from keras_optreg.introspection import is_quadratic
from keras_optreg.saving import serialize, without
from keras_optreg.select import Selector, path_of, same_path
from keras_optreg.typing import Penalty, Variable


def as_groups(value: Any, argument: str, example: str) -> list[tuple[Selector, Any]]:
    """`[(selector, thing), ...]`, checked."""
    pairs = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if pairs is None or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise TypeError(f"`{argument}` takes a list of (selector, value) pairs, like {example}. Received: {value!r}")
    return [(select.as_selector(selector), thing) for selector, thing in pairs]


def as_multipliers(value: Any) -> list[tuple[Selector, float]]:
    """Normalise `learning_rate_multipliers=`."""
    if value is None:
        return []
    groups = as_groups(value, "learning_rate_multipliers", "[(select.matching('backbone/'), 0.1)]")
    for _, factor in groups:
        bounds.check("learning_rate_multipliers", {"factor": factor}, {"factor": bounds.NON_NEGATIVE})
    return [(selector, float(factor)) for selector, factor in groups]


def as_penalties(value: Any) -> list[tuple[Selector, Penalty]]:
    """Normalise `penalties=`; a single penalty acts on the kernels."""
    if value is None:
        return []
    if isinstance(value, Penalty):
        return [(select.kernels(), value)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        groups = as_groups(value, "penalties", "[(select.kernels(), L1(1e-5))]")
    else:
        groups: list[tuple[Selector, Any]] = [(select.kernels(), value)]
    for _, penalty in groups:
        if not isinstance(penalty, Penalty):
            raise TypeError(
                "`penalties` takes penalty objects of keras_optreg.regularizers, such as L1(1e-5), or a list of "
                f"(selector, penalty) pairs. Received: {penalty!r}. A penalty of another kind belongs in the loss: "
                "keras_optreg.attach(model, penalty)."
            )
    return groups


def check_penalties(
    owner: str, penalties: Sequence[tuple[Selector, Penalty]], *, proximal_refused: str, is_scalar: bool
) -> None:
    """Refuse at construction what the rule cannot carry out.

    Args:
        owner: the optimizer's name.
        penalties: what it was given.
        proximal_refused: why it takes no proximal penalty; empty when it does.
        is_scalar: whether its metric is one number for all of a weight.
    """
    for _, penalty in penalties:
        if is_proximal(penalty):
            if proximal_refused:
                raise ValueError(
                    f"{owner} cannot apply {penalty!r} as a proximal penalty: {proximal_refused}. "
                    f"Add its gradient instead, penalties={penalty!r}.coupled(), or put it in the loss with "
                    "keras_optreg.attach(model, penalty)."
                )
            if not (is_scalar or penalty.takes_vector_steps):
                raise ValueError(
                    f"{owner} cannot apply {penalty!r} as a proximal penalty: its step differs from element to element "
                    "of a weight, and under such steps this proximal map has no formula. Use SGD, or put the penalty "
                    "in the loss with keras_optreg.attach(model, penalty)."
                )
        elif not penalty.is_coupled and any(
            getattr(part, "has_proximal_map", False) for part in getattr(penalty, "penalties", ())
        ):
            raise ValueError(
                f"{owner} cannot apply {penalty!r} by proximal maps: those of its parts do not compose. For exact "
                "zeros give one object that has a map, such as L1L2(l1, l2); to add the gradient instead, which leaves "
                f"no exact zeros, say so: penalties={penalty!r}.coupled()."
            )
        elif not penalty.has_gradient:
            raise ValueError(
                f"{owner} cannot apply {penalty!r}: it gives an optimizer no gradient to add. "
                "Put it in the loss with keras_optreg.attach(model, penalty)."
            )


def is_proximal(penalty: Penalty) -> bool:
    """Whether the penalty acts by its proximal map (exact zeros) and not by its gradient."""
    return penalty.has_proximal_map and not penalty.is_coupled


MAY_FIND_NOTHING = ("excluded_names",)
"""Keras's `exclude_from_weight_decay(var_names=)`; every other selector that a user gives must find something."""


def resolve(
    groups: Mapping[str, Sequence[Selector]], variables: Sequence[Variable], saved: Mapping[str, Any] | None
) -> dict[str, list[tuple[int, ...]]]:
    """Positions selected by every selector of every group.

    Paths change when a model is saved and loaded or rebuilt, positions do not: with `saved` from `remember` and what
    look like the same weights, the saved positions of a group hold while its selectors are the saved ones. Otherwise
    the selectors are evaluated.
    """
    positions: dict[str, list[tuple[int, ...]]] = {}
    are_the_same = saved is not None and _look_like(saved, variables)
    for name, selectors in groups.items():
        if saved and are_the_same and saved["selectors"].get(name) == _configs(selectors):
            positions[name] = [tuple(found) for found in saved["selected"][name]]
        elif name in MAY_FIND_NOTHING:
            positions[name] = [s.positions(variables) for s in selectors]
        else:
            positions[name] = [s.resolve(variables, f"`{name}`") for s in selectors]
    return positions


def remember(
    groups: Mapping[str, Sequence[Selector]],
    selected: Mapping[str, Sequence[tuple[int, ...]]],
    variables: Sequence[Variable],
) -> dict[str, Any]:
    """What `resolve` was asked and answered, in JSON's types, for `get_config`."""
    return {
        "shapes": _shapes(variables),
        "paths": [path_of(v) for v in variables],
        "selectors": {name: _configs(selectors) for name, selectors in groups.items()},
        "selected": {name: [list(found) for found in positions] for name, positions in selected.items()},
    }


def _configs(selectors: Sequence[Selector]) -> list[dict[str, Any]]:
    # Keras numbers the objects of a file that it saves or loads; equal selectors would differ by these numbers.
    return [without(serialize(selector), "shared_object_id") for selector in selectors]


def _look_like(saved: Mapping[str, Any], variables: Sequence[Variable]) -> bool:
    """Whether these can be the weights that were saved: the same shapes, and no path at another's position.

    Paths may have got or lost first parts, or be new ones altogether.
    """
    if saved["shapes"] != _shapes(variables):
        return False
    before, now = saved["paths"], [path_of(v) for v in variables]
    return all(
        same_path(path, before[i]) or not any(same_path(path, other) for other in before) for i, path in enumerate(now)
    )


def _shapes(variables: Sequence[Variable]) -> list[list[int]]:
    return [[int(n) for n in v.shape] for v in variables]


class WeightPlan:
    """One entry a weight: `decays`, `multipliers`, `touched_only` rows, `coupled` penalties and the `proximal` one."""

    def __init__(
        self,
        variables: Sequence[Variable],
        *,
        decays: Sequence[bool],
        multipliers: Sequence[tuple[tuple[int, ...], float]],
        penalties: Sequence[tuple[tuple[int, ...], Penalty]],
        touched_only: Collection[int] = (),
    ):
        self.decays = list(decays)
        self.touched_only = [i in touched_only for i in range(len(variables))]
        self.multipliers = [1.0] * len(variables)
        self.coupled: list[list[Penalty]] = [[] for _ in variables]
        self.proximal: list[Penalty | None] = [None for _ in variables]
        for found, factor in multipliers:
            for i in found:
                self.multipliers[i] *= factor
        for found, penalty in penalties:
            for i in found:
                if not is_proximal(penalty):
                    self.coupled[i].append(penalty)
                elif self.proximal[i] is None:
                    self.proximal[i] = penalty
                else:
                    raise ValueError(
                        f"Two proximal penalties on {path_of(variables[i])}: {self.proximal[i]!r} and {penalty!r}. "
                        "Their maps do not compose; give one object that does, such as L1L2, or make one of them "
                        "act by its gradient with .coupled()."
                    )

    def penalties_of(self, i: int) -> list[Penalty]:
        """All penalties that act in the update of weight `i`."""
        return self.coupled[i] + ([self.proximal[i]] if self.proximal[i] is not None else [])  # type: ignore[list-item]

    def warn_of_double_shrinking(self, variables: Sequence[Variable], weight_decay: Any) -> None:
        """Say, with paths, where two of these shrink a weight: decay (a number, a schedule or None), L2 here, there."""
        twice: dict[str, list[str]] = {}
        for i, variable in enumerate(variables):
            ways = ["weight decay"] if self.decays[i] and weight_decay is not None and weight_decay != 0 else []
            ways += ["an L2 penalty in the loss"] if is_quadratic(getattr(variable, "regularizer", None)) else []
            ways += ["an L2 penalty in the update"] if any(map(is_quadratic, self.penalties_of(i))) else []
            if len(ways) > 1:
                twice.setdefault(" and ".join(ways), []).append(path_of(variable))
        for ways, paths in twice.items():
            warnings.warn(
                f"Both {ways} shrink {_some(paths)}. If only one is meant, leave the other out, or restrict it "
                "(weight_decay_on=, attach(on=), penalties=[(selector, penalty)]).",
                stacklevel=2,
            )

    def warn_of_averaged_zeros(self, variables: Sequence[Variable]) -> None:
        """Say where a moving average takes the place of weights that a proximal penalty keeps at zero."""
        averaged = [path_of(v) for v, penalty in zip(variables, self.proximal, strict=True) if penalty is not None]
        if averaged:
            warnings.warn(
                f"use_ema=True overwrites {_some(averaged)} with averages, which are zero only where the weight was "
                "zero all along: exact zeros of the penalty are lost at the end of fit.",
                stacklevel=2,
            )


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:8]) + (" …" if len(paths) > 8 else "")
