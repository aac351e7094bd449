"""An optimizer's arguments as JSON and back: numbers, schedules, selectors, penalties, and what selectors found."""

from typing import TYPE_CHECKING, Any, NamedTuple

from keras_optreg.saving import deserialize, serialize
from keras_optreg.select import Selector

if TYPE_CHECKING:
    from keras_optreg.optimizers.rule_optimizer import RuleOptimizer

PAIRS = ("learning_rate_multipliers", "penalties")
"""The arguments that hold (selector, thing) pairs."""


class Rest(NamedTuple):
    """What a config holds besides arguments of the constructor."""

    learning_rate_scale: float | None
    excluded: dict[str, list[Selector]]
    built_with: dict[str, Any] | None


def with_arguments(optimizer: "RuleOptimizer", config: dict[str, Any]) -> dict[str, Any]:
    """Keras's config of the optimizer with everything that Keras does not know."""
    config = config | optimizer.own_arguments()
    if (scale := optimizer.rate_scale()) != 1.0:
        config["learning_rate_scale"] = scale
    if callable(optimizer.weight_decay):
        config["weight_decay"] = serialize(optimizer.weight_decay)
    if optimizer.weight_decay_on is not None:
        config["weight_decay_on"] = serialize(optimizer.weight_decay_on)
    if optimizer.learning_rate_multipliers:
        config["learning_rate_multipliers"] = [[serialize(s), m] for s, m in optimizer.learning_rate_multipliers]
    if optimizer.penalties:
        config["penalties"] = [[serialize(s), serialize(p)] for s, p in optimizer.penalties]
    if optimizer.gradient_transforms:
        config["gradient_transforms"] = [serialize(transform) for transform in optimizer.gradient_transforms]
    if optimizer.sparse is not None:
        config["sparse"] = optimizer.sparse
    if any(optimizer._excluded.value.values()):
        config["excluded"] = {k: [serialize(s) for s in given] for k, given in optimizer._excluded.value.items()}
    if optimizer._built_with is not None:
        config["built_with"] = optimizer._built_with.value
    return config


def restored(config: dict[str, Any], custom_objects: Any) -> tuple[dict[str, Any], Rest]:
    """Arguments for the constructor, and the rest."""

    def thing(value: Any) -> Any:
        return deserialize(value, custom_objects) if isinstance(value, dict) and "class_name" in value else value

    arguments = dict(config)
    excluded = arguments.pop("excluded", None) or {}
    rest = Rest(
        arguments.pop("learning_rate_scale", None),
        {name: [thing(selector) for selector in given] for name, given in excluded.items()},
        arguments.pop("built_with", None),
    )
    for name in ("learning_rate", "weight_decay", "weight_decay_on"):
        if name in arguments:
            arguments[name] = thing(arguments[name])
    for name in PAIRS:
        if arguments.get(name):
            arguments[name] = [(thing(selector), thing(value)) for selector, value in arguments[name]]
    if arguments.get("gradient_transforms"):
        arguments["gradient_transforms"] = [thing(transform) for transform in arguments["gradient_transforms"]]
    return arguments, rest
