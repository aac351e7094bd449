"""Freeze and unfreeze layers within a training, with an optimizer that goes on."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.gradient_tap import GradientTap
from keras_optreg.introspection import optimizers_of

MADE_AT_CONSTRUCTION = ("_iterations", "_learning_rate", "_learning_rate_scale")
"""The variables of an optimizer, Keras's or ours, that are there before it is built."""

PER_WEIGHT = ("started", "multipliers", "strengths")
"""Vectors of ours with an entry for each weight, or made anew from what is set; not to be copied as they are."""

SCHEDULED = "live_"
"""How the variables begin that `ParameterSchedule` adds to an optimizer that is built."""


def set_trainable(model: Any, layers: Iterable[keras.Layer], value: bool) -> None:
    """Set `trainable` of layers so that it acts at once, within `fit` too.

    The optimizer keeps its count, its rate and the slots of the weights that go on; those of new weights begin as they
    do where a weight gets its first gradient late. Slots of frozen weights are gone.
    """
    before = [id(w) for w in model.trainable_variables]
    for layer in layers:
        for part in layer._flatten_layers():  # each: on TensorFlow, setting what a container says already does nothing
            part.trainable = value
        if value:
            model._trainable = True  # of the model alone: its setter would unfreeze every layer
    if [id(w) for w in model.trainable_variables] == before:
        return
    if getattr(model.optimizer, "built", False):
        _rebuild(model)
    if model.train_function is not None:
        model.make_train_function(force=True)
    model.test_function = None  # batch normalisation evaluates alike, but penalties count for trainable weights alone


def _rebuild(model: Any) -> None:
    """Build the optimizer for the weights that are trainable now."""
    optimizers = optimizers_of(model)
    taps = [tap for optimizer in optimizers if isinstance(tap := optimizer.__dict__.get("apply"), GradientTap)]
    with ExitStack() as stack:
        if keras.config.backend() == "tensorflow":
            stack.enter_context(model.distribute_strategy.scope())
        for tap in taps:
            stack.enter_context(tap.own_variables_only())
        before = [_taken_apart(optimizer) for optimizer in optimizers]
        model.optimizer.build(model.trainable_variables)
        for optimizer, parts in zip(optimizers, before, strict=True):
            _restore(optimizer, *parts)


def _taken_apart(optimizer: Any) -> tuple[list[Any], list[Any], dict[str, Any], Any]:
    """The optimizer as it was before it was built; what it was built for, and the variables that it had.

    Those that are attributes come by that name too: Keras's `Nadam` has one whose own name is another each time.
    """
    made_first = [getattr(optimizer, name, None) for name in MADE_AT_CONSTRUCTION]
    slots = [v for v in optimizer._variables if not any(v is each for each in made_first)]
    for variable in slots:
        optimizer._untrack_variable(variable)
    attributes = {name: v for name, v in vars(optimizer).items() if isinstance(v, keras.Variable)}
    weights, started = list(optimizer._trainable_variables), getattr(getattr(optimizer, "state", None), "started", None)
    optimizer._trainable_variables_indices = {}
    if hasattr(optimizer, "_built_with"):
        optimizer._built_with = None  # positions among other weights
    optimizer.built = False
    return weights, slots, attributes, started


def _restore(optimizer: Any, weights: list[Any], slots: list[Any], attributes: dict[str, Any], started: Any) -> None:
    for variable in slots:
        if variable.name.startswith(SCHEDULED):
            optimizer._track_variable(variable)
    position = {id(w): i for i, w in enumerate(weights)}
    old = defaultdict(list)
    for variable in slots:
        old[variable.name].append(variable)
    for variable in optimizer._variables:
        if variable.name not in PER_WEIGHT and old[variable.name]:
            variable.assign(ops.copy(old[variable.name].pop(0).value))
    for name, variable in attributes.items():
        made = getattr(optimizer, name)
        if made is not variable and name not in PER_WEIGHT and made.shape == variable.shape:
            made.assign(ops.copy(variable.value))
    if optimizer.use_ema:  # an average that starts late starts at its weight
        averages = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
        for w, average in averages:
            if average is not None and id(w) not in position:
                average.assign(ops.copy(w.value))  # a copy: JAX gives the buffers of both to the step
    if started is not None:
        flags = ops.convert_to_numpy(started)
        kept = [float(flags[position[id(w)]]) if id(w) in position else 0.0 for w in optimizer._trainable_variables]
        optimizer.state.started.assign(kept)
