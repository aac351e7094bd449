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
from keras_optreg.optimizers import SGD, Adam, Nadam
from keras_optreg.regularizers import L1

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x, y = rng.integers(0, 7, size=(16, 3)), rng.normal(size=(16, 1)).astype("float32")
CASES = {
    "shared scalars, penalty and decay": lambda: Nadam(
        0.05, penalties=L1(1e-2), weight_decay=0.1, weight_decay_on=select.kernels()),
    "global clip of a sparse gradient": lambda: SGD(0.5, global_clipnorm=0.1),
    "accumulation and average": lambda: Adam(
        0.05, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=3),
}

def train(make):
    keras.utils.set_random_seed(1)
    tokens = keras.Input((3,), dtype="int32")
    model = keras.Sequential([tokens, layers.Embedding(7, 4), layers.Flatten(), layers.Dense(1)])
    model.compile(make(), "mse")
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return [np.array(w) for w in model.get_weights()]

out = {}
for name, make in CASES.items():
    alone = train(make)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        together = train(make)
    out[name] = max(float(np.abs(a - b).max()) for a, b in zip(alone, together))
print("RESULT" + json.dumps(out))
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_two_replicas_equal_one_device():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    differences = json.loads(line.removeprefix("RESULT"))
    assert len(differences) == 3
    assert max(differences.values()) < 2e-6, differences
