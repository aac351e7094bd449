"""An optimizer's state in a file: Keras's numbered values, and besides them what each of them is.

Keras restores by count alone, so another method's state, or a schedule's scale in the place of a rate, is taken for
one's own where the counts agree.
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from keras_optreg.optimizers.rule_optimizer import RuleOptimizer

ENTRY = "layout"
STRENGTHS = "strengths"
RATES = {"learning_rate": "a number", "learning_rate_scale": "driven by a schedule"}
"""Two kinds that have the same place."""


def save(optimizer: "RuleOptimizer", store: Any) -> None:
    """Add the layout to the values that Keras stored."""
    store[ENTRY] = np.frombuffer(json.dumps(_layout(optimizer)).encode(), "uint8")


def load(optimizer: "RuleOptimizer", store: Any) -> None:
    """Restore the state. Where it is another optimizer's: warn, and leave everything as it is, as Keras does.

    A file that Keras's own optimizer wrote has no layout; it is restored when numbers and shapes agree, as what Keras
    has in these places.

    Raises:
        ValueError: under loss scaling, where Keras has by then overwritten the state.
    """
    names, layout = set(store.keys()), _layout(optimizer)
    # What the penalties say holds; their config is saved, too.
    variables = [v for v, kind in zip(optimizer.variables, layout, strict=True) if kind != STRENGTHS]
    here = [kind for kind in layout if kind != STRENGTHS]
    kerass = ["learning_rate" if kind in RATES else kind for kind in here]
    there: list[str] = json.loads(np.asarray(store[ENTRY]).tobytes()) if ENTRY in names else kerass
    values = [store[str(i)] for i in range(len(names - {ENTRY}))]
    if STRENGTHS in there:
        values = [value for value, kind in zip(values, there, strict=False) if kind != STRENGTHS]
        there = [kind for kind in there if kind != STRENGTHS]
    is_new = len(there) == 2 and values[0] == 0 and int(keras.ops.convert_to_numpy(optimizer._iterations)) == 0
    if ENTRY in names and is_new:  # saved before the first step, when it was not built, and none was taken here
        here = here[:2]
    fits = len(values) == len(here) and all(
        tuple(variable.shape) == tuple(np.shape(value)) for variable, value in zip(variables, values, strict=False)
    )
    if optimizer.is_loss_scaled and not (fits and there == here):
        raise ValueError(
            f"The saved state is that of another optimizer than '{optimizer.name}', and `LossScaleOptimizer` has "
            f"written it over this one's. Saved: {_counted(there)}. Here: {_counted(here)}. Compile the model again, "
            "and load its weights alone: from a model file by keras.saving.load_model(path, compile=False)."
        )
    if not fits or _without_rates(there) != _without_rates(here):
        saved = _counted(there) if ENTRY in names else f"{len(values)} variables"
        hint = "" if optimizer.built else (
            " It is not built: train, or call optimizer.build(model.trainable_variables), before loading."
        )  # fmt: skip
        warnings.warn(
            f"Skipping variable loading for optimizer '{optimizer.name}': the saved state is another optimizer's. "
            f"Saved: {saved}. Here: {_counted(here)}.{hint}",
            stacklevel=4,
        )
        return
    for variable, value, own, saved in zip(variables, values, here, there, strict=False):
        if own == saved:
            variable.assign(value)
        else:
            warnings.warn(
                f"Optimizer '{optimizer.name}' keeps its own learning rate: the saved one was {RATES[saved]}, this one "
                f"is {RATES[own]}.",
                stacklevel=4,
            )
    if optimizer.built and optimizer.state.strengths is not None:
        optimizer.state.strengths.refresh()  # `LossScaleOptimizer` has written over it


def _layout(optimizer: "RuleOptimizer") -> list[str]:
    """What each of `optimizer.variables` is, in their order."""
    rate = optimizer._learning_rate
    groups: dict[str, Sequence[Any]] = {"iteration": [optimizer._iterations]}
    if isinstance(rate, keras.Variable):
        groups["learning_rate"] = [rate]
    else:
        groups["learning_rate_scale"] = [optimizer._learning_rate_scale]
    if optimizer.built:
        groups |= optimizer.state.slots
        groups |= {name: [variable] for name, variable in optimizer.state.shared.items()}
        groups["started"] = [optimizer.state.started]
        groups["multipliers"] = [optimizer.state.multipliers]
        groups[STRENGTHS] = [optimizer.state.strengths and optimizer.state.strengths.variable]
        groups["average"] = optimizer._model_variables_moving_average if optimizer.use_ema else []
        if k := optimizer.gradient_accumulation_steps:
            groups[f"accumulated over {k}"] = optimizer._accumulated_gradients
    kinds = {id(variable): kind for kind, group in groups.items() for variable in group if variable is not None}
    return [kinds.get(id(variable), str(variable.name)) for variable in optimizer.variables]


def _without_rates(layout: Sequence[str]) -> list[str]:
    return ["rate" if kind in RATES else kind for kind in layout]


def _counted(layout: Sequence[str]) -> str:
    """For instance `iteration, learning_rate, 2 m, 2 v`."""
    return ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in Counter(layout).items())
