"""The arguments that all optimizers share: their names, defaults, legal values, and the signature that shows them."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optreg import bounds

OPTION_DEFAULTS: dict[str, Any] = {
    "weight_decay": None,
    "weight_decay_on": None,
    "learning_rate_multipliers": None,
    "penalties": None,
    "gradient_transforms": None,
    "sparse": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "name": None,
}
OTHERS_NAMES = {"lr": "learning_rate", "eps": "epsilon", "betas": "beta_1` and `beta_2", "wd": "weight_decay"}
"""Keras 2's and PyTorch's names for arguments, with ours."""
ENGINE_OPTIONS = ("weight_decay_on", "learning_rate_multipliers", "penalties", "gradient_transforms", "sparse")
"""Those that Keras's base class does not know."""
CONSTANTS = tuple(name for name in OPTION_DEFAULTS if name not in (*ENGINE_OPTIONS, "weight_decay", "name"))
"""Those that stand as numbers in a compiled step."""


def as_rate(owner: str, rate: Any) -> Any:
    """A legal learning rate: a number >= 0 as a float, a schedule or another callable as it is."""
    if isinstance(rate, type):
        raise ValueError(
            f"The `learning_rate` of {owner} is a class; make an object of it, as in {rate.__name__}(...). "
            f"Received: {rate!r}"
        )
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) or callable(rate):
        return rate
    if not isinstance(rate, str) and getattr(rate, "shape", None) == ():
        rate = float(ops.convert_to_numpy(rate))
    if not bounds.is_number(rate):
        raise ValueError(
            f"The `learning_rate` of {owner} should be a number, a schedule or a callable. Received: {rate!r}"
        )
    bounds.check(owner, {"learning_rate": float(rate)}, {"learning_rate": bounds.NON_NEGATIVE})
    return float(rate)


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy numbers as Python's: a compiled step cannot take them, a config should not."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in arguments.items()}


def check_names(owner: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse an argument that nobody knows, and say which one was probably meant."""
    known = [*OPTION_DEFAULTS, *own, "learning_rate"]
    for name in set(given) - set(known) - {"decay"}:  # Keras answers `decay` itself, with a warning
        close = [OTHERS_NAMES[name]] if name in OTHERS_NAMES else difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"It takes {', '.join(known)}."
        if name.endswith("_regularizer"):
            hint = "A regularizer belongs to a layer (keras_optreg.attach(model, penalty)) or in `penalties=`."
        raise ValueError(f"Argument(s) not recognized: {owner} has no argument `{name}`. {hint}")


def check_values(
    owner: str, given: Mapping[str, Any], own: Mapping[str, Any], ranges: Mapping[str, bounds.Interval]
) -> None:
    """Refuse numbers outside their ranges, and flags that are neither True nor False."""
    bounds.check(owner, own, ranges)
    for name in set(own) - set(ranges):
        if not isinstance(own[name], bool):
            raise ValueError(f"The `{name}` of {owner} must be True or False. Received: {name}={own[name]!r}")
    steps = given.get("gradient_accumulation_steps")
    if steps and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 2):
        raise ValueError(
            f"The `gradient_accumulation_steps` of {owner} is an integer >= 2, or None. "
            f"Received: gradient_accumulation_steps={steps!r}"
        )
    if given.get("ema_overwrite_frequency") and not given.get("use_ema"):
        raise ValueError(
            f"{owner} got `ema_overwrite_frequency` without use_ema=True, so there is no moving average to overwrite "
            "the weights with. Give use_ema=True, or leave ema_overwrite_frequency out."
        )
    positive = ("clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor")
    numbers = {name: given[name] for name in positive if given.get(name) is not None}
    bounds.check(owner, numbers, {name: bounds.POSITIVE for name in numbers})
    if given.get("ema_momentum") is not None:
        bounds.check(owner, {"ema_momentum": given["ema_momentum"]}, {"ema_momentum": bounds.CLOSED_FRACTION})
    decay = given.get("weight_decay")
    if isinstance(decay, type | keras.regularizers.Regularizer):
        raise ValueError(
            f"The `weight_decay` of {owner} is a number, a schedule or FullyDecoupled(number). Received: {decay!r}. A "
            "penalty goes into `penalties=` or keras_optreg.attach(model, penalty)."
        )
    if decay is not None and not callable(decay):
        bounds.check(owner, {"weight_decay": decay}, {"weight_decay": bounds.NON_NEGATIVE})


def full_signature(cls: type) -> inspect.Signature:
    """The signature of a class with the shared arguments named in place of `**options`."""
    own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.name != "self"]
    named = [p for p in own if p.kind is not p.VAR_KEYWORD]
    if len(named) == len(own):
        return inspect.Signature(named)
    taken = {p.name for p in named}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in OPTION_DEFAULTS.items()
        if name not in taken
    ]
    return inspect.Signature([*named, *options])
