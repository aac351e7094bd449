"""ProgressBar: plain lines where nobody watches, a live bar in a terminal."""

import io
import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_optreg.callbacks import LearningRateDecay, ProgressBar
from keras_optreg.schedules import StepDecay

X = np.ones((6, 1), "float32")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(*callbacks, **options):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"])
    return model.fit(X, 0 * X, batch_size=2, epochs=2, verbose=0, callbacks=list(callbacks), **options)


def test_a_log_gets_one_plain_line_an_epoch():
    log = io.StringIO()
    fit(ProgressBar(stream=log), validation_data=(X, 3 * X))
    lines = log.getvalue().splitlines()
    assert [re.sub(r"in \S+ s", "in . s", line) for line in lines] == [
        f"epoch {n}/2  3 steps in . s  loss 1  mae 1  val_loss 4  val_mae 2  learning_rate 0" for n in (1, 2)
    ]


def test_the_learning_rate_of_the_logs_is_shown_once():
    log = io.StringIO()
    fit(LearningRateDecay(StepDecay(0.5, 0.5, 1)), ProgressBar(stream=log))
    assert [re.findall(r"learning_rate (\S+)", line) for line in log.getvalue().splitlines()] == [["0.5"], ["0.25"]]


def test_a_terminal_gets_a_bar_that_moves_and_goes(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    bar = ProgressBar(refresh=0.0, stream=terminal)
    counts = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            [task] = bar._bar.tasks
            counts.append((task.description, task.completed, task.total))
            bar._bar.refresh()

    fit(bar, Look())
    assert counts == [(f"epoch {n}/2", step, 3) for n in (1, 2) for step in (1, 2, 3)]
    assert "2/3" in terminal.getvalue()
    assert terminal.getvalue().count("steps in") == 2  # and the lines stay above it
    assert bar._bar is None


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length():
    log = io.StringIO()
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(((X, X) for _ in range(4)), shuffle=False, verbose=0, callbacks=[ProgressBar(stream=log)])
    assert log.getvalue().startswith("epoch 1/1  4 steps in ")


def test_a_negative_refresh_is_refused():
    with pytest.raises(ValueError, match="ProgressBar.*refresh"):
        ProgressBar(refresh=-1)


def test_metrics_that_are_arrays_are_left_out():
    stream = io.StringIO()
    bar = ProgressBar(stream=stream)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()], run_eagerly=True)
    model.fit(np.ones((3, 2)), np.eye(3), verbose=0, callbacks=[bar])
    assert "f1_score" not in stream.getvalue()
    assert "loss" in stream.getvalue()
