"""Every test starts from the same seeds and an empty Keras session; the backend is the one named by KERAS_BACKEND."""

import os
import warnings
from collections import defaultdict
from zlib import crc32

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Two test processes share two cores: one thread each keeps them from waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--one-in", type=int, default=1, help="one in so many of the cases of each test, other ones on each backend"
    )


def pytest_collection_modifyitems(config, items):
    """`--one-in n`: every test, on a part of its cases which is the same in each run and in each process.

    Up to three backends take different parts, so that with `--one-in 3` together they take all.
    """
    one_in = config.getoption("--one-in")
    part = ["tensorflow", "jax", "torch"].index(keras.backend.backend())
    cases = defaultdict(list)
    for item in items:
        cases[item.location[0], getattr(item, "originalname", item.name)].append(item)
    least = {id(min(group, key=lambda item: crc32(item.nodeid.encode()))) for group in cases.values()}
    kept = [item for item in items if id(item) in least or (crc32(item.nodeid.encode()) + part) % one_in == 0]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.fixture(autouse=True)
def _same_start():
    keras.utils.set_random_seed(0)
    yield
    # Layer names count from `dense` again and the dtype policy is float32, so tests pass in any order.
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def run_op_by_op():
    """TensorFlow's functions run op by op: compiling one takes longer than all that a small test asks of it."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Even though the `tf.config", UserWarning)  # tf.data's functions stay graphs
        yield
    tf.config.run_functions_eagerly(False)
