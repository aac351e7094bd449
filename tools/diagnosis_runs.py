"""Real trainings, each with a fault of its own or with none, by which `diagnose` is judged.

    python tools/diagnosis_runs.py               # trains all, five seeds each, in ten minutes; then draws
    python tools/diagnosis_runs.py overfitting   # trains one of them anew

The numbers go to tests/data/diagnosis_runs.json.gz. docs/diagnosis.md is made of them, and tests/test_diagnosis.py
judges `diagnose` by them and by trainings of its own.
"""

import argparse
import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

import keras_optreg as kor
from keras_optreg import callbacks
from keras_optreg.diagnosis import Curve, Recorded

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "data" / "diagnosis_runs.json.gz"
SEEDS = 5


class Data(NamedTuple):
    """Training and validation examples."""

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray


class Training(NamedTuple):
    """A model, compiled, and how it is fitted."""

    model: keras.Model
    data: Data
    epochs: int
    batch_size: int = 32
    callbacks: tuple[keras.callbacks.Callback, ...] = ()


# ------------------------------------------------------------------ data


def split(x: np.ndarray, y: np.ndarray, size: int, seed: int, validation: int = 500) -> Data:
    order = np.random.default_rng(seed).permutation(len(x))
    train, rest = order[:size], order[size : size + validation]
    return Data(x[train], y[train], x[rest], y[rest])


def digits(seed: int, size: int = 1200) -> Data:
    x, y = load_digits(return_X_y=True)
    return split((x / 16).astype("float32"), y, size, seed)


def digit_rows(seed: int) -> Data:
    data = digits(seed)
    return data._replace(x=data.x.reshape(-1, 8, 8), x_val=data.x_val.reshape(-1, 8, 8))


def digit_pixels(seed: int) -> Data:
    data = digits(seed)
    return data._replace(x=data.x.reshape(-1, 64, 1), x_val=data.x_val.reshape(-1, 64, 1))


def clothes(seed: int, size: int = 2000) -> Data:
    arrays = np.load(ROOT / "examples" / "data" / "fashion_mnist_small.npz")
    x = np.concatenate([arrays["x_train"], arrays["x_validation"]])[..., None].astype("float32") / 255
    return split(x, np.concatenate([arrays["y_train"], arrays["y_validation"]]), size, seed)


def standardized(load: Callable[..., Any], size: int, seed: int) -> Data:
    x, y = load(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return split(x.astype("float32"), y.astype("float32"), size, seed)


def diabetes(seed: int) -> Data:
    data = standardized(load_diabetes, 300, seed)
    mean, std = data.y.mean(), data.y.std()
    return data._replace(y=(data.y - mean) / std, y_val=(data.y_val - mean) / std)


def tumours(seed: int) -> Data:
    return standardized(load_breast_cancer, 350, seed)


# ------------------------------------------------------------------ models


def compiled(layers: list[keras.Layer], data: Data, optimizer: Any) -> keras.Model:
    model = keras.Sequential([keras.Input(data.x.shape[1:]), *layers])
    if data.y.dtype.kind in "iu":
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    else:
        model.compile(optimizer, "mse")
    return model


def dense(units: int, activation: Any = "relu", **options: Any) -> keras.Layer:
    return keras.layers.Dense(units, activation, **options)


def small(data: Data, optimizer: Any, units: int = 64, activation: Any = "relu") -> keras.Model:
    return compiled(
        [keras.layers.Flatten(), dense(units, activation), dense(units, activation), dense(10, None)], data, optimizer
    )


# ------------------------------------------------------------------ trainings with a fault


def overfitting(seed: int) -> Training:
    """Two hidden layers of 128 units, 200 images, 30 epochs of Adam(1e-3)."""
    data = clothes(seed, size=200)
    return Training(small(data, kor.optimizers.Adam(1e-3), units=128), data, epochs=30)


def underfitting(seed: int) -> Training:
    """One hidden layer of two units for ten classes of images, Adam(2e-2) down a cosine, 20 epochs."""
    data = clothes(seed)
    rate = kor.schedules.CosineDecay(2e-2, 20 * 63)
    return Training(
        compiled([keras.layers.Flatten(), dense(2, "tanh"), dense(10, None)], data, kor.optimizers.Adam(rate)), data, 20
    )


def diverging(seed: int) -> Training:
    """A regression on 10 standardized features with SGD(0.5)."""
    data = diabetes(seed)
    return Training(compiled([dense(32), dense(1, None)], data, kor.optimizers.SGD(0.5)), data, epochs=10)


def jumping(seed: int) -> Training:
    """Two hidden layers of 64 tanh units with Adam(0.1)."""
    data = digits(seed)
    return Training(small(data, kor.optimizers.Adam(0.1), activation="tanh"), data, epochs=15)


def thrown_out(seed: int) -> Training:
    """Two hidden layers of 64 relu units with Adam(0.3): the first steps kill most of them."""
    data = digits(seed)
    return Training(small(data, kor.optimizers.Adam(0.3)), data, epochs=10)


def rate_too_low(seed: int) -> Training:
    """Two hidden layers of 64 units with Adam(3e-6)."""
    data = digits(seed)
    return Training(small(data, kor.optimizers.Adam(3e-6)), data, epochs=10)


def vanishing_gradients(seed: int) -> Training:
    """Eight hidden layers of 32 sigmoid units, Adam(1e-3)."""
    data = digits(seed)
    layers = [dense(32, "sigmoid") for _ in range(8)]
    return Training(compiled([*layers, dense(10, None)], data, kor.optimizers.Adam(1e-3)), data, epochs=10)


def exploding_with_depth(seed: int) -> Training:
    """Twenty hidden layers of 64 tanh units, started three times as large as usual, Adam(1e-4)."""
    data = digits(seed)
    wide = keras.initializers.VarianceScaling(9.0, "fan_in")
    layers = [dense(64, "tanh", kernel_initializer=wide) for _ in range(20)]
    return Training(compiled([*layers, dense(10, None)], data, kor.optimizers.Adam(1e-4)), data, epochs=10)


def exploding_in_time(seed: int) -> Training:
    """A SimpleRNN over 64 pixels whose recurrent kernel starts three times as large as usual, clipped Adam(1e-3)."""
    data = digit_pixels(seed)
    wide = keras.initializers.Orthogonal(3.0)
    layers = [keras.layers.SimpleRNN(32, recurrent_initializer=wide), dense(10, None)]
    return Training(compiled(layers, data, kor.optimizers.Adam(1e-3, global_clipnorm=1.0)), data, epochs=5)


def dead_units(seed: int) -> Training:
    """Two hidden layers of 64 relu units, SGD(0.5) with momentum 0.9."""
    data = digits(seed)
    return Training(small(data, kor.optimizers.SGD(0.5, momentum=0.9)), data, epochs=10)


def dead_units_by_start(seed: int) -> Training:
    """Two hidden layers of 64 relu units whose biases start at -1."""
    data = digits(seed)
    start = keras.initializers.Constant(-1.0)
    layers = [dense(64, bias_initializer=start), dense(64, bias_initializer=start), dense(10, None)]
    return Training(compiled(layers, data, kor.optimizers.Adam(1e-3)), data, epochs=10)


def dominating_penalty(seed: int) -> Training:
    """Two hidden layers of 64 units, L2(0.1) attached to their kernels."""
    data = digits(seed)
    model = small(data, kor.optimizers.Adam(1e-3))
    kor.attach(model, kor.regularizers.L2(0.1))
    return Training(model, data, epochs=15)


def dominating_l1(seed: int) -> Training:
    """Two hidden layers of 64 units, L1(0.02) attached to their kernels."""
    data = digits(seed)
    model = small(data, kor.optimizers.Adam(1e-3))
    kor.attach(model, kor.regularizers.L1(0.02))
    return Training(model, data, epochs=15)


def plateau(seed: int) -> Training:
    """Two hidden layers of 32 tanh units whose kernels start near zero, at a saddle, SGD(0.05), 20 epochs."""
    data = digits(seed)
    start = keras.initializers.RandomNormal(stddev=1e-3, seed=seed)
    hidden = [dense(32, "tanh", kernel_initializer=start) for _ in range(2)]
    layers = [*hidden, dense(10, None, kernel_initializer=start)]
    return Training(compiled(layers, data, kor.optimizers.SGD(0.05)), data, epochs=20)


def plateau_of_noise(seed: int) -> Training:
    """A linear regression with SGD(0.01) in batches of 4, 20 epochs."""
    data = diabetes(seed)
    return Training(compiled([dense(1, None)], data, kor.optimizers.SGD(0.01)), data, epochs=20, batch_size=4)


# ------------------------------------------------------------------ healthy trainings


def healthy_digits(seed: int) -> Training:
    """Two hidden layers of 64 units and dropout, images of digits, Adam(1e-3), 15 epochs."""
    data = digits(seed)
    layers = [dense(64), keras.layers.Dropout(0.2, seed=seed), dense(64), dense(10, None)]
    return Training(compiled(layers, data, kor.optimizers.Adam(1e-3)), data, epochs=15)


def healthy_clothes(seed: int) -> Training:
    """Two convolutions and dropout, images of clothes, AdamW on one cycle of 10 epochs."""
    data = clothes(seed)
    convolutions = [keras.layers.Conv2D(n, 3, strides=2, activation="relu") for n in (16, 32)]
    rate = kor.schedules.OneCycle(5e-3, 10 * 63)
    layers = [*convolutions, keras.layers.Flatten(), keras.layers.Dropout(0.3, seed=seed), dense(10, None)]
    return Training(compiled(layers, data, kor.optimizers.AdamW(rate, weight_decay=1e-2)), data, epochs=10)


def healthy_tumours(seed: int) -> Training:
    """One hidden layer of 16 units under L2(1e-3), tumours told apart by 30 features, Adam(3e-3)."""
    data = tumours(seed)
    model = keras.Sequential([keras.Input((30,)), dense(16), dense(1, "sigmoid")])
    model.compile(kor.optimizers.Adam(3e-3), "binary_crossentropy", metrics=["accuracy"])
    kor.attach(model, kor.regularizers.L2(1e-3))
    return Training(model, data, epochs=20)


def healthy_diabetes(seed: int) -> Training:
    """One hidden layer of 16 units, a regression on 10 features, Adam(3e-3) until EarlyStopping."""
    data = diabetes(seed)
    stopping = callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
    return Training(
        compiled([dense(16), dense(1, None)], data, kor.optimizers.Adam(3e-3)), data, 50, callbacks=(stopping,)
    )


def healthy_rows(seed: int) -> Training:
    """A GRU over the rows of digits, clipped Adam(3e-3), 12 epochs."""
    data = digit_rows(seed)
    layers = [keras.layers.GRU(32), dense(10, None)]
    return Training(compiled(layers, data, kor.optimizers.Adam(3e-3, clipnorm=1.0)), data, epochs=12)


FAULTS: dict[str, tuple[Callable[[int], Training], ...]] = {
    "overfitting": (overfitting,),
    "underfitting": (underfitting,),
    "learning rate too high": (diverging, jumping),
    "learning rate too low": (rate_too_low,),
    "vanishing gradients": (vanishing_gradients,),
    "exploding gradients": (exploding_with_depth, exploding_in_time),
    "dead units": (dead_units, dead_units_by_start, thrown_out),
    "dominating penalty": (dominating_penalty, dominating_l1),
    "plateau": (plateau, plateau_of_noise),
}
HEALTHY = (healthy_digits, healthy_clothes, healthy_tumours, healthy_diabetes, healthy_rows)


def fitted(make: Callable[[int], Training], seed: int, log_dir: str | Path) -> Recorded:
    """Trains, logged as anyone would, and with the dead units where there can be some."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    training = make(seed)
    board = callbacks.TensorBoard(log_dir)
    watching = [*training.callbacks, board]
    x, y, *validation = training.data
    dense = [layer for layer in training.model.layers if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D)]
    if any(layer.activation is keras.activations.relu for layer in dense):
        watching.append(callbacks.Monitor([callbacks.DeadUnits(validation[0])], [board.writers[0]]))
    training.model.fit(x, y, training.batch_size, training.epochs, 0, watching, validation_data=tuple(validation))
    return Recorded(log_dir)


# ------------------------------------------------------------------ what they left, in a file

LEFT_OUT = re.compile(r"(update_ratio|weight_norm)/|gap_|(val_)?accuracy")
"""Of these no rule makes use."""


def packed(run: Recorded) -> dict[str, Any]:
    found = {}
    for name, curve in run.curves.items():
        if not LEFT_OUT.match(name):
            every = 10 if name == "learning_rate" and curve.unit == "step" else 1
            values = [float(f"{value:.6g}") for value in curve.values[::every]]
            found[name] = [curve.unit, curve.at[::every].tolist(), values]
    return found


def unpacked(curves: dict[str, Any]) -> Recorded:
    run = Recorded()
    for name, (unit, at, values) in curves.items():
        run.curves[name] = Curve(dict(zip(at, values, strict=True)), unit)
    return run


def recorded() -> dict[str, list[Recorded]]:
    """By the name of the training, its runs, seed by seed."""
    packs = json.loads(gzip.decompress(RECORDED.read_bytes())) if RECORDED.exists() else {}
    return {name: [unpacked(run) for run in runs] for name, runs in packs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainings = {make.__name__: make for make in (*(make for fault in FAULTS.values() for make in fault), *HEALTHY)}
    parser.add_argument("names", nargs="*", help="which trainings; all by default")
    names = parser.parse_args().names or list(trainings)
    runs = {name: [packed(run) for run in those] for name, those in recorded().items()}
    for name in names:
        runs[name] = []
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as log_dir:
                run = fitted(trainings[name], seed, log_dir)
            runs[name].append(packed(run))
            print(name, seed, [finding.name for finding in kor.diagnose(run)], flush=True)
    text = json.dumps({name: runs[name] for name in trainings if name in runs})
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
