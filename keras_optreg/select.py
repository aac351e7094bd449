"""Which weights? One object says it for penalties, weight decay, learning rates, freezing and monitoring alike.

```python
from keras_optreg import select

select.kernels() & ~select.matching("head/.*")     # every kernel but those of the head
select.biases() | select.ndim(1)                   # biases, and all vectors
select.embeddings().of(model)                      # the list of variables it names
```

A selector looks at Keras variables: at a variable's name (`kernel`), its path (`block/dense/kernel`) and its rank.
It is evaluated once, when an optimizer or `attach` meets the variables, never inside a training step.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_optreg.saving import deserialize, serialize

__all__ = [
    "Selector",
    "as_selector",
    "biases",
    "embeddings",
    "everything",
    "kernels",
    "matching",
    "ndim",
    "path_of",
    "variables",
]

_serializable = keras.saving.register_keras_serializable("keras_optreg")


def path_of(variable: Any) -> str:
    """The variable's path; for a raw `tf.Variable`, which has none, its name."""
    return getattr(variable, "path", None) or variable.name


def same_path(one: str, other: str) -> bool:
    """Whether two paths can belong to one variable: the shorter is the end of the longer.

    A loaded model may lack the first parts of the saved paths (`sequential/dense/kernel` is then `dense/kernel`) or
    have new ones before them.
    """
    one, other = "/" + one, "/" + other
    return one.endswith(other) or other.endswith(one)


def _name_of(variable: Any) -> str:
    return path_of(variable).rsplit("/", 1)[-1].split(":")[0]


class Selector:
    """A set of weights. Combine with `&`, `|` and `~`; the functions of this module make them."""

    def selects(self, variable: Any) -> bool:
        """Whether the variable belongs to the set."""
        raise NotImplementedError

    def among(self, variables: Sequence[Any]) -> "Selector":
        """This selector for these variables. One that was loaded finds here the variables that it names."""
        return self

    def of(self, model: Any) -> list[Any]:
        """The selected variables of a model (or of a list of variables), in the model's order."""
        variables = list(getattr(model, "weights", model))
        return [variables[i] for i in self.positions(variables)]

    def positions(self, variables: Sequence[Any]) -> tuple[int, ...]:
        """Positions of the selected variables; there may be none."""
        here = self.among(variables)
        return tuple(i for i, v in enumerate(variables) if here.selects(v))

    def resolve(self, variables: Sequence[Any], purpose: str) -> tuple[int, ...]:
        """Positions of the selected variables, at least one.

        Raises:
            ValueError: when nothing matches; the message begins with `purpose` and lists paths that exist.
        """
        found = self.positions(variables)
        if not found:
            paths = [path_of(v) for v in variables]
            shown = ", ".join(paths[:12]) + (f", … ({len(paths)} in all)" if len(paths) > 12 else "")
            raise ValueError(
                f"{purpose}: {self!r} matches none of the weights. A selector must match at least one; "
                f"`select.matching(regex)` searches these paths: {shown or '(no weights at all)'}"
            )
        for excepted in self.among(variables).exceptions():
            if not excepted.positions(variables):
                warnings.warn(
                    f"{purpose}: {excepted!r} matches none of the weights, so ~{excepted!r} leaves nothing out. Paths "
                    f"are like {path_of(variables[0])}; `(^|/)name/` finds a layer wherever it stands.",
                    stacklevel=2,
                )
        return found

    def exceptions(self) -> list["Selector"]:
        """The selectors under a `~`, wherever they stand in this one."""
        return []

    def __and__(self, other: "Selector") -> "Selector":
        return _Both(self, as_selector(other))

    def __or__(self, other: "Selector") -> "Selector":
        return _Either(self, as_selector(other))

    def __invert__(self) -> "Selector":
        return _Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            "A selector is neither true nor false, so `and`, `or` and `not` cannot combine selectors. "
            "Use `&`, `|` and `~`, as in select.kernels() & ~select.matching('head')."
        )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = ", ".join(repr(value) for value in self.get_config().values())
        return f"{type(self).__name__.strip('_').lower()}({arguments})"

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Selector":
        return cls(**config)


def as_selector(value: Any) -> Selector:
    """`value` itself when it is a selector, otherwise a `TypeError` that says what to write."""
    if isinstance(value, Selector):
        return value
    hint = "For weights whose path matches a regular expression use select.matching(regex)."
    if isinstance(value, str):
        hint = f"Write select.matching({value!r})."
    elif callable(value) and getattr(value, "__module__", None) == __name__:
        hint = f"Call it: select.{value.__name__}()."
    raise TypeError(
        f"Expected a selector from keras_optreg.select, such as select.kernels(). {hint} Received: {value!r}"
    )


@_serializable
class _Everything(Selector):
    def selects(self, variable: Any) -> bool:
        return True


@_serializable
class _Kernels(Selector):
    def selects(self, variable: Any) -> bool:
        return "kernel" in _name_of(variable)


@_serializable
class _Embeddings(Selector):
    def selects(self, variable: Any) -> bool:
        return "embeddings" in _name_of(variable)


@_serializable
class _Biases(Selector):
    def selects(self, variable: Any) -> bool:
        return _name_of(variable).endswith("bias")


@_serializable
class _Matching(Selector):
    def __init__(self, regex: str):
        if not isinstance(regex, str):
            raise TypeError(f"select.matching takes a regular expression as a string. Received: {regex!r}")
        try:
            self._pattern = re.compile(regex)
        except re.error as error:
            raise ValueError(f"select.matching: {regex!r} is not a regular expression: {error}") from error

    def selects(self, variable: Any) -> bool:
        return self._pattern.search(path_of(variable)) is not None

    def get_config(self) -> dict[str, Any]:
        return {"regex": self._pattern.pattern}


@_serializable
class _Ndim(Selector):
    def __init__(self, n: int):
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise ValueError(f"select.ndim takes a rank, an integer >= 0. Received: {n!r}")
        self.n = n

    def selects(self, variable: Any) -> bool:
        return len(variable.shape) == self.n

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n}


@_serializable
class _Variables(Selector):
    """Exactly these variables; what is saved of them is their paths (and, in a built optimizer, their positions)."""

    def __init__(self, paths: Iterable[str], variables: Sequence[Any] | None = None):
        self.paths = tuple(paths)
        self._variables = variables

    def selects(self, variable: Any) -> bool:
        if self._variables is None:
            return any(same_path(path_of(variable), path) for path in self.paths)
        return any(variable is v for v in self._variables)

    def among(self, variables: Sequence[Any]) -> Selector:
        if self._variables is not None:
            return self
        found: list[Any] = []
        for path in self.paths:
            fitting = [v for v in variables if same_path(path_of(v), path)]
            # `dense/kernel` is also the end of `encoder/dense/kernel`: the one that differs least is meant.
            least = min((_distance(path_of(v), path) for v in fitting), default=0)
            found += [v for v in fitting if _distance(path_of(v), path) == least]
        return _Variables(self.paths, found)

    def get_config(self) -> dict[str, Any]:
        return {"paths": list(self.paths)}


def _distance(one: str, other: str) -> int:
    return abs(one.count("/") - other.count("/"))


class _Pair(Selector):
    symbol = ""

    def __init__(self, left: Selector, right: Selector):
        self.left, self.right = left, right

    def among(self, variables: Sequence[Any]) -> Selector:
        return type(self)(self.left.among(variables), self.right.among(variables))

    def exceptions(self) -> list[Selector]:
        return self.left.exceptions() + self.right.exceptions()

    def __repr__(self) -> str:
        return f"({self.left!r} {self.symbol} {self.right!r})"

    def get_config(self) -> dict[str, Any]:
        return {side: serialize(getattr(self, side)) for side in ("left", "right")}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Selector:
        return cls(**{side: deserialize(value) for side, value in config.items()})


@_serializable
class _Both(_Pair):
    symbol = "&"

    def selects(self, variable: Any) -> bool:
        return self.left.selects(variable) and self.right.selects(variable)


@_serializable
class _Either(_Pair):
    symbol = "|"

    def selects(self, variable: Any) -> bool:
        return self.left.selects(variable) or self.right.selects(variable)


@_serializable
class _Not(Selector):
    def __init__(self, selector: Selector):
        self.selector = selector

    def among(self, variables: Sequence[Any]) -> Selector:
        return _Not(self.selector.among(variables))

    def selects(self, variable: Any) -> bool:
        return not self.selector.selects(variable)

    def exceptions(self) -> list[Selector]:
        return [self.selector]

    def __repr__(self) -> str:
        return f"~{self.selector!r}"

    def get_config(self) -> dict[str, Any]:
        return {"selector": serialize(self.selector)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Selector:
        return cls(deserialize(config["selector"]))


def everything() -> Selector:
    """All weights."""
    return _Everything()


def kernels() -> Selector:
    """Matrices and filters: every weight with `kernel` in its name.

    In Keras's layers these are the kernels of dense and convolutional layers, recurrent, depthwise and pointwise
    kernels, the projections of attention, and LoRA's factors; not embeddings, biases or the scales of normalisation.
    A weight that a layer of your own calls otherwise is added with `kernels() | matching("my_layer/w$")`.
    """
    return _Kernels()


def embeddings() -> Selector:
    """Embedding tables: every weight with `embeddings` in its name."""
    return _Embeddings()


def biases() -> Selector:
    """Biases: every weight whose name ends with `bias`."""
    return _Biases()


def matching(regex: str) -> Selector:
    """Weights in whose path the regular expression is found (`re.search`), e.g. `matching("(^|/)head/")`."""
    return _Matching(regex)


def ndim(n: int) -> Selector:
    """Weights of rank `n`: 1 for vectors, 2 for matrices."""
    return _Ndim(n)


def variables(these: Iterable[Any]) -> Selector:
    """Exactly these variables, e.g. `variables(model.layers[0].weights)`."""
    listed = list(these)
    return _Variables([path_of(v) for v in listed], listed)
