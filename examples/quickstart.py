"""Train one small network on real images in five ways and compare how much each of them overfits.

    python examples/quickstart.py                  # 2,000 + 2,000 images of Fashion-MNIST, no network needed
    python examples/quickstart.py --seeds 3        # means over three runs; fails when what is claimed does not hold
    python examples/quickstart.py --data full      # all of Fashion-MNIST, downloaded by Keras

Every arm trains the same network: a normalisation layer that has seen the training images, a layer that mirrors
half of the images of each batch while training, two convolutions and two dense layers. 2,000 images are few for its
100,000 weights, so without regularization it learns them by heart.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import keras_optreg as kor

SMALL = Path(__file__).parent / "data" / "fashion_mnist_small.npz"
BATCH = 100
RATE = 3e-3
HIDDEN = (keras.layers.Flatten, keras.layers.Dense)  # a layer that makes the model's output is left out by itself


def load(data: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if data == "full":
        (x, y), (x_val, y_val) = keras.datasets.fashion_mnist.load_data()
    else:
        arrays = np.load(SMALL)
        x, y, x_val, y_val = (arrays[f"{kind}_{split}"] for split in ("train", "validation") for kind in "xy")
    return x[..., None].astype("float32"), y, x_val[..., None].astype("float32"), y_val


def network(x: np.ndarray) -> keras.Sequential:
    normalization = keras.layers.Normalization(axis=None)
    normalization.adapt(x)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            normalization,
            keras.layers.RandomFlip("horizontal"),
            keras.layers.Conv2D(16, 5, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


# Each arm takes a new network and the number of steps it may train, and says what to train, with which optimizer
# and which callbacks.
Arm = Callable[[keras.Model, int], tuple[keras.Model, Any, list[Any]]]


def falling(steps):
    """Linearly to zero, so that no arm is judged by a lucky or unlucky last step."""
    return kor.schedules.PolynomialDecay(RATE, steps, end_learning_rate=0.0)


def plain(model, steps):
    return model, kor.optimizers.Adam(falling(steps)), []


def l2_attached(model, steps):
    kor.attach(model, kor.regularizers.L2(7.5e-3))
    return model, kor.optimizers.Adam(falling(steps)), []


def l1_in_the_update(model, steps):
    return model, kor.optimizers.Adam(falling(steps), penalties=kor.regularizers.L1(6e-4)), []


def dropout(model, steps):
    return kor.regularizers.insert_dropout(model, 0.5, after=HIDDEN), kor.optimizers.Adam(falling(steps)), []


def l2_stopping_and_decay(model, steps):
    """The rate falls to zero along a cosine over 60 % of the steps; then nothing improves, and training ends."""
    kor.attach(model, kor.regularizers.L2(5e-3))
    optimizer = kor.optimizers.Adam(kor.schedules.CosineDecay(RATE, 6 * steps // 10))
    return model, optimizer, [kor.callbacks.EarlyStopping("val_loss", patience=12, restore_best_weights=True)]


ARMS: dict[str, Arm] = {
    "nothing": plain,
    "L2 attached": l2_attached,
    "L1 in the update": l1_in_the_update,
    "dropout": dropout,
    "L2, stopping, decay": l2_stopping_and_decay,
}


class Advance(keras.callbacks.Callback):
    """Moves the progress bar by one epoch; epochs that early stopping saved are counted at the end."""

    def __init__(self, progress: Progress, task, epochs: int):
        super().__init__()
        self.progress, self.task, self.left = progress, task, epochs

    def on_epoch_end(self, epoch, logs=None):
        self.progress.advance(self.task)
        self.left -= 1

    def on_train_end(self, logs=None):
        self.progress.advance(self.task, self.left)


def train(arm: Arm, seed: int, data, epochs: int, log_dir: Path, bar: keras.callbacks.Callback) -> dict:
    x, y, x_val, y_val = data
    keras.utils.clear_session()  # weights are called the same in every arm, so their curves share a chart
    keras.utils.set_random_seed(seed)
    model, optimizer, callbacks = arm(network(x), epochs * -(-len(x) // BATCH))
    # Several updates a call: starting a step costs about as much as this small network's arithmetic. (torch has none.)
    several = 1 if keras.config.backend() == "torch" else 10
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=several,
    )
    shutil.rmtree(log_dir, ignore_errors=True)  # a second run in the same place would draw over the first
    start = time.perf_counter()
    history = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        validation_data=(x_val, y_val),
        validation_batch_size=250,
        callbacks=[*callbacks, kor.callbacks.TensorBoard(str(log_dir)), bar],
        verbose=0,
    )
    seconds = time.perf_counter() - start
    kernels = [np.asarray(keras.ops.convert_to_numpy(kernel)) for kernel in kor.select.kernels().of(model)]
    # Measured again after training: `history` has the training accuracy of weights that were still moving, with
    # dropout and mirroring at work.
    train_accuracy, validation_accuracy = (
        model.evaluate(*part, batch_size=250, verbose=0)[1] for part in ((x, y), (x_val, y_val))
    )
    return {
        "train": 100 * train_accuracy,
        "validation": 100 * validation_accuracy,
        "gap": 100 * (train_accuracy - validation_accuracy),
        "epochs": len(history.epoch),
        "zeros": 100 * sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels),
        "seconds": seconds,
        "curves": {name: history.history[name] for name in ("accuracy", "val_accuracy")},
    }


def averages(runs: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    numbers = ("train", "validation", "gap", "epochs", "zeros", "seconds")
    return {name: {number: mean(run[number] for run in same) for number in numbers} for name, same in runs.items()}


def rows(means: dict[str, dict[str, float]]) -> list[list[str]]:
    head = ["arm", "train %", "val. %", "gap", "epochs", "zeros %", "sec."]
    formats = {"train": ".1f", "validation": ".1f", "gap": ".1f", "epochs": ".0f", "zeros": ".1f", "seconds": ".0f"}
    return [head, *([name, *(format(m[number], f) for number, f in formats.items())] for name, m in means.items())]


def claims(runs: dict[str, list[dict]], epochs: int) -> dict[str, bool]:
    """What this example promises, each with whether it came out so."""
    means = averages(runs)
    unregularized, regularized = means["nothing"], {name: m for name, m in means.items() if name != "nothing"}
    promised = {}
    for name, m in regularized.items():
        promised[f"{name}: gap at most 60 % of the plain network's"] = m["gap"] <= 0.6 * unregularized["gap"]
        promised[f"{name}: validation accuracy at most 0.5 points lower"] = (
            m["validation"] >= unregularized["validation"] - 0.5
        )
    promised["L1 in the update: exact zeros in every run"] = all(run["zeros"] > 0 for run in runs["L1 in the update"])
    promised["early stopping: ended before the limit in every run"] = all(
        run["epochs"] < epochs for run in runs["L2, stopping, decay"]
    )
    return promised


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """One panel an arm: training and validation accuracy while training, every run."""
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True)
    for panel, (name, same) in zip(panels, runs.items(), strict=True):
        for run in same:
            panel.plot(run["curves"]["accuracy"], color="tab:orange", label="training")
            panel.plot(run["curves"]["val_accuracy"], color="tab:blue", label="validation")
        panel.set(title=name, xlabel="epoch", ylim=(0.6, 1))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    panels[0].legend(*(part[:2] for part in panels[0].get_legend_handles_labels()), loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("small", "full"), default="small")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm; with 3 or more the claims must hold")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder for the picture and logs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    data = load(options.data)
    console = Console()
    runs: dict[str, list[dict]] = {name: [] for name in ARMS}
    columns = (TextColumn("{task.description:20}"), BarColumn(), TextColumn("{task.completed}/{task.total} epochs"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for name, arm in ARMS.items():
            task = progress.add_task(name, total=options.epochs * options.seeds)
            for seed in range(options.seeds):
                log_dir = options.out / "logs" / name.replace(",", "").replace(" ", "_")
                if options.seeds > 1:
                    log_dir /= f"seed_{seed}"
                bar = Advance(progress, task, options.epochs)
                runs[name].append(train(arm, seed, data, options.epochs, log_dir, bar))

    head, *body = rows(averages(runs))
    table = Table(title=f"Fashion-MNIST, {len(data[0]):,} images, mean of {options.seeds} run(s)", title_justify="left")
    for column in head:
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True, min_width=len(column))
    for row in body:
        table.add_row(*row)
    console.print(table)
    draw(runs, options.out / "curves.png")
    (options.out / "results.json").write_text(json.dumps(runs, indent=1) + "\n")
    console.print(f"Curves: {options.out / 'curves.png'}   all numbers: {options.out / 'results.json'}", soft_wrap=True)

    held = claims(runs, options.epochs) if options.seeds >= 3 else {}
    for claim, true in held.items():
        console.print(f"{'holds ' if true else 'FAILED'}  {claim}", soft_wrap=True)
    if not held:
        console.print("One run differs from the next; `--seeds 3` judges means.", soft_wrap=True)
    tensorboard = shutil.which("tensorboard") or Path(sys.executable).with_name("tensorboard")
    print(f"{tensorboard} --logdir {options.out / 'logs'}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
