"""What a penalty adds to a training step: in the loss, ours beside Keras's, and in the update, ours beside no penalty.

    python benchmarks/penalty_cost.py                   # about two minutes, on TensorFlow
    python benchmarks/penalty_cost.py --rounds 100      # on a busy machine
    python benchmarks/penalty_cost.py --save            # also append a line to benchmarks/results/penalty_cost.jsonl

The network is 784-2048-2048-10 with relu (5.8 M weights), batches of 32, compiled by default: on a CPU a graph without
XLA. Penalties stand on the kernels. All variants take a few steps each in turn, round after round and in another order
each time; what counts are the differences within a round. Shown are their medians and quartiles, and the ratio of two
medians with the quartiles of that ratio when the rounds are drawn again (bootstrap).
"""

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from step_time import BACKEND, backend_version

import keras_optreg as kor
from keras_optreg import select
from keras_optreg.regularizers import L1, L1L2, L2, GroupLasso

RESULTS = Path(__file__).parent / "results" / "penalty_cost.jsonl"
BATCH = 32
IN_LOSS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "L1": (lambda: keras.regularizers.L1(1e-5), lambda: L1(1e-5)),
    "L2": (lambda: keras.regularizers.L2(1e-4), lambda: L2(1e-4)),
    "L1L2": (lambda: keras.regularizers.L1L2(1e-5, 1e-4), lambda: L1L2(1e-5, 1e-4)),
}
IN_UPDATE: dict[str, Callable[[], Any]] = {
    "L1": lambda: L1(1e-5),
    "L2": lambda: L2(1e-4),
    "L1L2": lambda: L1L2(1e-5, 1e-4),
    "GroupLasso": lambda: GroupLasso(1e-4),
}
Step = Callable[[], Any]


def network(regularizer: Any = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    layers = [dense(units, "relu", kernel_regularizer=regularizer) for units in (2048, 2048)]
    return keras.Sequential([keras.Input((784,)), *layers, dense(10, kernel_regularizer=regularizer)])


def training_step(model: keras.Model, optimizer: Any) -> Step:
    """A step of the function that `fit` compiles, on one batch again and again."""
    import tensorflow as tf

    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(BATCH, 784)).astype("float32"), rng.integers(0, 10, size=BATCH)
    batches = iter(tf.data.Dataset.from_tensors((x, y)).cache().repeat())
    model.make_train_function()
    return lambda: float(model.train_function(batches)["loss"])


def optimizer_step(optimizer: Any) -> Step:
    """A step of the optimizer alone, with fixed gradients."""
    import tensorflow as tf

    weights = network().trainable_variables
    rng = np.random.default_rng(0)
    grads = [tf.constant(1e-3 * rng.normal(size=w.shape).astype("float32")) for w in weights]
    optimizer.build(weights)
    apply = tf.function(lambda: optimizer.apply(grads, weights), autograph=False)

    def step() -> None:
        apply()
        optimizer.iterations.numpy()  # waits

    return step


def measured(steps: dict[str, Step], rounds: int, repeats: int) -> dict[str, np.ndarray]:
    """Milliseconds a step, of each variant in each round."""
    for step in steps.values():
        for _ in range(3):  # traces, compiles, warms up
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            for _ in range(repeats):
                steps[name]()
            times[name].append((time.perf_counter() - start) / repeats * 1e3)
    return {name: np.array(each) for name, each in times.items()}


def spread(values: np.ndarray, digits: int = 2) -> list[float]:
    """Median, first and third quartile."""
    return [round(float(q), digits) for q in np.quantile(values, (0.5, 0.25, 0.75))]


def ratio_of_medians(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """The ratio, and the quartiles of the same ratio over 1,000 draws of the rounds with replacement."""
    draws = np.random.default_rng(0).integers(0, len(ours), (1000, len(ours)))
    ratios = np.median(ours[draws], axis=1) / np.median(theirs[draws], axis=1)
    return [round(float(np.median(ours) / np.median(theirs)), 2), *spread(ratios)[1:]]


def in_loss(rounds: int, repeats: int) -> dict[str, Any]:
    def sgd() -> Any:
        return keras.optimizers.SGD(1e-3)

    steps = {"plain": training_step(network(), sgd())}
    for name, (theirs, ours) in IN_LOSS.items():
        steps[f"keras {name}"] = training_step(network(theirs()), sgd())
        model = network()
        kor.attach(model, ours())
        steps[f"ours {name}"] = training_step(model, sgd())
    times = measured(steps, rounds, repeats)
    added = {name: times[name] - times["plain"] for name in steps if name != "plain"}
    rows = {
        name: {
            "keras_adds_ms": spread(added[f"keras {name}"]),
            "ours_adds_ms": spread(added[f"ours {name}"]),
            "ratio": ratio_of_medians(added[f"ours {name}"], added[f"keras {name}"]),
        }
        for name in IN_LOSS
    }
    return {"plain_ms": spread(times["plain"]), "penalties": rows}


def in_update(step_of: Callable[[Any], Step], rounds: int, repeats: int) -> dict[str, Any]:
    def adam(penalty: Any = None) -> Any:
        return kor.optimizers.Adam(1e-3, penalties=None if penalty is None else [(select.kernels(), penalty)])

    steps = {"plain": step_of(adam()), **{name: step_of(adam(make())) for name, make in IN_UPDATE.items()}}
    times = measured(steps, rounds, repeats)
    rows = {
        name: {
            "adds_ms": spread(times[name] - times["plain"]),
            "adds_percent": spread((times[name] / times["plain"] - 1) * 100, 1),
        }
        for name in IN_UPDATE
    }
    return {"plain_ms": spread(times["plain"]), "penalties": rows}


def shown(values: list[float]) -> str:
    return f"{values[0]:8.2f} ({values[1]:.2f} to {values[2]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3, help="steps in a round")
    parser.add_argument("--save", action="store_true", help="append the results to benchmarks/results/")
    arguments = parser.parse_args()
    if BACKEND != "tensorflow":
        parser.error(f"this measures TensorFlow's steps. Received KERAS_BACKEND={BACKEND}")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it takes the functions of different models for retracing of one
    rounds, repeats = arguments.rounds, arguments.steps

    origin = {
        **{"date": str(date.today()), "backend": BACKEND, "keras": keras.__version__, **backend_version()},
        **{"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        **{"rounds": rounds, "steps": repeats, "load_before": round(os.getloadavg()[0], 1)},
    }
    print(", ".join(f"{name} {value}" for name, value in origin.items()))
    loss = in_loss(rounds, repeats)
    print(f"\nin the loss, the training step with keras.optimizers.SGD: {shown(loss['plain_ms']).strip()} ms without")
    for name, row in loss["penalties"].items():
        keras_adds, ours_adds, ratio = map(shown, row.values())
        print(f"  {name:10s} Keras's adds {keras_adds} ms, ours {ours_adds} ms, ours/Keras's {ratio}")
    result: dict[str, Any] = {**origin, "in_loss": loss}
    ways: dict[str, tuple[str, Callable[[Any], Step]]] = {
        "training_step": ("the training step with Adam", lambda optimizer: training_step(network(), optimizer)),
        "optimizer_step": ("the step of Adam alone", optimizer_step),
    }
    for key, (what, step_of) in ways.items():
        found = result[f"in_update_{key}"] = in_update(step_of, rounds, repeats)
        print(f"\nin the update, {what}: {shown(found['plain_ms']).strip()} ms without")
        for name, row in found["penalties"].items():
            print(f"  {name:10s} adds {shown(row['adds_ms'])} ms, {shown(row['adds_percent'])} %")
    result["load_after"] = round(os.getloadavg()[0], 1)
    print(f"\nload {result['load_before']} before, {result['load_after']} after")
    if arguments.save:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
