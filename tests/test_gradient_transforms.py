"""Transforms of gradients and updates: their formulas in NumPy, their place in the update, their config."""

import json

import keras
import numpy as np
import pytest
from stepping import MODES, problem, run

from keras_optreg.optimizers import MADGRAD, SGD, Adam, Lion
from keras_optreg.optimizers.gradient_transforms import AdaptiveClip, Cautious, Centralize

LR = 0.1
WEIGHTS, GRADIENTS = problem()


def assert_close(actual, expected, rtol=2e-5, atol=2e-6):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


def centralized(g, w):
    return g - g.mean(axis=tuple(range(g.ndim - 1)), keepdims=True) if g.ndim > 1 else g


def adaptively_clipped(g, w, clipping=0.05, epsilon=1e-3):
    axes = tuple(range(g.ndim - 1)) if g.ndim > 1 else None
    longest = clipping * np.maximum(np.sqrt((w**2).sum(axis=axes, keepdims=True)), epsilon)
    norm = np.sqrt((g**2).sum(axis=axes, keepdims=True))
    return np.where(norm > longest, g * longest / np.where(norm > 0, norm, 1), g)


def descended(transform, gradients):
    weights = [w.astype("float64") for w in WEIGHTS]
    for grads in gradients:
        weights = [w - LR * transform(g.astype("float64"), w) for w, g in zip(weights, grads, strict=True)]
    return weights


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("transforms", "by_hand"),
    [
        ([Centralize()], centralized),
        (AdaptiveClip(0.05), adaptively_clipped),
        ([Centralize(), AdaptiveClip(0.05)], lambda g, w: adaptively_clipped(centralized(g, w), w)),
    ],
    ids=["centralize", "clip", "both in order"],
)
def test_equals_its_formula_in_every_mode(transforms, by_hand, mode):
    actual, _ = run(lambda: SGD(LR, gradient_transforms=transforms), WEIGHTS, GRADIENTS, mode)
    assert_close(actual, descended(by_hand, GRADIENTS))


def test_filters_are_centralised_over_all_axes_but_the_last():
    g = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("float32")
    found = keras.ops.convert_to_numpy(Centralize().gradient(keras.ops.convert_to_tensor(g), None))
    np.testing.assert_allclose(found.reshape(-1, 5).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found, g - g.reshape(-1, 5).mean(axis=0), atol=1e-6)


def test_a_unit_with_weights_near_zero_is_floored_and_a_gradient_of_zero_stays():
    g, w = np.array([[3.0, 0.0], [4.0, 0.0]], "float32"), np.zeros((2, 2), "float32")
    found = keras.ops.convert_to_numpy(AdaptiveClip(0.1, 1e-2).gradient(*map(keras.ops.convert_to_tensor, (g, w))))
    np.testing.assert_allclose(found, [[0.6e-3, 0.0], [0.8e-3, 0.0]], rtol=1e-6)


def test_transforms_come_before_keras_clipping():
    actual, _ = run(lambda: SGD(LR, gradient_transforms=[Centralize()], clipvalue=0.05), WEIGHTS, GRADIENTS)
    assert_close(actual, descended(lambda g, w: np.clip(centralized(g, w), -0.05, 0.05), GRADIENTS))


def test_cautious_leaves_out_what_goes_uphill():
    w = [WEIGHTS[0].astype("float64"), WEIGHTS[1].astype("float64")]
    m = [np.zeros_like(x) for x in w]
    masked = 0
    for grads in GRADIENTS:
        for i, g in enumerate(grads):
            g = g.astype("float64")
            u = -LR * np.sign(0.9 * m[i] + 0.1 * g)
            m[i] = 0.99 * m[i] + 0.01 * g
            mask = (u * g < 0).astype("float64")
            masked += int((mask == 0).sum())
            w[i] = w[i] + u * mask / max(mask.mean(), 1e-3)
    actual, _ = run(lambda: Lion(LR, gradient_transforms=[Cautious()]), WEIGHTS, GRADIENTS)
    assert masked > 20
    assert_close(actual, w)


def test_they_are_saved_with_the_optimizer():
    optimizer = Adam(LR, gradient_transforms=[Centralize(), AdaptiveClip(0.05), Cautious()])
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    restored = keras.optimizers.deserialize(config)
    assert restored.gradient_transforms == optimizer.gradient_transforms
    assert (
        repr(restored.gradient_transforms) == "[Centralize(), AdaptiveClip(clipping=0.05, epsilon=0.001), Cautious()]"
    )


def test_what_is_refused():
    with pytest.raises(ValueError, match="`clipping` of AdaptiveClip must be a number in"):
        AdaptiveClip(0)
    with pytest.raises(TypeError, match=r"Make an object of it: Centralize\(\)"):
        SGD(LR, gradient_transforms=[Centralize])
    with pytest.raises(ValueError, match="MADGRAD cannot take a transform of the update"):
        MADGRAD(LR, gradient_transforms=Cautious())
    MADGRAD(LR, gradient_transforms=Centralize())
