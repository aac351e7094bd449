"""Every test starts from the same seeds and an empty Keras session; the backend is the one named by KERAS_BACKEND."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Two test processes share two cores: one thread each keeps them from waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest


@pytest.fixture(autouse=True)
def _same_start():
    keras.utils.set_random_seed(0)
    yield
    # Layer names count from `dense` again and the dtype policy is float32, so tests pass in any order.
    keras.utils.clear_session(free_memory=False)
