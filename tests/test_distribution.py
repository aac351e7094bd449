"""MirroredStrategy on two logical CPUs equals one device, with every option that Keras gets wrong or refuses there."""

import json
import subprocess
import sys

import pytest
from stepping import BACKEND

SCRIPT = """
import json, sys
import numpy as np, tensorflow as tf, keras
from keras import layers
from keras_optreg import select
from keras_optreg.callbacks import EvaluateAtAverage
from keras_optreg.optimizers import SGD, Adam, Lookahead, Nadam, Partition, ScheduleFreeAdamW
from keras_optreg.regularizers import L1

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
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
        rest=Adam(0.05, learning_rate_multipliers=[(select.biases(), 0.5)])), 3),
}

def train(make):
    keras.utils.set_random_seed(1)
    tokens = keras.Input((3,), dtype="int32")
    model = keras.Sequential([tokens, layers.Embedding(7, 4), layers.Flatten(), layers.Dense(1)])
    model.compile(make(), "mse")
    averages = hasattr(model.optimizer, "to_average")
    seen = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, validation_data=(x, y),
                     callbacks=[EvaluateAtAverage()] if averages else [])
    return [np.array(w) for w in model.get_weights()] + [np.array(seen.history["val_loss"])]

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
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
print("RESULT" + json.dumps(out))
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_two_replicas_equal_one_device():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    differences = json.loads(line.removeprefix("RESULT"))
    weight, updates = differences.pop("overflow")
    assert weight == pytest.approx(1 - 0.1 * 2.5)  # the mean gradient of the second batch
    assert updates == 1
    assert len(differences) == 4
    assert max(differences.values()) < 2e-6, differences
