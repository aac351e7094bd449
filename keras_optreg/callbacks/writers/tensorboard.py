"""Values as TensorBoard event files, without TensorFlow."""

import itertools
import os
import socket
import struct
import time
import zlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from keras_optreg.callbacks.writers.writer import Hyperparameters, Layout, Values, Writer, writable_directory

_files = itertools.count()
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # of PNG, for grey, RGB and RGBA


class TensorBoardWriter(Writer):
    """Writes scalars (numbers), histograms (arrays), texts, images, hyper-parameters and a layout for TensorBoard.

    Through tensorboardX, whose record format needs neither TensorFlow nor TensorBoard. Every training has a file of its
    own, and no file is ever overwritten. Where a run goes on from before its last step, in this or another process,
    TensorBoard shows the new values of the steps that were written twice.

    The tab HPARAMS shows the run with its `metrics`, of which the last value counts: `"loss"` is a tag of this writer,
    `"validation/loss"` one of the writer for the directory `validation` below. CUSTOM SCALARS shows the layout.

    Args:
        log_dir: The directory of the run.
        flush_seconds: How long a running TensorBoard may wait for new values.

    Raises:
        OSError: Before training starts, when the directory cannot be written.
        ValueError: For an image of another shape.
    """

    def __init__(self, log_dir: str | Path, flush_seconds: float = 10.0):
        self.log_dir = Path(log_dir)
        self.flush_seconds = flush_seconds
        self._records: Any = None
        self._is_first = True
        self._in_session = False

    def open(self) -> None:
        if self._records is not None:
            return
        from tensorboardX import RecordWriter

        writable_directory(self.log_dir, "TensorBoardWriter", self.log_dir)
        self._goes_on = self._is_first and any(self.log_dir.glob("events.out.tfevents.*"))
        self._is_first = False
        # The number keeps apart two writers that open within the same second, since the record writer truncates; and
        # TensorBoard reads the files of a run in the order of their names, so it has the same width for all.
        while True:
            number = f"{os.getpid()}.{next(_files):06d}"
            path = self.log_dir / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{number}"
            if not path.exists():  # containers may share a host name and a process number
                break
        self._records = RecordWriter(str(path))
        self._write(file_version="brain.Event:2")
        self.flush()

    def start_after(self, step: int) -> None:
        if self._goes_on:
            # Drops all tags from this step on, also those counted in epochs, of which there are fewer than updates.
            log = _proto("event").SessionLog
            self._write(session_log=log(status=log.START), step=step + 1 if step else 0)
            self._goes_on = False

    def write(self, step: int, values: Values) -> None:
        from tensorboardX.summary import histogram

        summary = _proto("summary").Summary()
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                finite = value[np.isfinite(value)]
                if finite.size:
                    summary.value.extend(histogram(name, finite, bins=32).value)
            else:
                summary.value.add(tag=name, simple_value=value)
        self._add(step, summary)

    def write_text(self, step: int, name: str, markdown: str) -> None:
        text = _proto("tensor").TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
        self._add(step, _summary(name, "text", tensor=text))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        pixels = np.asarray(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[-1] not in _COLOUR_TYPES or not pixels.size:
            raise ValueError(
                "TensorBoardWriter writes an image of the shape H×W or H×W×1, H×W×3 or H×W×4. "
                f"Received: {name!r} of shape {np.shape(image)}"
            )
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
        height, width, colours = pixels.shape
        summary = _proto("summary").Summary()
        encoded = dict(height=height, width=width, colorspace=colours, encoded_image_string=_png(pixels))
        summary.value.add(tag=name, image=summary.Image(**encoded))
        self._add(step, summary)

    def write_hyperparameters(self, hyperparameters: Hyperparameters, metrics: Sequence[str] = ()) -> None:
        api, hparams = _proto("api"), _proto("plugin_hparams")
        start, infos = hparams.SessionStartInfo(start_time_secs=time.time()), []
        for name, value in hyperparameters.items():
            if isinstance(value, bool | np.bool_):
                start.hparams[name].bool_value, kind = bool(value), "DATA_TYPE_BOOL"
            elif isinstance(value, str):
                start.hparams[name].string_value, kind = value, "DATA_TYPE_STRING"
            else:
                start.hparams[name].number_value, kind = float(value), "DATA_TYPE_FLOAT64"
            infos.append(api.HParamInfo(name=name, type=kind))
        names = [("", metric) if "/" not in metric else metric.split("/", 1) for metric in metrics]
        judged = [api.MetricInfo(name=api.MetricName(group=group, tag=tag)) for group, tag in names]
        experiment = api.Experiment(hparam_infos=infos, metric_infos=judged)
        self._add_session("experiment", experiment=experiment)
        self._add_session("session_start_info", session_start_info=start)
        self._in_session = True

    def write_layout(self, layout: Layout) -> None:
        whole = _proto("layout").Layout()
        for group, charts in layout.items():
            category = whole.category.add(title=group)
            for title, names in charts.items():
                category.chart.add(title=title).multiline.tag.extend(names)
        tensor = _proto("tensor").TensorProto(dtype="DT_STRING", string_val=[whole.SerializeToString()])
        self._add(0, _summary("custom_scalars__config__", "custom_scalars", tensor=tensor))

    def _add_session(self, name: str, **information: Any) -> None:
        data = _proto("plugin_hparams").HParamsPluginData(**information)
        self._add(0, _summary(f"_hparams_/{name}", "hparams", data.SerializeToString()))

    def _add(self, step: int, summary: Any) -> None:
        self.open()
        self._write(step=step, summary=summary)
        if time.monotonic() - self._flushed > self.flush_seconds:
            self.flush()

    def _write(self, **what: Any) -> None:
        self._records.write(_proto("event").Event(wall_time=time.time(), **what).SerializeToString())

    def flush(self) -> None:
        if self._records is not None:
            self._records.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        if self._records is None:
            return
        if self._in_session:
            success = _proto("api").Status.Value("STATUS_SUCCESS")
            end = _proto("plugin_hparams").SessionEndInfo(status=success, end_time_secs=time.time())
            self._add_session("session_end_info", session_end_info=end)
            self._in_session = False
        self.flush()
        self._records.close()
        self._records = None


def _proto(name: str) -> Any:
    """A module of tensorboardX's protocol buffers, which type checkers cannot look into."""
    return import_module(f"tensorboardX.proto.{name}_pb2")


def _summary(name: str, plugin: str, content: bytes = b"", **value: Any) -> Any:
    """A value that a plugin of TensorBoard understands."""
    summary = _proto("summary").Summary()
    added = summary.value.add(tag=name, **value)
    added.metadata.plugin_data.plugin_name = plugin
    added.metadata.plugin_data.content = content
    return summary


def _png(pixels: np.ndarray) -> bytes:
    """The image file: no library is needed to write one, only to read it."""
    height, width, colours = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[colours], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))  # 0: rows are not filtered
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
