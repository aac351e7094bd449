"""A learning rate that falls from the output of a network to its input."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optreg import select
from keras_optreg.bounds import POSITIVE, check
from keras_optreg.select import Selector


def layerwise_decay(
    model: Any, decay: float = 0.8, groups: Sequence[Selector] | None = None
) -> list[tuple[Selector, float]]:
    """Learning-rate multipliers that fall by a factor from layer to layer, from the output to the input.

    When to use it: fine-tuning of a pretrained model, whose first layers know most of what they should.

        multiplier of the layer k layers before the last = decay^k

    Layers count in the order of `model.layers`, those inside nested models one by one. A layer begins a new level when
    it has a matrix, filter or table; layers with vectors alone, such as normalisation, belong to the level before.
    Layers that are frozen now are in no level: unfreeze first.

    Args:
        model: a built model.
        decay: the factor, > 0. 0.8 for some dozen layers; 0.65 to 0.95 are usual.
        groups: selectors of the levels from input to output, where layers are not the right ones: the blocks of a
            transformer, say. Weights in none of them have the full rate.

    Returns:
        (selector, multiplier) pairs for `learning_rate_multipliers=` of any optimizer.

    Raises:
        ValueError: for a number outside its range, a model that is not built or has no weights, or an empty `groups`.

    Example:
        >>> model = keras.Sequential([keras.Input((2,))] + [keras.layers.Dense(2) for _ in range(3)])
        >>> from keras_optreg.optimizers import AdamW
        >>> optimizer = AdamW(1e-4, learning_rate_multipliers=layerwise_decay(model, 0.5))
        >>> [factor for _, factor in optimizer.learning_rate_multipliers]
        [0.25, 0.5, 1.0]

    Reference:
        Howard & Ruder, "Universal language model fine-tuning for text classification", 2018, section 3.2
        ("discriminative fine-tuning"), arXiv:1801.06146.
    """
    check("layerwise_decay", {"decay": decay}, {"decay": POSITIVE})
    levels = list(groups) if groups is not None else [select.variables(level) for level in _levels(model)]
    if not levels:
        raise ValueError("layerwise_decay found no level: the model has no trainable weights, or `groups` is empty.")
    return [(level, decay ** (len(levels) - 1 - i)) for i, level in enumerate(levels)]


def _levels(model: Any) -> list[list[Any]]:
    if not model.built:
        raise ValueError("layerwise_decay needs a model with weights: call it on data, or model.build(), first.")
    levels: list[list[Any]] = []
    seen: set[int] = set()
    for layer in _leaves(model):
        own = [v for v in layer.trainable_variables if id(v) not in seen]  # a shared layer counts where it comes first
        seen |= {id(v) for v in own}
        if own and (not levels or any(len(v.shape) > 1 for v in own)):
            levels.append([])
        if own:
            levels[-1] += own
    return levels


def _leaves(layer: Any) -> list[Any]:
    if isinstance(layer, keras.Model):
        return [leaf for inner in layer.layers for leaf in _leaves(inner)]
    return [layer]
