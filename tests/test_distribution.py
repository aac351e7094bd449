"""MirroredStrategy on two logical CPUs equals one device, with every option that Keras gets wrong or refuses there."""

import json
import subprocess
import sys

import numpy as np
import pytest
from stepping import BACKEND

# One process for all that follows, as starting TensorFlow takes its time. On one device the steps run eagerly.
START = """
import json
import numpy as np, tensorflow as tf, keras
from keras import layers
from keras_optreg import select
from keras_optreg.callbacks import EarlyStopping, EvaluateAtAverage, ParameterSchedule
from keras_optreg.optimizers import SGD, Adam, Lookahead, Nadam, Partition, ScheduleFreeAdamW
from keras_optreg.regularizers import L1, L2, L2SP, GroupLasso, attach, attach_activity

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def compiled(model, optimizer, **options):
    model.compile(optimizer, "mse", run_eagerly=not tf.distribute.has_strategy(), **options)
    return model
"""

TRAINING = """
rng = np.random.default_rng(0)
x, y = rng.integers(0, 7, size=(16, 3)), rng.normal(size=(16, 1)).astype("float32")
CASES = {
    "sparse gradient, global clip, penalty and decay": lambda: SGD(
        0.5, global_clipnorm=0.1, penalties=L1(1e-2), weight_decay=0.1, weight_decay_on=select.kernels()),
    "shared scalars, accumulation and average": lambda: Nadam(
        0.05, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=3),
    "an average to evaluate": lambda: ScheduleFreeAdamW(0.05, warmup_steps=3, weight_decay=0.1),
    "slow weights around parts": lambda: Lookahead(Partition(
        [(select.embeddings(), SGD(0.5, momentum=0.9, sparse="touched_rows"))],
        rest=Adam(0.05, learning_rate_multipliers=[(select.biases(), 0.5)],
                  penalties=[(select.kernels(), GroupLasso(0.1))])), 3),
}

def train(make):
    keras.utils.set_random_seed(1)
    tokens = keras.Input((3,), dtype="int32")
    model = keras.Sequential([tokens, layers.Embedding(7, 4), layers.Flatten(), layers.Dense(1)])
    compiled(model, make())
    averages = hasattr(model.optimizer, "to_average")
    options = {"validation_data": (x, y), "callbacks": [EvaluateAtAverage()]} if averages else {}
    seen = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, **options)
    return [np.array(w) for w in model.get_weights()] + [np.array(h) for h in seen.history.values()]

out = {}
for name, make in CASES.items():
    alone = train(make)
    with strategy.scope():
        together = train(make)
    out[name] = max(float(np.abs(a - b).max()) for a, b in zip(alone, together))

# Loss scaling: the first of two steps overflows, and only in the second replica.
with strategy.scope():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    inner = SGD(0.1)
    model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0), lambda y, p: p)
model.fit(np.array([[1.0], [1.0], [1.0], [np.inf], [1.0], [2.0], [3.0], [4.0]], "float32"), np.zeros((8, 1)),
          batch_size=4, shuffle=False, verbose=0)
out["overflow"] = [float(model.get_weights()[0][0, 0]), int(keras.ops.convert_to_numpy(inner.iterations))]

# A number that follows a schedule, and evaluations within the epochs, of which nothing is left.
def scheduled(*callbacks):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(1)])
    compiled(model, SGD(0.05, momentum=0.5), metrics=["mae"])
    momentum = ParameterSchedule("momentum", lambda t: 0.9 - 0.1 * t)
    history = model.fit(x / 7, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[momentum, *callbacks])
    values = [np.ravel(w) for w in model.get_weights()] + [np.ravel(h) for h in history.history.values()]
    return np.concatenate(values)

alone = scheduled()
with strategy.scope():
    together = scheduled()
    looked_at = scheduled(EarlyStopping("val_loss", patience=99, every=3, validation_data=(x / 7, y)))
out["scheduled"] = [float(np.abs(alone - together).max()), float(np.abs(together - looked_at).max())]
print("RESULT" + json.dumps(out))
"""

PENALTIES = """
rng = np.random.default_rng(0)
x, y = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")

def one_weight(penalty, optimizer):
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((3,)), dense])
    if penalty is not None:
        attach(model, penalty)
    if isinstance(penalty, L1):
        attach_activity(model, penalty, on=layers.Dense)
    return compiled(model, optimizer)

def train(penalty, in_update=False):
    model = one_weight(None, SGD(0.125, penalties=penalty)) if in_update else one_weight(
        penalty, keras.optimizers.SGD(0.125))
    found = []
    for strength in (0.5, 2.0):  # one step each, on all the data; the same compiled function
        penalty.strength = strength
        loss = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history["loss"][0]
        found.append((model.get_weights()[0].ravel().tolist(), loss))
    return found

out = {"x": x.tolist(), "y": y.tolist()}
for name, make, in_update in (
    ("L2", L2, False), ("L1 on weights and activities", L1, False), ("L2SP", L2SP, False), ("in the update", L1, True)):
    alone = train(make(0.0), in_update)
    with strategy.scope():
        together = train(make(0.0), in_update)
    out[name] = [alone, together]
print("RESULT" + json.dumps(out))
"""


def results_of(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line.removeprefix("RESULT")) for line in done.stdout.splitlines() if line.startswith("RESULT")]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_two_replicas_equal_one_device():
    training, penalties = results_of(START + TRAINING + PENALTIES)
    trained_as_on_one_device(training)
    penalties_count_once_and_a_strength_that_is_set_acts_on_both(penalties)


def trained_as_on_one_device(differences):
    weight, updates = differences.pop("overflow")
    scheduled, looked_at = differences.pop("scheduled")
    assert scheduled < 1e-5
    assert looked_at < 1e-6  # sums of metrics are split and added up again
    assert weight == pytest.approx(1 - 0.1 * 2.5)  # the mean gradient of the second batch
    assert updates == 1
    assert len(differences) == 4
    assert max(differences.values()) < 2e-6, differences


def penalties_count_once_and_a_strength_that_is_set_acts_on_both(found):
    x, y = np.array(found.pop("x")), np.array(found.pop("y"))
    assert len(found) == 4
    for name, (alone, together) in found.items():
        for (w, loss), (other, other_loss) in zip(alone, together, strict=True):
            np.testing.assert_allclose(other, w, rtol=1e-6, atol=1e-6, err_msg=name)
            assert other_loss == pytest.approx(loss, rel=1e-6), name

    # Both steps with L2 by hand: the gradient of the mean square over all examples, and 2λw once.
    w = np.ones((3, 1))
    for strength, (after, loss) in zip((0.5, 2.0), found["L2"][1], strict=True):
        residual = x @ w - y
        assert loss == pytest.approx((residual**2).mean() + strength * (w**2).sum(), rel=1e-5)
        w = w - 0.125 * (2 * x.T @ residual / len(x) + 2 * strength * w)
        np.testing.assert_allclose(after, w.ravel(), rtol=1e-5)
