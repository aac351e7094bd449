"""How long the table of `report` takes for a model of 100 layers, and that of `attach`; the goal is under a second.

python benchmarks/report_time.py
"""

import os
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import keras_optreg as kor

LAYERS = 100


def main() -> None:
    layers = [keras.layers.Dense(64, "relu") for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    print(f"{LAYERS} layers, backend {keras.backend.backend()}, {os.cpu_count()} cores, {platform.machine()}")
    start = time.perf_counter()
    table = str(kor.attach(model, kor.regularizers.L2(1e-4)))
    print(f"attach and its table of {len(table.splitlines())} lines  {time.perf_counter() - start:.2f} s")
    for name in ("first", "second"):
        start = time.perf_counter()
        table = str(kor.report(model))
        print(f"the {name} report, {len(table.splitlines())} lines  {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
