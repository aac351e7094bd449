"""What training takes: time and memory."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_optreg.bounds import POSITIVE_COUNT, check
from keras_optreg.callbacks.probes.probe import Probe
from keras_optreg.introspection import inner_optimizer, num_batches

_MIB = 2**20


class StepTime(Probe):
    """How long a step takes, `step_seconds`, and with `batch_size`, `examples_per_second`.

        step_seconds = (now − time of the last measurement) / batches in between

    On the clock of the wall: the input, other callbacks, validation and measuring itself count, as they do for whoever
    waits. The first measurement of a training counts from where it was prepared, so the compilation of the first step
    counts only when that step is measured. JAX and GPUs run ahead of Python; both times are taken after the number of
    the last update has been read, which waits for the step.

    Args:
        batch_size: Examples a batch.
    """

    def __init__(self, batch_size: int | None = None):
        if batch_size is not None:
            check("StepTime", {"batch_size": batch_size}, {"batch_size": POSITIVE_COUNT})
        self.batch_size = batch_size
        self._last: tuple[int, float] | None = None

    def prepare(self, model: Any) -> None:
        if self._last is None:
            self._last = self._now(model)

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        before, self._last = self._last, self._now(model)
        if before is None or self._last[0] <= before[0]:
            return {}
        seconds = (self._last[1] - before[1]) / (self._last[0] - before[0])
        found = {"step_seconds": seconds}
        if self.batch_size is not None:
            found["examples_per_second"] = self.batch_size / seconds
        return found

    def stop(self, model: Any) -> None:
        self._last = None

    def _now(self, model: Any) -> tuple[int, float]:
        batches = num_batches(inner_optimizer(model))  # waits
        return batches, time.perf_counter()


class Memory(Probe):
    """How much memory is in use, in MiB: `memory/process`, and on a GPU `memory/device` and `memory/device_peak`.

    The resident memory of the process, as the operating system counts it (on Linux at this moment; elsewhere the most
    there was so far); what the first device holds, and held at most, as JAX, TensorFlow or torch count it.
    """

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        found = {"process": _resident(), **_DEVICE[keras.config.backend()]()}
        return {f"memory/{name}": size / _MIB for name, size in found.items() if size is not None}


def _resident() -> float | None:
    import os

    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _on_jax() -> dict[str, float]:
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}  # none on a CPU
    names = {"device": "bytes_in_use", "device_peak": "peak_bytes_in_use"}
    return {name: stats[key] for name, key in names.items() if key in stats}


def _on_tensorflow() -> dict[str, float]:
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return {}
    stats = tf.config.experimental.get_memory_info("GPU:0")
    return {"device": stats["current"], "device_peak": stats["peak"]}


def _on_torch() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"device": torch.cuda.memory_allocated(), "device_peak": torch.cuda.max_memory_allocated()}


_DEVICE = {"jax": _on_jax, "tensorflow": _on_tensorflow, "torch": _on_torch}
