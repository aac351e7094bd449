"""One optimizer step, ours beside Keras's, in one run.

    python benchmarks/step_time.py                      # Adam on 34.5 M weights in 65 variables
    python benchmarks/step_time.py --work small --optimizers Adam AdamW
    python benchmarks/step_time.py --save               # also append a line to benchmarks/results/step_time.jsonl

Each pair is measured in turns (Keras, ours, Keras, ours, …), so that a machine which slows down slows both, and the
figure to look at is the ratio. Keras runs as `compile` runs it by default on the backend: on TensorFlow and a CPU as a
graph without XLA.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_optreg as kor

BACKEND = keras.backend.backend()
RESULTS = Path(__file__).parent / "results" / "step_time.jsonl"


def transformer_shapes() -> list[tuple[int, ...]]:
    """An embedding of 8000 × 768 and four transformer blocks of width 768: 34.5 M weights in 65 variables."""
    block = [(768, 768)] * 4 + [(768,)] * 8 + [(768, 3072), (3072,), (3072, 768), (768,)]
    return [(8000, 768), *block * 4]


def convolution_shapes() -> list[tuple[int, ...]]:
    """A small convolutional network: 0.29 M weights in 56 variables."""
    blocks = [shape for c in (16, 32, 64) for shape in [(3, 3, c, c), (c,), (c,)] * 6]
    return [*blocks, (64, 10), (10,)]


WORK = {"large": transformer_shapes, "small": convolution_shapes}


def stepper(optimizer: keras.optimizers.Optimizer, shapes: list[tuple[int, ...]]) -> Callable[[], None]:
    """A function that takes one step on random weights with fixed gradients, as the backend's `fit` would."""
    rng = np.random.default_rng(0)
    weights = [keras.Variable(rng.standard_normal(shape, dtype="float32")) for shape in shapes]
    grads = [keras.ops.convert_to_tensor(rng.standard_normal(shape, dtype="float32")) for shape in shapes]
    optimizer.build(weights)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: optimizer.apply(grads, weights), autograph=False)
    if BACKEND == "jax":
        import jax

        pure = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
        state = [v.value for v in optimizer.variables], [v.value for v in weights]

        def step() -> None:
            nonlocal state
            new, slots = pure(state[0], grads, state[1])
            state = slots, new
            jax.block_until_ready(new)

        return step
    return lambda: optimizer.apply(grads, weights)


def milliseconds(step: Callable[[], None], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps * 1e3


def compare(name: str, shapes: list[tuple[int, ...]], rounds: int, steps: int) -> dict[str, object]:
    makers = {"keras": getattr(keras.optimizers, name), "ours": getattr(kor.optimizers, name)}
    step, first = {}, {}
    for who, make in makers.items():
        step[who] = stepper(make(1e-3), shapes)
        first[who] = milliseconds(step[who], 1) / 1e3
        milliseconds(step[who], 2)
    times: dict[str, list[float]] = {who: [] for who in makers}
    for _ in range(rounds):
        for who in makers:
            times[who].append(milliseconds(step[who], steps))
    ratios = sorted(k / o for k, o in zip(times["keras"], times["ours"], strict=True))
    return {
        "optimizer": name,
        **{f"{who}_ms": round(median(times[who]), 3) for who in makers},
        **{f"{who}_first_step_s": round(first[who], 2) for who in makers},
        "times_faster": round(median(ratios), 2),
        "times_faster_spread": [round(ratios[0], 2), round(ratios[-1], 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORK, default="large")
    parser.add_argument("--optimizers", nargs="+", default=["Adam"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="steps in a round")
    parser.add_argument("--save", action="store_true", help="append the results to benchmarks/results/step_time.jsonl")
    arguments = parser.parse_args()

    shapes = WORK[arguments.work]()
    weights = sum(int(np.prod(shape)) for shape in shapes)
    print(f"{weights / 1e6:.2f} M weights in {len(shapes)} variables, {BACKEND}, {os.cpu_count()} cores")
    print(
        "median ms a step; times faster = Keras's time over ours in the same round, with the smallest and the largest"
    )
    for name in arguments.optimizers:
        row = compare(name, shapes, arguments.rounds, arguments.steps)
        low, high = row["times_faster_spread"]
        steady = f"Keras {row['keras_ms']:8.2f}  ours {row['ours_ms']:8.2f}  {row['times_faster']:.2f} times faster"
        print(f"{name:9s} {steady}", end="")
        print(
            f" ({low:.2f} to {high:.2f})  first: Keras {row['keras_first_step_s']} s, ours {row['ours_first_step_s']} s"
        )
        if arguments.save:
            RESULTS.parent.mkdir(exist_ok=True)
            machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
            setting = {
                "date": str(date.today()),
                "work": arguments.work,
                "backend": BACKEND,
                "keras": keras.__version__,
            }
            with RESULTS.open("a") as file:
                file.write(json.dumps({**setting, **backend_version(), **machine, **row}) + "\n")


def backend_version() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in {"tensorflow": ("tensorflow-cpu", "tensorflow"), "jax": ("jax",), "torch": ("torch",)}[BACKEND]:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
