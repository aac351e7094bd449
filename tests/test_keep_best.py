"""KeepBest: which files there are after each epoch, what is in them, and that none is ever half written."""

import itertools
import json
from math import inf, nan
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_optreg.callbacks import KeepBest
from keras_optreg.callbacks.actions.action import outcomes_of


class Files:
    """What KeepBest asks of a model; a file holds the number of the epoch."""

    stop_training, metrics, epoch = False, (), None

    def save(self, path):
        Path(path).write_text(str(self.epoch))

    save_weights = save


def run(keep, values, first=0, name="val_loss", model=None):
    model = model or Files()
    keep.set_model(model)
    keep.on_train_begin()
    for model.epoch in range(first, len(values)):
        keep.on_epoch_begin(model.epoch)
        keep.on_epoch_end(model.epoch, {name: values[model.epoch]})
    keep.on_train_end()


def there(directory):
    """The epochs of the files that there are, in order."""
    return sorted(int(file.read_text()) for file in directory.rglob("*") if file.is_file())


@pytest.mark.parametrize("seed", range(20))
def test_the_files_are_those_of_the_k_best_epochs(seed, tmp_path):
    rng = np.random.default_rng(seed)
    values = [float(value) for value in rng.choice([0.1, 0.2, 0.3, 0.4, 0.5, nan, inf, -inf], 15)]
    k, mode = int(rng.integers(1, 5)), ("min", "max")[seed % 2]
    keep = KeepBest(tmp_path / "runs" / "{epoch:02d}.weights.h5", k, mode=mode)
    run(keep, values)
    sign = 1 if mode == "min" else -1
    finite = [epoch for epoch, value in enumerate(values) if np.isfinite(value)]
    expected = sorted(finite, key=lambda epoch: (sign * values[epoch], epoch))[:k]  # of equal ones the earlier
    assert [one["epoch"] for one in keep.kept] == expected
    assert there(tmp_path) == sorted(expected)
    assert [int(Path(one["path"]).read_text()) for one in keep.kept] == expected
    assert keep.best_path == str(tmp_path / "runs" / f"{expected[0] + 1:02d}.weights.h5")


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_resumed_training_keeps_what_the_whole_one_does(cut, tmp_path):
    values = [5.0, 3.0, 4.0, 3.0, 1.0, 2.0, 6.0]

    def make(directory):
        return KeepBest(tmp_path / directory / "{epoch}-{val_loss:.1f}.keras", 2, mode="min")

    whole, one, other = make("whole"), make("parts"), make("parts")
    run(whole, values)
    run(one, values[:cut])
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    run(other, values, first=cut)
    names = [[(Path(file["path"]).name, file["value"]) for file in keep.kept] for keep in (whole, other)]
    assert names[0] == names[1] == [("5-1.0.keras", 1.0), ("6-2.0.keras", 2.0)]
    assert there(tmp_path / "parts") == there(tmp_path / "whole") == [4, 5]


def test_one_file_under_one_name(tmp_path):
    keep = KeepBest(tmp_path / "best.keras", mode="min")
    run(keep, [3.0, 1.0, 2.0, nan, 1.0])
    assert there(tmp_path) == [1]
    assert keep.kept == [{"path": str(tmp_path / "best.keras"), "value": 1.0, "epoch": 1}]


def test_nothing_is_kept_of_what_is_never_a_number(tmp_path):
    keep = KeepBest(tmp_path / "best.keras", mode="min")
    run(keep, [nan, nan])
    assert (keep.best_path, keep.outcome(), there(tmp_path)) == (None, None, [])


class Full(Files):
    """Fails in the middle of writing its second file."""

    count = itertools.count()

    def save(self, path):
        super().save(path)
        if next(self.count) == 1:
            raise OSError("no space left")


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    keep = KeepBest(tmp_path / "best.keras", mode="min")
    with pytest.raises(OSError, match="no space"):
        run(keep, [3.0, 1.0], model=Full())
    assert there(tmp_path) == [0]
    assert [one["value"] for one in keep.kept] == [3.0]
    assert [file.name for file in tmp_path.iterdir()] == ["best.keras"]


@pytest.mark.parametrize("kind", ["keras", "weights.h5"])
def test_in_fit(kind, tmp_path, capsys):
    x = np.ones((6, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    keep = KeepBest(tmp_path / ("{epoch:02d}-{loss:.3f}." + kind), 2, "loss", verbose=1)
    history = model.fit(x, x, batch_size=3, epochs=4, verbose=0, callbacks=[keep])
    best = history.history["loss"]
    assert [one["value"] for one in keep.kept] == pytest.approx(sorted(best)[:2])
    assert "deleted" in capsys.readouterr().out
    assert outcomes_of(model)["KeepBest"].startswith(f"kept {keep.best_path} (loss ")
    if kind == "keras":
        found = keras.saving.load_model(keep.best_path)
        epoch = keep.kept[0]["epoch"]
        assert int(keras.ops.convert_to_numpy(found.optimizer.iterations)) == 2 * (epoch + 1)
    else:
        model.load_weights(keep.best_path)


def test_what_it_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.keras"):
        KeepBest("best.h5")
    with pytest.raises(ValueError, match=r"k=2 needs a name for each epoch"):
        KeepBest("best-{val_loss}.keras", 2)
    with pytest.raises(ValueError, match="`k` of KeepBest must be an integer"):
        KeepBest("best.keras", 0)
    with pytest.raises(ValueError, match=r"'mae' is not in the logs\. There are: epoch, val_loss"):
        run(KeepBest(tmp_path / "{mae}.keras", mode="min"), [1.0])
    with pytest.raises(ValueError, match="KeepBest monitors 'val_loss'"):
        run(KeepBest(tmp_path / "best.keras"), [1.0], name="mae")


def test_a_second_fit_must_beat_the_first(tmp_path):
    keep = KeepBest(tmp_path / "best.weights.h5")
    run(keep, [3.0, 1.0])
    before = there(tmp_path)
    run(keep, [2.0])
    assert [one["value"] for one in keep.kept] == [1.0]
    assert there(tmp_path) == before
