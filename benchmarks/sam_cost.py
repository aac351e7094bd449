"""What a step with SAM costs, beside the step of the model that it wraps, in one run.

    python benchmarks/sam_cost.py                        # a convolutional network, batches of 64 images
    python benchmarks/sam_cost.py --work dense --jit     # 4.2 M weights in three layers, compiled by XLA
    KERAS_BACKEND=torch python benchmarks/sam_cost.py --adaptive

Both take the same steps under `fit`, in turns (plain, SAM, plain, SAM, …), so that a machine which slows down slows
both, and the figure to look at is the ratio. Two gradients instead of one make it about 2.
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

from keras_optreg.optimizers import SAM, Adam


def convolutions() -> keras.Model:
    """0.07 M weights on 32 x 32 images: nearly all time is in the gradients."""
    blocks = []
    for channels in (16, 32, 64):
        blocks += [layers.Conv2D(channels, 3, padding="same", use_bias=False), layers.BatchNormalization()]
        blocks += [layers.Activation("relu"), layers.Conv2D(channels, 3, padding="same", activation="relu")]
        blocks += [layers.MaxPooling2D()]
    return keras.Sequential([keras.Input((32, 32, 3)), *blocks, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def dense() -> keras.Model:
    """4.2 M weights: passing over them is a large part of the step, of Adam's and of the ascent."""
    hidden = [layers.Dense(1024, activation="relu") for _ in range(4)]
    return keras.Sequential([keras.Input((1024,)), *hidden, layers.Dense(10)])


WORK: dict[str, Callable[[], keras.Model]] = {"convolutions": convolutions, "dense": dense}


def seconds(model: keras.Model, x: np.ndarray, y: np.ndarray, batch_size: int) -> float:
    start = time.perf_counter()
    model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORK, default="convolutions")
    parser.add_argument("--adaptive", action="store_true", help="ASAM")
    parser.add_argument("--jit", action="store_true", help="compile(jit_compile=True)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    arguments = parser.parse_args()

    models = {"plain": WORK[arguments.work](), "SAM": SAM(WORK[arguments.work](), adaptive=arguments.adaptive)}
    rng = np.random.default_rng(0)
    size = arguments.batch * arguments.steps
    x = rng.normal(size=(size, *models["plain"].input_shape[1:])).astype("float32")
    y = rng.integers(0, 10, size=size)
    for model in models.values():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(Adam(1e-3), loss, jit_compile=True if arguments.jit else "auto")
        seconds(model, x, y, arguments.batch)  # traces and compiles
    times: dict[str, list[float]] = {who: [] for who in models}
    for _ in range(arguments.rounds):
        for who, model in models.items():
            times[who].append(seconds(model, x, y, arguments.batch) / arguments.steps * 1e3)
    ratios = sorted(sam / plain for plain, sam in zip(times["plain"], times["SAM"], strict=True))

    weights = models["plain"].count_params()
    what = "ASAM" if arguments.adaptive else "SAM"
    machine = f"{keras.backend.backend()}, {os.cpu_count()} cores, jit {models['SAM'].jit_compile}"
    print(f"{arguments.work}, {weights / 1e6:.2f} M weights, batches of {arguments.batch}, {machine}")
    print(
        f"median ms a step: plain {median(times['plain']):.2f}, {what} {median(times['SAM']):.2f}; "
        f"{median(ratios):.2f} plain steps ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
