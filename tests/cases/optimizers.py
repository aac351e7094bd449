"""One row an optimizer: how to make it, a float64 reference written from its paper, and its peers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from stepping import Joint, problem

from keras_optreg import optimizers
from keras_optreg.regularizers import L1


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        name: of the test.
        make: the optimizer, given a learning rate and options.
        reference: `(g, w, s, t, lr) -> w` in float64; `s` is a dict it keeps its state in. A `Joint` one sees all
            weights.
        keras_peer: the Keras class and arguments which must agree, or None where Keras has none.
        torch_peer: name of the class in torch.optim, and arguments, where its convention is the same.
        bad: (argument, just outside, just inside) for each number.
        lasso: learning rate and steps which solve the Lasso problem of `test_optimizers`.
        problem: what differs from `stepping.problem`, for methods that are not for every shape or gradient.
    """

    name: str
    make: Callable[..., optimizers.RuleOptimizer]
    reference: Callable[..., Any] | Joint
    keras_peer: Callable[..., Any] | None = None
    torch_peer: tuple[str, dict[str, Any]] | None = None
    bad: tuple[tuple[str, float, float], ...] = ()
    lasso: tuple[float, int] = (0.05, 1500)
    problem: tuple[tuple[str, Any], ...] = ()

    @property
    def weights(self) -> list[Any]:
        return problem(**dict(self.problem))[0]

    @property
    def gradients(self) -> list[Any]:
        return problem(**dict(self.problem))[1]

    def __str__(self) -> str:
        return self.name


def sgd(g, w, s, t, lr, momentum=0.0, nesterov=False, dampening=0.0):
    # Sutskever et al. 2013, equations 1-4, for a gradient scaled by 1 - dampening.
    g = (1 - dampening) * g
    v_old = s.get("v", 0.0)
    s["v"] = momentum * v_old - lr * g
    # Nesterov, in the variables that the network holds: w already stands at the look-ahead point.
    return w + (momentum * s["v"] - lr * g if nesterov else s["v"])


def rmsprop(g, w, s, t, lr, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False):
    s["ms"] = rho * s.get("ms", 0.0) + (1 - rho) * g * g
    s["mg"] = rho * s.get("mg", 0.0) + (1 - rho) * g
    variance = s["ms"] - s["mg"] ** 2 if centered else s["ms"]
    s["u"] = momentum * s.get("u", 0.0) + lr * g / np.sqrt(variance + epsilon)
    return w - s["u"]


def adagrad(g, w, s, t, lr, start=0.1, epsilon=1e-7):
    s["sum"] = s.get("sum", start) + g * g
    return w - lr * g / np.sqrt(s["sum"] + epsilon)


def adam(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-7, amsgrad=False, decay=0.0):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    v = s["v"]
    if amsgrad:
        v = s["v_max"] = np.maximum(s.get("v_max", 0.0), v)
    rate = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
    return w - lr * decay * w - rate * s["m"] / (np.sqrt(v) + epsilon)


def adamax(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-7):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["u"] = np.maximum(b2 * s.get("u", 0.0), np.abs(g))
    return w - lr / (1 - b1**t) * s["m"] / (s["u"] + epsilon)


def nadam(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-7, psi=1.0):
    mu = [b1 * (1 - 0.5 * 0.96 ** (psi * i)) for i in range(1, t + 2)]
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    m_hat = mu[t] * s["m"] / (1 - np.prod(mu)) + (1 - mu[t - 1]) * g / (1 - np.prod(mu[:t]))
    return w - lr * m_hat / (np.sqrt(s["v"] / (1 - b2**t)) + epsilon)


def radam(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-7):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    m_hat = s["m"] / (1 - b1**t)
    longest = 2 / (1 - b2) - 1
    rho = longest - 2 * t * b2**t / (1 - b2**t)
    if rho <= 5:
        return w - lr * m_hat
    r = np.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
    return w - lr * r * m_hat * np.sqrt(1 - b2**t) / (np.sqrt(s["v"]) + epsilon)


def adabelief(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-16):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["s"] = b2 * s.get("s", 0.0) + (1 - b2) * (g - s["m"]) ** 2 + epsilon
    return w - lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["s"] / (1 - b2**t)) + epsilon)


def yogi(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-3, start=1e-6):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    v = s.get("v", start)
    s["v"] = v - (1 - b2) * np.sign(v - g * g) * g * g
    return w - lr * s["m"] / (np.sqrt(s["v"]) + epsilon)


def novograd(g, w, s, t, lr, b1=0.95, b2=0.98, epsilon=1e-8, decay=0.0):
    s["v"] = b2 * s["v"] + (1 - b2) * np.sum(g * g) if "v" in s else np.sum(g * g)
    s["m"] = b1 * s.get("m", 0.0) + g / (np.sqrt(s["v"]) + epsilon) + decay * w
    return w - lr * s["m"]


def lamb(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-6, decay=0.0):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    r = s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + epsilon) + decay * w
    return w - lr * np.linalg.norm(w) / np.linalg.norm(r) * r


def lars(g, w, s, t, lr, momentum=0.9, trust=0.001, epsilon=1e-9, decay=0.0):
    w_norm, g_norm = np.linalg.norm(w), np.linalg.norm(g)
    local = trust * w_norm / (g_norm + decay * w_norm + epsilon)
    s["v"] = momentum * s.get("v", 0.0) + lr * local * (g + decay * w)
    return w - s["v"]


def lion(g, w, s, t, lr, b1=0.9, b2=0.99):
    m = s.get("m", 0.0)
    s["m"] = b2 * m + (1 - b2) * g
    return w - lr * np.sign(b1 * m + (1 - b1) * g)


def adan(g, w, s, t, lr, b1=0.98, b2=0.92, b3=0.99, epsilon=1e-8):
    d = g - s.get("g", g)
    s["g"] = g
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * d
    s["n"] = b3 * s.get("n", 0.0) + (1 - b3) * (g + b2 * d) ** 2
    u = s["m"] / (1 - b1**t) + b2 * s["v"] / (1 - b2**t)
    return w - lr * u / (np.sqrt(s["n"] / (1 - b3**t)) + epsilon)


def ademamix(g, w, s, t, lr, b1=0.9, b2=0.999, b3=0.9999, alpha=5.0, epsilon=1e-8, warmup=0):
    if warmup and t < warmup:
        # The half-life of the slow average grows in a straight line: 1/ln β is linear in t.
        b3 = min(np.exp(1 / ((1 - t / warmup) / np.log(b1) + t / warmup / np.log(b3))), b3)
        alpha = alpha * t / warmup
    s["m1"] = b1 * s.get("m1", 0.0) + (1 - b1) * g
    s["m2"] = b3 * s.get("m2", 0.0) + (1 - b3) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    return w - lr * (s["m1"] / (1 - b1**t) + alpha * s["m2"]) / (np.sqrt(s["v"] / (1 - b2**t)) + epsilon)


def adopt(g, w, s, t, lr, b1=0.9, b2=0.9999, epsilon=1e-6):
    if "v" not in s:
        s["v"], s["m"] = g * g, 0.0
        return w
    bound = (t - 1) ** 0.25
    s["m"] = b1 * s["m"] + (1 - b1) * np.clip(g / np.maximum(np.sqrt(s["v"]), epsilon), -bound, bound)
    s["v"] = b2 * s["v"] + (1 - b2) * g * g
    return w - lr * s["m"]


def mars(g, w, s, t, lr, b1=0.95, b2=0.99, gamma=0.025, epsilon=1e-8):
    c = g + gamma * b1 / (1 - b1) * (g - s.get("g", g))
    s["g"] = g
    if np.linalg.norm(c) > 1:
        c = c / np.linalg.norm(c)
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * c
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * c * c
    return w - lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + epsilon)


def madgrad(g, w, s, t, lr, momentum=0.9, epsilon=1e-6, decay=0.0):
    g = g + decay * w
    first = s.setdefault("w0", w)
    s["s"] = s.get("s", 0.0) + lr * np.sqrt(t) * g
    s["nu"] = s.get("nu", 0.0) + lr * np.sqrt(t) * g * g
    return momentum * w + (1 - momentum) * (first - s["s"] / (np.cbrt(s["nu"]) + epsilon))


def cocob(g, w, s, t, lr, alpha=100.0, epsilon=1e-8, decay=0.0):
    g, start = g + decay * w, s.setdefault("w1", w)
    s["L"] = np.maximum(s.get("L", epsilon), np.abs(g))
    s["G"] = s.get("G", 0.0) + np.abs(g)
    s["R"] = np.maximum(s.get("R", 0.0) - g * (w - start), 0)
    s["sum"] = s.get("sum", 0.0) + g
    return start - lr * s["sum"] / (s["L"] * np.maximum(s["G"] + s["L"], alpha * s["L"])) * (s["L"] + s["R"])


def prodigy(gs, ws, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-8, d0=1e-6, decay=0.0):
    d, seen = s.setdefault("d", d0), [i for i, g in enumerate(gs) if g is not None]
    s["r"] = np.sqrt(b2) * s.get("r", 0.0)
    new = list(ws)
    for i in seen:
        g, w = gs[i], ws[i]
        one = s.setdefault(i, {"m": 0.0, "v": 0.0, "s": 0.0, "w0": w})
        one["m"] = b1 * one["m"] + (1 - b1) * d * g
        one["v"] = b2 * one["v"] + (1 - b2) * d**2 * g**2
        s["r"] += (1 - np.sqrt(b2)) * lr * d**2 * np.sum(g * (one["w0"] - w))
        one["s"] = np.sqrt(b2) * one["s"] + (1 - np.sqrt(b2)) * lr * d**2 * g
        new[i] = w - lr * d * decay * w - lr * d * one["m"] / (np.sqrt(one["v"]) + d * epsilon)
    length = sum(np.sum(np.abs(s[i]["s"])) for i in seen)
    s["d"] = max(d, s["r"] / length) if length else d
    return new


def schedule_free(gs, ws, s, t, lr, b1=0.9, b2=None, epsilon=1e-8, warmup=0, decay=0.0):
    gamma = lr * min(1, t / warmup) if warmup else lr
    s["longest"] = max(s.get("longest", 0.0), gamma)
    s["sum"] = s.get("sum", 0.0) + s["longest"] ** 2
    c = s["longest"] ** 2 / s["sum"] if s["sum"] else 0.0
    new = list(ws)
    for i, (g, y) in enumerate(zip(gs, ws, strict=True)):
        if g is None:
            continue
        one = s.setdefault(i, {"x": y, "z": y, "v": 0.0})
        if b2 is not None:  # AdamW
            one["v"] = b2 * one["v"] + (1 - b2) * g**2
            g = g / (np.sqrt(one["v"] / (1 - b2**t)) + epsilon)
        one["z"] = one["z"] - gamma * (g + decay * y)
        one["x"] = (1 - c) * one["x"] + c * one["z"]
        new[i] = (1 - b1) * one["z"] + b1 * one["x"]
    return new


def muon(g, w, s, t, lr, momentum=0.95, nesterov=True, steps=5, rms=0.2):
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * g
    u = (1 - momentum) * g + momentum * s["m"] if nesterov else s["m"]
    left, values, right = np.linalg.svd(u.reshape(-1, u.shape[-1]), full_matrices=False)
    values = values / (np.linalg.norm(values) + 1e-7)
    for _ in range(steps):  # an odd polynomial of a matrix acts on its singular values
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    rows, columns = len(left), right.shape[1]
    scale = rms * np.sqrt(max(rows, columns)) if rms else np.sqrt(max(1, columns / rows))
    return w - lr * scale * (left * values @ right).reshape(w.shape)


def soap(g, w, s, t, lr, b1=0.95, b2=0.95, epsilon=1e-8, every=10, max_size=10000):
    shape = g.shape
    g = g.reshape(-1, shape[-1])
    kept = [g.shape[axis] > max_size or len(shape) < 2 for axis in (0, 1)]  # sides that keep their axes
    old = s.setdefault("covariance", [np.zeros((n, n)) for n in g.shape])
    s["covariance"] = [b2 * c + (1 - b2) * x for c, x in zip(old, (g @ g.T, g.T @ g), strict=True)]
    if "basis" not in s:
        s["n"], s["m"], s["v"] = 0, 0.0, 0.0
        s["basis"] = [
            np.eye(len(c)) if keep else np.linalg.eigh(c)[1][:, ::-1]
            for c, keep in zip(s["covariance"], kept, strict=True)
        ]
        return w
    s["n"] += 1
    left, right = s["basis"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * (left.T @ g @ right) ** 2
    rate = lr * np.sqrt(1 - b2 ** s["n"]) / (1 - b1 ** s["n"])
    step = left @ (left.T @ s["m"] @ right / (np.sqrt(s["v"]) + epsilon)) @ right.T
    if s["n"] % every == 0:
        s["basis"] = [
            b if keep else np.linalg.qr(c @ b)[0] for b, c, keep in zip(s["basis"], s["covariance"], kept, strict=True)
        ]
    return w - rate * step.reshape(shape)


def soft(w, threshold):
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)


def proximal_sgd(g, w, s, t, lr, strength=0.05):
    return soft(w - lr * g, lr * strength) if w.ndim > 1 else w - lr * g  # on the kernel


def proximal_adagrad(g, w, s, t, lr, strength=0.05, start=0.1, epsilon=1e-7):
    s["sum"] = s.get("sum", start) + g * g
    c = lr / np.sqrt(s["sum"] + epsilon)
    return soft(w - c * g, c * strength) if w.ndim > 1 else w - c * g


_fraction = (("beta_1", 1.0, 0.999), ("beta_1", -1e-9, 0.0), ("beta_2", 1.0, 0.9999), ("epsilon", -1e-9, 0.0))
_SGD = (("momentum", 1.01, 1.0), ("dampening", 1.0, 0.99))
_PROXIMAL = (("momentum", 1.01, 0.99), ("dampening", 1.0, 0.99))  # μ = 1 has no step for the map
_ADAGRAD = (("initial_accumulator_value", -1e-9, 0.0), ("epsilon", -1e-9, 0.0))
_SCHEDULE_FREE = (("beta_1", 0.0, 0.01), ("beta_1", 1.01, 1.0), ("warmup_steps", -1, 0))
_MUON = (("momentum", 1.0, 0.99), ("newton_schulz_steps", 0, 1), ("update_rms", -1e-9, 0.0))
_SOAP = (("precondition_every", 0, 1), ("max_size", 0, 1))
_MILD = (("spread", 1), ("shapes", ((3, 4), (5,))))  # the small eigenvectors of float32 need a covariance that has them
_K = keras.optimizers


def _on_kernels(cls):
    return lambda *args, **options: cls(*args, **{"penalties": L1(0.05), **options})


CASES = [
    Case("SGD", optimizers.SGD, sgd, _K.SGD, ("SGD", {}), _SGD, (0.1, 600)),
    Case(
        "SGD-momentum",
        partial(optimizers.SGD, momentum=0.9),
        partial(sgd, momentum=0.9),
        partial(_K.SGD, momentum=0.9),
        ("SGD", {"momentum": 0.9}),
        lasso=(0.02, 600),
    ),
    Case(
        "SGD-nesterov",
        partial(optimizers.SGD, momentum=0.9, nesterov=True),
        partial(sgd, momentum=0.9, nesterov=True),
        partial(_K.SGD, momentum=0.9, nesterov=True),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        lasso=(0.02, 600),
    ),
    Case(
        "SGD-dampened",
        partial(optimizers.SGD, momentum=0.9, dampening=0.9),
        partial(sgd, momentum=0.9, dampening=0.9),
        lasso=(0.1, 900),
    ),
    Case(
        "RMSprop",
        optimizers.RMSprop,
        rmsprop,
        _K.RMSprop,
        None,
        (("rho", 1.01, 1.0), ("epsilon", -1.0, 0.0)),
        (0.005, 2500),
    ),
    Case(
        "RMSprop-momentum",
        partial(optimizers.RMSprop, momentum=0.5),
        partial(rmsprop, momentum=0.5),
        partial(_K.RMSprop, momentum=0.5),
        bad=(("momentum", 1.01, 1.0),),
    ),
    Case(
        "RMSprop-centered",
        partial(optimizers.RMSprop, momentum=0.5, centered=True, epsilon=1e-2),
        partial(rmsprop, momentum=0.5, centered=True, epsilon=1e-2),
        partial(_K.RMSprop, momentum=0.5, centered=True, epsilon=1e-2),
        lasso=(0.003, 2500),
    ),
    Case(
        "Adagrad",
        optimizers.Adagrad,
        adagrad,
        _K.Adagrad,
        None,
        _ADAGRAD,
        lasso=(0.3, 2500),
    ),
    Case("Adam", optimizers.Adam, adam, _K.Adam, ("Adam", {"eps": 1e-12}), _fraction),
    Case(
        "Adam-amsgrad",
        partial(optimizers.Adam, amsgrad=True),
        partial(adam, amsgrad=True),
        partial(_K.Adam, amsgrad=True),
    ),
    Case(
        "AdamW",
        optimizers.AdamW,
        partial(adam, decay=0.004),
        _K.AdamW,
        ("AdamW", {"eps": 1e-12, "weight_decay": 0.004}),
        _fraction,
    ),
    Case(
        "AMSGrad",
        optimizers.AMSGrad,
        partial(adam, amsgrad=True),
        partial(_K.Adam, amsgrad=True),
        ("Adam", {"eps": 1e-12, "amsgrad": True}),
        _fraction,
    ),
    Case("Adamax", optimizers.Adamax, adamax, _K.Adamax, None, _fraction),
    Case("Nadam", optimizers.Nadam, nadam, _K.Nadam, None, (*_fraction, ("momentum_decay", -1e-9, 0.0))),
    Case(
        "Nadam-slow",
        partial(optimizers.Nadam, momentum_decay=0.004),
        partial(nadam, psi=0.004),
        torch_peer=("NAdam", {"eps": 1e-12}),
    ),
    Case("RAdam", optimizers.RAdam, radam, None, ("RAdam", {"eps": 1e-12}), _fraction),
    Case("RAdam-never", partial(optimizers.RAdam, beta_2=0.6), partial(radam, b2=0.6)),
    Case("AdaBelief", optimizers.AdaBelief, adabelief, None, None, _fraction, (0.01, 3000)),
    Case("Yogi", optimizers.Yogi, yogi, None, None, (*_fraction, ("initial_accumulator_value", -1e-9, 0.0))),
    Case("NovoGrad", optimizers.NovoGrad, novograd, None, None, _fraction, (0.002, 3000)),
    Case("NovoGrad-decay", partial(optimizers.NovoGrad, weight_decay=0.1), partial(novograd, decay=0.1)),
    Case("LAMB", optimizers.LAMB, lamb, partial(_K.Lamb, epsilon=1e-6), None, _fraction),
    Case("LAMB-decay", partial(optimizers.LAMB, weight_decay=0.1), partial(lamb, decay=0.1)),
    Case(
        "LARS",
        optimizers.LARS,
        lars,
        bad=(("momentum", 1.0, 0.99), ("trust_coefficient", 0.0, 1.0), ("epsilon", -1e-9, 0.0)),
    ),
    Case("LARS-decay", partial(optimizers.LARS, weight_decay=0.1), partial(lars, decay=0.1)),
    Case("Lion", optimizers.Lion, lion, _K.Lion, None, _fraction[:3]),
    Case("Adan", optimizers.Adan, adan, None, None, (*_fraction, ("beta_3", 1.0, 0.99))),
    Case(
        "AdEMAMix",
        optimizers.AdEMAMix,
        ademamix,
        None,
        None,
        (*_fraction, ("beta_3", 1.0, 0.99), ("alpha", -1e-9, 0.0), ("warmup_steps", -1, 0)),
    ),
    Case("AdEMAMix-alone", partial(optimizers.AdEMAMix, alpha=0, epsilon=1e-12), partial(adam, epsilon=1e-12)),
    Case("AdEMAMix-warmup", partial(optimizers.AdEMAMix, warmup_steps=12), partial(ademamix, warmup=12)),
    Case("ADOPT", optimizers.ADOPT, adopt, None, None, (*_fraction[:3], ("epsilon", 0.0, 1e-9))),
    Case("MARS", optimizers.MARS, mars, None, None, (*_fraction, ("gamma", -1e-9, 0.0))),
    Case("MADGRAD", optimizers.MADGRAD, madgrad, bad=(("momentum", 1.0, 0.99), ("epsilon", -1e-9, 0.0))),
    Case("MADGRAD-decay", partial(optimizers.MADGRAD, weight_decay=0.1), partial(madgrad, decay=0.1)),
    Case("COCOB", optimizers.COCOB, cocob, bad=(("alpha", 0.99, 1.0), ("epsilon", 0.0, 1e-9))),
    Case("COCOB-decay", partial(optimizers.COCOB, weight_decay=0.1), partial(cocob, decay=0.1)),
    Case("Prodigy", optimizers.Prodigy, Joint(prodigy), bad=(*_fraction, ("initial_distance", 0.0, 1e-9))),
    Case(
        "Prodigy-decay",
        partial(optimizers.Prodigy, initial_distance=0.01, weight_decay=0.1),
        Joint(prodigy, d0=0.01, decay=0.1),
    ),
    Case("ScheduleFreeSGD", optimizers.ScheduleFreeSGD, Joint(schedule_free), bad=_SCHEDULE_FREE),
    Case(
        "ScheduleFreeSGD-warmup",
        partial(optimizers.ScheduleFreeSGD, beta_1=0.98, warmup_steps=8, weight_decay=0.1),
        Joint(schedule_free, b1=0.98, warmup=8, decay=0.1),
    ),
    Case(
        "ScheduleFreeAdamW",
        optimizers.ScheduleFreeAdamW,
        Joint(schedule_free, b2=0.999),
        bad=(*_SCHEDULE_FREE, *_fraction[2:]),
    ),
    Case(
        "ScheduleFreeAdamW-warmup",
        partial(optimizers.ScheduleFreeAdamW, warmup_steps=8, weight_decay=0.1),
        Joint(schedule_free, b2=0.999, warmup=8, decay=0.1),
    ),
    Case(
        "Muon",
        optimizers.Muon,
        muon,
        partial(_K.Muon, weight_decay=None),
        bad=_MUON,
        problem=(("shapes", ((3, 4), (7, 5))),),
    ),
    Case(
        "Muon-plain",
        partial(optimizers.Muon, nesterov=False, update_rms=0, momentum=0.5, newton_schulz_steps=3),
        partial(muon, nesterov=False, rms=0, momentum=0.5, steps=3),
        problem=(("shapes", ((3, 4), (2, 3, 5))),),
    ),
    Case("SOAP", optimizers.SOAP, soap, bad=(*_fraction, *_SOAP), problem=_MILD),
    Case(
        "SOAP-often",
        partial(optimizers.SOAP, precondition_every=2, beta_2=0.9, max_size=3),
        partial(soap, every=2, b2=0.9, max_size=3),
        problem=_MILD,
    ),
    Case("ProximalSGD", _on_kernels(optimizers.ProximalSGD), proximal_sgd, bad=_PROXIMAL, lasso=(0.1, 600)),
    Case("ProximalAdagrad", _on_kernels(optimizers.ProximalAdagrad), proximal_adagrad, bad=_ADAGRAD, lasso=(0.3, 2500)),
]
