"""Under `fit`: every way of running a step gives the same numbers, and state survives as promised."""

import keras
import numpy as np
import pytest
from keras import layers
from stepping import BACKEND

from keras_optreg import select
from keras_optreg.optimizers import SGD, Adam, AdamW
from keras_optreg.regularizers import L1

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5)).astype("float32")
Y = RNG.integers(0, 3, size=(24,))


def make_model():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, activation="tanh"), layers.Dense(3, activation="softmax")]
    )


def fitted(optimizer, epochs=2, model=None, **compile_options):
    model = model or make_model()
    model.compile(optimizer, "sparse_categorical_crossentropy", **compile_options)
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
    return model


def full_options():
    return AdamW(
        keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.9),
        weight_decay=0.02,
        weight_decay_on=select.kernels(),
        penalties=[(select.matching("dense"), L1(1e-3))],
        learning_rate_multipliers=[(select.biases(), 2.0)],
        global_clipnorm=0.5,
        use_ema=True,
        ema_momentum=0.9,
        gradient_accumulation_steps=2,
    )


MODES = {
    "default": {},
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "no jit": {"jit_compile": False},
    "three steps an execution": {"steps_per_execution": 3},
}
if BACKEND == "torch":  # torch compiles with a C++ compiler for minutes, and Keras has no steps_per_execution there
    MODES = {name: MODES[name] for name in ("default", "eager")}


@pytest.fixture(scope="module")
def by_hand():
    """The same training with gradients taken one by one and the optimizer called outside `fit`."""
    model, optimizer = make_model(), full_options()
    variables = model.trainable_variables
    loss = keras.losses.SparseCategoricalCrossentropy()
    for _ in range(2):
        for i in range(0, len(X), 4):
            optimizer.apply(gradients(model, loss, X[i : i + 4], Y[i : i + 4]), variables)
    optimizer.finalize_variable_values(variables)
    return model.get_weights()


def gradients(model, loss, x, y):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(y, model(x))
        return tape.gradient(value, model.trainable_variables)
    if BACKEND == "jax":
        import jax

        def value(weights):
            out, _ = model.stateless_call(weights, [v.value for v in model.non_trainable_variables], x)
            return loss(y, out)

        return jax.grad(value)([v.value for v in model.trainable_variables])
    model.zero_grad()
    loss(keras.ops.convert_to_tensor(y), model(x)).backward()
    return [v.value.grad for v in model.trainable_variables]


@pytest.mark.filterwarnings("ignore:use_ema=True overwrites")  # no zeros are wanted here
@pytest.mark.parametrize("mode", MODES)
def test_all_options_together_in_every_mode(mode, by_hand):
    model = fitted(full_options(), **MODES[mode])
    for a, e in zip(model.get_weights(), by_hand, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
    assert int(model.optimizer.iterations) == 6


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_in_place_of_keras_in_fit(name):
    ours = fitted({"SGD": SGD, "Adam": Adam}[name](0.02)).get_weights()
    theirs = fitted(getattr(keras.optimizers, name)(0.02)).get_weights()
    for a, e in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("run_op_by_op")
def test_saved_model_continues_as_if_never_stopped(tmp_path):
    def options():
        multipliers = [(select.biases(), 0.5)]
        return Adam(0.02, weight_decay=0.01, penalties=L1(1e-3), gradient_accumulation_steps=3,
                    learning_rate_multipliers=multipliers)  # fmt: skip

    unbroken = fitted(options(), epochs=2)
    stopped = fitted(options(), epochs=1)
    stopped.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    loaded.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert type(loaded.optimizer) is Adam
    for a, e in zip(loaded.get_weights(), unbroken.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_low_precision_models_train_with_float32_slots(policy):
    inner = Adam(0.02, penalties=L1(1e-3))
    # A small scale, for at Keras's first scale of 2**15 the first gradients overflow and their steps are skipped.
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0) if policy == "mixed_float16" else inner
    keras.config.set_dtype_policy(policy)
    try:
        model = make_model()
        start = model.get_weights()
        model = fitted(optimizer, epochs=3, model=model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {v.dtype for v in inner.variables[1:]} == {"float32"}
    assert int(inner.iterations) == 18
    plain = make_model()
    plain.set_weights([np.asarray(w, "float32") for w in start])
    plain = fitted(Adam(0.02, penalties=L1(1e-3)), epochs=3, model=plain)
    for a, e in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(np.asarray(a, "float32"), e, atol=0.06)


def test_proximal_l1_leaves_exact_zeros_where_keras_leaves_none():
    ours = fitted(Adam(0.02, penalties=L1(0.05)), epochs=8).get_weights()[0]
    model = make_model()
    model.layers[0].kernel.regularizer = keras.regularizers.L1(0.05)
    theirs = fitted(keras.optimizers.Adam(0.02), epochs=8, model=model).get_weights()[0]
    assert np.count_nonzero(ours == 0) >= 5
    assert np.count_nonzero(theirs == 0) == 0


def test_use_ema_leaves_the_average_at_the_end_and_it_is_the_average():
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([np.array(w) for w in self.model.get_weights()])

    model = make_model()
    model.compile(SGD(0.1, use_ema=True, ema_momentum=0.8), "sparse_categorical_crossentropy")
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0, callbacks=[Watch()])
    average = seen[0]
    for weights in seen[1:]:
        average = [0.8 * a + 0.2 * w for a, w in zip(average, weights, strict=True)]
    for a, e in zip(model.get_weights(), average, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
