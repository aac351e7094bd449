"""Two short trainings that fill every tab of TensorBoard; docs/tensorboard.md shows what there is to see.

python examples/watch_training.py
tensorboard --logdir runs/watch
"""

import argparse
import shutil
from pathlib import Path

import keras
import numpy as np

import keras_optreg as kor
from keras_optreg import callbacks, select

DATA = Path(__file__).parent / "data" / "fashion_mnist_small.npz"


def network() -> keras.Model:
    keras.utils.clear_session()  # weights have the same names in both runs, so their curves share a chart
    keras.utils.set_random_seed(0)
    convolution = keras.layers.Conv2D(16, 5, strides=2, activation="relu", name="conv")
    hidden = keras.layers.Dense(64, "relu", name="hidden")
    output = keras.layers.Dense(10, name="output")
    return keras.Sequential([keras.Input((28, 28, 1)), convolution, keras.layers.Flatten(), hidden, output], name="net")


class Filters(keras.callbacks.Callback):
    """Draws the filters of the first layer after each epoch."""

    def __init__(self, writer: callbacks.Writer):
        super().__init__()
        self.writer = writer

    def on_epoch_end(self, epoch, logs=None):
        kernel = keras.ops.convert_to_numpy(self.model.get_layer("conv").kernel)
        tiles = np.pad((kernel - kernel.min()) / np.ptp(kernel), ((0, 1), (0, 1), (0, 0), (0, 0)), constant_values=1.0)
        self.writer.write_image(epoch, "filters", np.hstack(list(np.moveaxis(tiles[:, :, 0], -1, 0))))


def train(strength: float, log_dir: Path, epochs: int) -> None:
    arrays = np.load(DATA)
    x, y, x_val, y_val = (arrays[f"{kind}_{split}"] for split in ("train", "validation") for kind in "xy")
    x, x_val = (images[..., None].astype("float32") / 255 for images in (x, x_val))
    model = network()
    if strength:
        kor.attach(model, kor.regularizers.L2(strength))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kor.optimizers.Adam(3e-3), loss, metrics=["accuracy"])

    shutil.rmtree(log_dir, ignore_errors=True)
    stopping = callbacks.EarlyStopping("val_loss", patience=4, restore_best_weights=True)
    board = callbacks.TensorBoard(log_dir, histograms=True, hparams={"batch_size": 100, "strength": strength})
    probes = [callbacks.Gradients(select.kernels()), callbacks.Activations(x_val[:200]), callbacks.DeadUnits(x_val)]
    monitor = callbacks.Monitor([*probes, callbacks.StepTime(100), callbacks.Memory()], [board.writers[0]])
    watching = [monitor, Filters(board.writers[0]), stopping, board]
    model.fit(x, y, 100, epochs, validation_data=(x_val, y_val), callbacks=watching, verbose=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/watch"))
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    for name, strength in {"plain": 0.0, "L2": 3e-3}.items():
        train(strength, options.out / name, options.epochs)
    print(f"tensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()
