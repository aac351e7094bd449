"""One optimizer for some weights, another for the rest."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optreg.optimizers import weight_plan
from keras_optreg.optimizers.wrapper import Wrapper
from keras_optreg.saving import deserialize, serialize
from keras_optreg.select import Selector, path_of
from keras_optreg.typing import Variable


@keras.saving.register_keras_serializable("keras_optreg")
class Partition(Wrapper):
    """Gives each weight to the first optimizer whose selector matches it.

    When to use it: `Muon` for the hidden matrices and `AdamW` for the rest; a pretrained body and a new head; sparse
    embeddings. For other learning rates alone, `learning_rate_multipliers` of any optimizer does.

    Args:
        parts: (selector, optimizer) pairs. The first match wins.
        rest: the optimizer of all other weights. None where the selectors match every weight.

    The learning rate, the count of updates and the option `gradient_accumulation_steps` are the first part's; setting
    the learning rate multiplies those of the others by the same factor. `clipnorm` and `global_clipnorm` of an
    optimizer see its own weights. Each is reached as `.optimizers[i]`.

    Raises:
        ValueError: when an optimizer is given twice; when built, for a selector that matches nothing that is left, and
            for weights without an optimizer.

    Example:
        >>> import keras
        >>> from keras_optreg import select
        >>> from keras_optreg.optimizers import SGD
        >>> kernel, bias = keras.Variable([[1.0]], name="kernel"), keras.Variable([1.0], name="bias")
        >>> optimizer = Partition([(select.matching("bias"), SGD(0.5))], rest=SGD(0.1))
        >>> optimizer.apply([2 * kernel, 2 * bias], [kernel, bias])
        >>> [round(keras.ops.convert_to_numpy(v).item(), 4) for v in (kernel, bias)]
        [0.8, 0.0]

    Differs: `keras.optimizers.MultiOptimizer` takes regular expressions, and has no learning rate to set.
    """

    def __init__(self, parts: Sequence[tuple[Selector, Any]], rest: Any = None, name: str | None = None):
        pairs = weight_plan.as_groups(parts, "parts", "[(select.kernels(), Muon(0.02))]")
        optimizers = [given for given in [*(o for _, o in pairs), rest] if given is not None]
        if len({id(optimizer) for optimizer in optimizers}) < len(optimizers):
            raise ValueError("Partition got one optimizer twice; join its selectors with | instead.")
        if not pairs:
            raise ValueError("Partition got no parts. Use the optimizer of the rest alone.")
        super().__init__(optimizers, name)
        self._selectors = tuple(selector for selector, _ in pairs)
        self._built_with: tuple[dict[str, Any], ...] = ()

    def build(self, variables: Sequence[Variable]) -> None:
        if self.built:
            return
        for optimizer, own in self.parts_of(variables):
            optimizer.build(own)
        selected = weight_plan.resolve(self._named(), variables, self._remembered())
        self._built_with = (weight_plan.remember(self._named(), selected, variables),)
        super().build(variables)

    def parts_of(self, variables: Sequence[Variable]) -> list[tuple[Any, list[Variable]]]:
        """Each optimizer with its weights."""
        [found] = weight_plan.resolve(self._named(), variables, self._remembered()).values()
        left, parts = dict(enumerate(variables)), []
        for selector, positions, optimizer in zip(self._selectors, found, self.optimizers, strict=False):
            own = [left.pop(i) for i in positions if i in left]
            if not own:
                raise ValueError(
                    f"Partition: all weights that {selector!r} selects have an optimizer already. The first match "
                    "wins; put the narrower selector first."
                )
            parts.append((optimizer, own))
        if left and len(self.optimizers) == len(self._selectors):
            raise ValueError(
                f"Partition has no optimizer for {', '.join(path_of(v) for v in left.values())}. Give rest=AdamW(1e-3)."
            )
        return [*parts, (self.optimizers[-1], list(left.values()))] if left else parts

    def _named(self) -> dict[str, list[Selector]]:
        return {"parts": list(self._selectors)}

    def _remembered(self) -> dict[str, Any] | None:
        return self._built_with[0] if self._built_with else None

    def _apply(self, grads, variables):
        given = {id(v): g for v, g in zip(variables, grads, strict=True)}
        if all(g is None for g in grads):
            raise ValueError("No gradients provided for any variable. Does the loss depend on the weights?")
        for optimizer, own in self._parts():
            own = [v for v in own if id(v) in given]
            if any(given[id(v)] is not None for v in own):
                optimizer.apply([given[id(v)] for v in own], own)

    def finalize_variable_values(self, var_list: Sequence[Variable]) -> None:
        given = {id(v) for v in var_list}
        for optimizer, own in self._parts():
            optimizer.finalize_variable_values([v for v in own if id(v) in given])

    def _parts(self) -> list[tuple[Any, list[Variable]]]:
        return [(optimizer, optimizer._trainable_variables) for optimizer in self.optimizers if optimizer.built]

    def get_config(self) -> dict[str, Any]:
        parts = [[serialize(s), serialize(o)] for s, o in zip(self._selectors, self.optimizers, strict=False)]
        [rest] = self.optimizers[len(parts) :] or [None]
        return {"parts": parts, "rest": serialize(rest), "built_with": self._remembered(), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Partition":
        parts = [tuple(deserialize(thing, custom_objects) for thing in pair) for pair in config["parts"]]
        optimizer = cls(parts, deserialize(config["rest"], custom_objects), config["name"])
        optimizer._built_with = (config["built_with"],) if config.get("built_with") else ()
        return optimizer
