"""attach on the architectures of keras.applications: every kernel of a list written by hand, once, and it stays."""

import json

import keras
import numpy as np
import pytest
from cases.architectures import CASES
from penalised import total

from keras_optreg import report
from keras_optreg.regularizers import L2, attach

STRENGTH = 0.01
BACKEND = keras.backend.backend()
# Nothing here depends on the backend but the sums; each initializer and each sum compiles anew on JAX.
HERE = CASES if BACKEND == "tensorflow" else [case for case in CASES if case.name == "MobileNetV3Small"]
SAVED = ("MobileNetV2", "MobileNetV3Small")  # a file takes as long as all the rest
SOME_VALUES = np.random.default_rng(0).normal(size=1009).astype("float32")


@pytest.fixture(autouse=True)
def _fast_initializers(monkeypatch):
    """The values of weights do not matter, but that they differ; drawing millions of them takes most of the time."""

    def call(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(np.resize(SOME_VALUES, shape), dtype=dtype)

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", call)


def squares(model, paths):
    """λΣw² by hand over the variables of these paths."""
    named = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
    return STRENGTH * sum(np.square(named[path], dtype="float64").sum() for path in paths)


@pytest.mark.parametrize("case", HERE, ids=str)
def test_every_kernel_is_penalised_once_and_stays_so(case, tmp_path):
    model, penalty = case.make(), L2(STRENGTH)
    table = attach(model, penalty)
    assert sorted(row.path for row in table) == sorted(case.kernels)
    assert {row.status for row in table} == {"attached"}
    assert {row.survives for row in table} == {True}
    assert sorted(v.path for v in model.weights if v.regularizer is penalty) == sorted(case.kernels)
    assert len(model.losses) == len(case.kernels)
    assert total(model) == pytest.approx(squares(model, case.kernels), rel=1e-5)

    again = [keras.models.clone_model(model)]
    if case.name in SAVED:
        again.append(type(model).from_config(json.loads(json.dumps(model.get_config()))))
        model.save(tmp_path / "model.keras")
        again.append(keras.models.load_model(tmp_path / "model.keras"))
        assert total(again[-1]) == pytest.approx(total(model), rel=1e-5)
    for other in again:
        # Without the names of the models around a layer: what is made from a config has a shorter path.
        ends = ["/".join(v.path.split("/")[-2:]) for v in other.weights if v.regularizer is not None]
        assert sorted(ends) == sorted("/".join(path.split("/")[-2:]) for path in case.kernels)
        assert len(other.losses) == len(case.kernels)

    if case.name in SAVED:
        rows = report(model)
        assert sorted(row.path for row in rows) == sorted(case.kernels)
        for row in rows:
            assert row.value == pytest.approx(squares(model, [row.path]), rel=1e-5)
        lines = str(rows).splitlines()
        assert len(lines) == len(case.kernels) + 2  # the head and the total
        assert float(lines[-1].removeprefix("total penalty ")) == pytest.approx(total(model), rel=1e-5)
