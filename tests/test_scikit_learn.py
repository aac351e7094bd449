"""A one-layer model with our penalty ends where scikit-learn's linear models are: the scales in the docstrings hold."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, Ridge

from keras_optreg.optimizers import SGD
from keras_optreg.regularizers import L1, L1L2, L2, attach
from keras_optreg.schedules import StepDecay

X, Y = load_diabetes(return_X_y=True)
X, Y = X / X.std(0), Y / Y.std()
N = len(Y)
RIDGE, LASSO, NET = 50.0, 0.05, (0.1, 0.6)  # alpha; alpha; alpha and l1_ratio

CASES = {
    "Ridge": (Ridge(RIDGE), L2(RIDGE / N)),
    "Lasso": (Lasso(LASSO, tol=1e-10, max_iter=100_000), L1(2 * LASSO)),
    "ElasticNet": (
        ElasticNet(NET[0], l1_ratio=NET[1], tol=1e-10, max_iter=100_000),
        L1L2(2 * NET[0] * NET[1], NET[0] * (1 - NET[1])),
    ),
}


def trained(model, optimizer):
    """Full batches until nothing moves any more, several of them a step of `fit`."""
    model.compile(optimizer, "mse")
    x, y = np.tile(X, (20, 1)).astype("float32"), np.tile(Y, 20)[:, None].astype("float32")
    model.fit(x, y, batch_size=N, shuffle=False, epochs=30, verbose=0)
    kernel, bias = model.get_weights()
    return kernel[:, 0], bias[0]


def one_layer():
    return keras.Sequential([keras.Input((X.shape[1],)), keras.layers.Dense(1)])


@pytest.mark.parametrize("name", CASES)
def test_in_the_update(name):
    """Zeros included: exactly the same inputs are left out."""
    estimator, penalty = CASES[name]
    estimator.fit(X, Y)
    kernel, bias = trained(one_layer(), SGD(0.1, momentum=0.9, penalties=penalty))
    np.testing.assert_allclose(kernel, estimator.coef_, atol=1e-3)
    assert bias == pytest.approx(estimator.intercept_, abs=1e-3)
    np.testing.assert_array_equal(kernel == 0, estimator.coef_ == 0)
    assert (kernel == 0).any() == (name != "Ridge")


@pytest.mark.parametrize("name", CASES)
def test_in_the_loss(name):
    """The same weights, but no zeros: near zero the gradient of |w| jumps, and the weight with it, by the rate."""
    estimator, penalty = CASES[name]
    estimator.fit(X, Y)
    model = one_layer()
    attach(model, penalty)
    rate = 0.1 if name == "Ridge" else StepDecay(0.1, drop=0.5, every=50)
    kernel, bias = trained(model, SGD(rate, momentum=0.9))
    np.testing.assert_allclose(kernel, estimator.coef_, atol=1e-3)
    assert bias == pytest.approx(estimator.intercept_, abs=1e-3)
    assert (kernel != 0).all()
