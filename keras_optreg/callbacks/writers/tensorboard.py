"""Values as TensorBoard event files, without TensorFlow."""

import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_optreg.callbacks.writers.writer import Values, Writer, writable_directory

_files = itertools.count()


class TensorBoardWriter(Writer):
    """Writes scalars (numbers) and histograms (arrays) as TensorBoard reads them.

    Through tensorboardX, whose record format needs neither TensorFlow nor TensorBoard.

    Args:
        log_dir: The directory of the run.
        flush_seconds: How long a running TensorBoard may wait for new values.

    Raises:
        OSError: Before training starts, when the directory cannot be written.
    """

    def __init__(self, log_dir: str | Path, flush_seconds: float = 10.0):
        self.log_dir = Path(log_dir)
        self.flush_seconds = flush_seconds
        self._records: Any = None

    def open(self) -> None:
        if self._records is not None:
            return
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        writable_directory(self.log_dir, "TensorBoardWriter", self.log_dir)
        # The number keeps apart two writers that open within the same second, since the record writer truncates; and
        # TensorBoard reads the files of a run in the order of their names, so it has the same width for all.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_files):06d}"
        self._records = RecordWriter(str(self.log_dir / name))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def write(self, step: int, values: Values) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import histogram

        self.open()
        summary = Summary()
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                finite = value[np.isfinite(value)]
                if finite.size:
                    summary.value.extend(histogram(name, finite, bins=32).value)
            else:
                summary.value.add(tag=name, simple_value=value)
        self._write(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > self.flush_seconds:
            self.flush()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        if self._records is not None:
            self._records.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        if self._records is not None:
            self.flush()
            self._records.close()
            self._records = None
