"""Keras's own tests of the classes whose names we share, run with ours in their place.

They ship inside the installed Keras package, so they are the tests of the very version that is running.
"""

import importlib
import unittest

import keras
import pytest

from keras_optreg import optimizers

MODULES = {
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamw": "AdamW",
    "adamax": "Adamax",
    "nadam": "Nadam",
}

# Keras's tests which cannot pass, each with the reason.
DIFFERENT = {
    "SGD.test_invalid_momentum": "expects Keras's message; ours is a ValueError too, with the value received",
    "AdamW.test_weight_decay_is_none": "expects Keras's message; ours is a ValueError too",
    "Nadam.test_build_with_empty_var_list": "reads the private `_u_product`; ours is a float32 shared slot",
}


def keras_tests():
    for module, name in MODULES.items():
        tests = importlib.import_module(f"keras.src.optimizers.{module}_test")
        for attribute in vars(tests).values():
            if isinstance(attribute, type) and issubclass(attribute, unittest.TestCase):
                for method in unittest.TestLoader().getTestCaseNames(attribute):
                    yield pytest.param(tests, attribute, method, name, id=f"{name}-{method}")


@pytest.mark.parametrize(("module", "case", "method", "name"), list(keras_tests()))
@pytest.mark.filterwarnings("default")  # Keras's tests do not promise to be free of warnings
def test_passes_keras_own_tests(module, case, method, name, monkeypatch, request):
    if f"{name}.{method}" in DIFFERENT:
        request.applymarker(pytest.mark.xfail(reason=DIFFERENT[f"{name}.{method}"], strict=True))
    monkeypatch.setattr(module, name, getattr(optimizers, name))
    result = unittest.TestResult()
    case(method).run(result)
    assert not result.errors + result.failures, "\n".join(text for _, text in result.errors + result.failures)
    assert result.testsRun == 1


def test_the_tests_found_are_keras_own():
    assert len(list(keras_tests())) >= 5 * len(MODULES)
    assert keras.__version__ >= "3.13"
