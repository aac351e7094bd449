"""What watching a training costs: the same `fit` without callbacks, with ours and with Keras's, in turns.

    python benchmarks/monitor_cost.py                   # some minutes, on the backend that KERAS_BACKEND names
    python benchmarks/monitor_cost.py --rounds 40       # on a busy machine
    python benchmarks/monitor_cost.py --save            # also append a line to benchmarks/results/monitor_cost.jsonl

The network is 784-1024-1024-10 with relu and an L2 penalty (1.9 M weights), batches of 64, Adam, epochs of 50 steps.
Each variant is one long `fit` in a thread of its own, and only one of them runs at any moment: they hand the turn to
the next at the end of every epoch, in another order each round. So every variant has compiled, and all see the same
machine. The monitors measure everything that is a number; `callbacks.TensorBoard` is the ready-made one. What counts
are the ratios to the plain `fit` of the same round, of the time on the clock and of the processor's time, which other
work on the machine disturbs less: medians and quartiles.
"""

import argparse
import json
import os
import platform
import random
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from step_time import BACKEND, backend_version

import keras_optreg as kor
from keras_optreg import callbacks

RESULTS = Path(__file__).parent / "results" / "monitor_cost.jsonl"
BATCH, STEPS, WARM_UP = 64, 50, 1


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(1024, "relu", kernel_regularizer=kor.regularizers.L2(1e-5)) for _ in range(2)]
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"])
    return model


def probes() -> list[callbacks.Probe]:
    kinds = [getattr(callbacks, name) for name in ("DataLoss", "GradientNorm", "WeightNorm", "UpdateRatio")]
    kinds += [callbacks.LearningRate, callbacks.ZeroFraction, callbacks.Penalties, callbacks.Memory]
    return [*(kind() for kind in kinds), callbacks.StepTime(BATCH)]


def monitor(folder: str, every: int) -> keras.callbacks.Callback:
    return callbacks.Monitor(probes(), [callbacks.TensorBoardWriter(folder)], every)


def variants(folder: str) -> dict[str, list[keras.callbacks.Callback]]:
    found: dict[str, list[keras.callbacks.Callback]] = {
        "plain": [],
        "Monitor(every=50)": [monitor(f"{folder}/50", 50)],
        "Monitor(every=1)": [monitor(f"{folder}/1", 1)],
        "TensorBoard()": [callbacks.TensorBoard(f"{folder}/board")],
    }
    if BACKEND == "tensorflow":  # it writes through TensorFlow
        theirs = keras.callbacks.TensorBoard(f"{folder}/keras", update_freq=1, histogram_freq=1, write_graph=False)
        found["keras TensorBoard(update_freq=1, histogram_freq=1)"] = [theirs]
    return found


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(BATCH * STEPS, 784)).astype("float32"), rng.integers(0, 10, size=BATCH * STEPS)


class Turns:
    """Lets one of several threads run at a time, epoch by epoch, in another order each round."""

    def __init__(self, names: list[str], rounds: int):
        self.times: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
        self._order: list[str] = []
        for number in range(rounds + WARM_UP):
            this = list(names)
            random.Random(number).shuffle(this)
            self._order += this
        self._at = 0
        self._changed = threading.Condition()

    def wait(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._order[self._at] == name)

    def pass_on(self, name: str, seconds: np.ndarray) -> None:
        with self._changed:
            self.times[name].append(tuple(seconds / STEPS * 1e3))
            self._at += 1
            self._changed.notify_all()


class Turn(keras.callbacks.Callback):
    """The first of the callbacks: an epoch lasts until the next one wants to begin."""

    def __init__(self, turns: Turns, name: str):
        super().__init__()
        self.turns, self.name = turns, name

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            self.turns.pass_on(self.name, clocks() - self.started)
        self.turns.wait(self.name)
        self.started = clocks()

    def on_train_end(self, logs=None):
        self.turns.pass_on(self.name, clocks() - self.started)


def clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def measured(rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds a step, of each variant in each round: on the clock, of the processor."""
    x, y = data()
    with tempfile.TemporaryDirectory() as folder:
        watched = variants(folder)
        turns = Turns(list(watched), rounds)
        failures: list[BaseException] = []

        def train(name: str, model: keras.Model) -> None:
            try:
                model.fit(x, y, BATCH, rounds + WARM_UP, verbose=0, callbacks=[Turn(turns, name), *watched[name]])
            except BaseException as error:
                failures.append(error)

        # As daemons: when one fails, the others wait for a turn that never comes.
        threads = [threading.Thread(target=train, args=(name, network()), daemon=True) for name in watched]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not failures:
            time.sleep(0.05)
        if failures:
            raise failures[0]
    return {name: np.array(each[WARM_UP:]) for name, each in turns.times.items()}


class Timed(callbacks.Probe):
    """A probe with the processor's time that it takes outside of the training step."""

    def __init__(self, probe: callbacks.Probe):
        self.probe, self.seconds = probe, []

    def start(self, model: Any) -> bool:
        return self.probe.start(model)

    def prepare(self, model: Any) -> None:
        begun = time.process_time()
        self.probe.prepare(model)
        self.seconds.append(time.process_time() - begun)

    def measure(self, model: Any, logs: Any) -> dict[str, Any]:
        begun = time.process_time()
        found = self.probe.measure(model, logs)
        self.seconds[-1] += time.process_time() - begun
        return found

    def stop(self, model: Any) -> None:
        self.probe.stop(model)


def parts() -> dict[str, list[float]]:
    """Milliseconds that each probe takes for one measurement."""
    timed = [Timed(probe) for probe in probes()]
    x, y = data()
    with tempfile.TemporaryDirectory() as folder:
        watching = callbacks.Monitor(timed, [callbacks.TensorBoardWriter(folder)], every=1)
        network().fit(x, y, BATCH, 2, verbose=0, callbacks=[watching])
    return {type(each.probe).__name__: spread(np.array(each.seconds[STEPS:]) * 1e3, 2) for each in timed}


def spread(values: np.ndarray, digits: int) -> list[float]:
    """Median, first and third quartile."""
    return [round(float(q), digits) for q in np.quantile(values, (0.5, 0.25, 0.75))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--save", action="store_true", help="append the results to benchmarks/results/")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        **{"date": str(date.today()), "backend": BACKEND, "keras": keras.__version__, **backend_version()},
        **{"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        **{"rounds": arguments.rounds, "steps": STEPS, "load_before": round(os.getloadavg()[0], 1)},
    }
    print(", ".join(f"{name} {value}" for name, value in result.items()))
    times = measured(arguments.rounds)
    result["load_after"] = round(os.getloadavg()[0], 1)
    for column, what in enumerate(("clock", "processor")):
        ms = {name: each[:, column] for name, each in times.items()}
        found = result[what] = {
            "ms": {name: spread(each, 2) for name, each in ms.items()},
            "ratio": {name: spread(each / ms["plain"], 3) for name, each in ms.items() if name != "plain"},
        }
        print(what)
        for name, (middle, low, high) in found["ms"].items():
            ratio = found["ratio"].get(name)
            shown = "" if ratio is None else f"   × {ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f})"
            print(f"  {name:50s} {middle:7.2f} ms ({low:.2f} to {high:.2f}){shown}")
    result["probes"] = parts()
    print("processor, for one measurement, outside of the step")
    for name, (middle, low, high) in result["probes"].items():
        print(f"  {name:50s} {middle:7.2f} ms ({low:.2f} to {high:.2f})")
    print(f"load {result['load_before']} before, {result['load_after']} after")
    if arguments.save:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
