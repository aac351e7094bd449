"""Writers: what they put into files is read back by other programs than ours."""

import io
import json
from math import inf, isinf, isnan, nan

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_optreg.callbacks import (
    ConsoleWriter,
    CSVWriter,
    JSONLinesWriter,
    LearningRate,
    Logs,
    MemoryWriter,
    Monitor,
    TensorBoard,
    TensorBoardWriter,
    Writer,
)

ARRAY = np.array([1.0, 2.0, 6.0])


def lines_of(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_are_json_also_for_numbers_that_are_none(tmp_path):
    writer = JSONLinesWriter(tmp_path / "deep" / "run.jsonl")
    writer.open()
    writer.write_hyperparameters({"rate": 0.1, "bound": inf, "name": "Ünit"})
    writer.write(1, {"loss": 0.1, "norm": nan, "ratio": inf, "least": -inf, "w": ARRAY, "count": np.float32(2)})
    writer.write_text(1, "reason", "said “no”\nand stopped")
    writer.close()
    writer.open()  # a second training
    writer.write(2, {"loss": 0.2})
    writer.close()
    given, first, text, second = lines_of(tmp_path / "deep" / "run.jsonl")
    assert given == {"hyperparameters": {"rate": 0.1, "bound": "Infinity", "name": "Ünit"}}
    assert first.pop("norm") == "NaN"
    assert first == {
        **{"step": 1, "loss": 0.1, "ratio": "Infinity", "least": "-Infinity", "count": 2.0},
        **{"w/min": 1.0, "w/mean": 3.0, "w/max": 6.0},
    }
    assert isnan(float("NaN"))
    assert isinf(float(first["ratio"]))
    assert text == {"step": 1, "text": {"reason": "said “no”\nand stopped"}}
    assert second == {"step": 2, "loss": 0.2}
    for append, count in ((True, 5), (False, 1)):
        other = JSONLinesWriter(tmp_path / "deep" / "run.jsonl", append=append)
        other.write(3, {"loss": 0.3})
        other.close()
        assert len(lines_of(tmp_path / "deep" / "run.jsonl")) == count


def test_a_writer_of_ones_own_needs_write_alone(tmp_path):
    class Last(Writer):
        def write(self, step, values):
            self.last = step

    last, model = Last(), keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[Monitor([LearningRate()], [last])])
    assert last.last == 1
    for other in (last, CSVWriter(tmp_path / "run.csv")):  # they have no place for these
        other.write_text(1, "reason", "none")
        other.write_image(1, "kernel", np.zeros((2, 2)))
        other.write_hyperparameters({"rate": 0.1})
        other.write_layout({"group": {"chart": ["loss"]}})
        other.start_after(1)
        other.flush()
        other.close()


def test_texts_and_images_in_memory_and_on_the_console():
    stream, memory, image = io.StringIO(), MemoryWriter(), np.zeros((2, 3))
    for writer in (memory, ConsoleWriter(stream)):
        writer.write_text(7, "reason", "no progress")
        writer.write_image(7, "kernel", image)
        writer.write_hyperparameters({"rate": 0.1})
    image += 1
    assert memory.texts == {"reason": ([7], ["no progress"])}
    assert memory.images["kernel"][1][0].sum() == 0
    assert memory.hyperparameters == {"rate": 0.1}
    assert memory.history == {}
    assert stream.getvalue() == "step 7  reason: no progress\n"


def events(folder):
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


IMAGES = {
    "grey": np.array([[0.0, 0.5], [1.0, 0.2], [0.4, 0.6]]),
    "one channel": np.arange(6, dtype="uint8").reshape(2, 3, 1),
    "colour": np.linspace(0, 1, 24, dtype="float32").reshape(2, 4, 3),
    "with transparency": np.arange(48, dtype="uint8").reshape(3, 4, 4),
    "out of range": np.array([[-1.0, 2.0], [nan, inf]]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_the_pixels(tmp_path, name):
    writer, image = TensorBoardWriter(tmp_path), IMAGES[name]
    writer.write_image(5, "picture", image)
    writer.close()
    [event] = events(tmp_path).Images("picture")
    pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    expected = image if image.dtype == np.uint8 else np.round(np.clip(np.nan_to_num(image), 0, 1) * 255)
    np.testing.assert_array_equal(pixels, expected.squeeze(-1) if image.shape[-1] == 1 else expected)
    assert (event.step, event.height, event.width) == (5, *image.shape[:2])


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (1, 2, 2, 3), (0, 2)])
def test_what_is_no_image_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="TensorBoardWriter writes an image of the shape H×W.*'picture' of shape"):
        TensorBoardWriter(tmp_path).write_image(0, "picture", np.zeros(shape))


def model_at(step):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(step)
    return model


def test_a_run_that_goes_on_from_before_its_end_has_each_step_once(tmp_path):
    """Two updates an epoch. The run breaks off within its third epoch, and another process resumes its second."""

    def train(step, epochs, initial_epoch=0):
        model, x = model_at(step), np.ones((4, 2))
        board = TensorBoard(tmp_path)
        model.fit(
            *(x, x[:, :1]), batch_size=2, epochs=epochs, initial_epoch=initial_epoch, verbose=0, callbacks=[board]
        )

    train(0, epochs=3)
    before = sorted((tmp_path / "train").iterdir())
    contents = [file.read_bytes() for file in before]
    train(4, epochs=4, initial_epoch=2)  # epochs 2 and 3, updates 5 to 8
    assert [file.read_bytes() for file in before] == contents
    read = events(tmp_path / "train")
    assert [event.step for event in read.Scalars("learning_rate")] == list(range(1, 9))
    assert sorted({event.step for event in read.Scalars("epoch_loss")}) == [0, 1, 2, 3]
    train(0, epochs=1)  # a new run in the same place stands for the old one
    read = events(tmp_path / "train")
    assert [event.step for event in read.Scalars("learning_rate")] == [1, 2]
    assert [event.step for event in read.Scalars("epoch_loss")] == [0]


def test_a_second_fit_with_one_writer_adds(tmp_path):
    writer, model = TensorBoardWriter(tmp_path), model_at(0)
    for _ in range(2):
        model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[Monitor([Logs()], [writer], every=1)])
    assert [event.step for event in events(tmp_path).Scalars("loss")] == [1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_there_is_never_overwritten(tmp_path, monkeypatch):
    """Two machines may have one name, and their processes one number."""
    import itertools
    import time

    from keras_optreg.callbacks.writers import tensorboard

    monkeypatch.setattr(time, "time", lambda: 1700000000.5)
    for step in (1, 2):
        monkeypatch.setattr(tensorboard, "_files", itertools.count())
        writer = TensorBoardWriter(tmp_path)
        writer.write(step, {"loss": 1.0})
        writer.close()
    assert [event.step for event in events(tmp_path).Scalars("loss")] == [1, 2]
