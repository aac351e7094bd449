"""Steps an optimizer by hand, in every way the running backend has."""

from functools import cache, partial

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ("eager", "graph", "jit"), "jax": ("eager", "jit"), "torch": ("eager",)}.get(BACKEND, ("eager",))


def variables_of(weights, constraint=None, kind=None, **kwargs):
    """One Keras variable a weight, named so that selectors find a kernel and a bias; or all of one kind."""
    named = [(f"w{i}_{kind or ('kernel' if np.ndim(w) > 1 else 'bias')}", w) for i, w in enumerate(weights)]
    variables = [keras.Variable(w, name=name, **kwargs) for name, w in named]
    for v in variables:
        v.constraint = constraint
    return variables


def values_of(variables):
    """Their values as NumPy arrays (float32 for 16-bit ones)."""
    return [ops.convert_to_numpy(ops.cast(v, "float32") if "float16" in v.dtype else v.value) for v in variables]


def stepper(optimizer, variables, mode="eager"):
    """A function that applies one list of gradients; `mode` is one of `MODES`."""
    optimizer.build(variables)

    def tensors(grads):
        return [None if g is None else ops.convert_to_tensor(g) for g in grads]

    if mode == "eager":
        return lambda grads: optimizer.apply(tensors(grads), variables)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(
            lambda grads: optimizer.apply(grads, variables), jit_compile=mode == "jit", autograph=False
        )
        return lambda grads: compiled(tensors(grads))
    import jax

    pure = jax.jit(optimizer.stateless_apply)

    def step(grads):
        new, state = pure([v.value for v in optimizer.variables], tensors(grads), [v.value for v in variables])
        for v, value in zip([*variables, *optimizer.variables], [*new, *state], strict=True):
            v.assign(value)

    return step


def minimise(optimizer, variables, gradients, steps, counted=False):
    """Take many steps on a function whose `gradients(*values)` are given, in one compiled loop where there is one.

    With `counted` it is another function at each step: `gradients(step, *values)`, steps from 0.
    """
    optimizer.build(variables)
    at = gradients if counted else lambda step, *values: gradients(*values)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def loop():
            def body(i):
                optimizer.apply(at(i, *[ops.convert_to_tensor(v) for v in variables]), variables)
                return [i + 1]

            tf.while_loop(lambda i: i < steps, body, [0])

        loop()
    elif BACKEND == "jax":
        import jax

        def body(i, carry):
            weights, state = carry
            return tuple(map(list, optimizer.stateless_apply(state, at(i, *weights), weights)))

        start = [v.value for v in variables], [v.value for v in optimizer.variables]
        weights, state = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, body, carry))(start)
        for v, value in zip([*variables, *optimizer.variables], [*weights, *state], strict=True):
            v.assign(value)
    else:
        for i in range(steps):
            optimizer.apply([ops.stop_gradient(g) for g in at(i, *[v.value for v in variables])], variables)


def run(make, weights, gradients, mode="eager", **variable_options):
    """Weights after the given steps, and the optimizer."""
    variables = variables_of(weights, **variable_options)
    optimizer = make()
    step = stepper(optimizer, variables, mode)
    for grads in gradients:
        step(grads)
    return values_of(variables), optimizer


class Joint:
    """Marks a reference that sees all weights at once: `(gradients, weights, s, t, lr) -> weights`."""

    def __init__(self, step, **arguments):
        self.step = partial(step, **arguments)


def run_reference(reference, weights, gradients, lr, rounded=lambda w: w):
    """Weights after the given steps, in float64; a None gradient leaves its weight alone. `rounded`: as it is kept."""
    out, states = [np.asarray(w, "float64") for w in weights], [{} for _ in weights]
    for t, grads in enumerate(gradients, 1):
        rate = lr(t - 1) if callable(lr) else lr
        grads = [None if g is None else np.asarray(g, "float64") for g in grads]
        if isinstance(reference, Joint):
            new = reference.step(grads, out, states[0], t, rate)
        else:
            each = zip(grads, out, states, strict=True)
            new = [w if g is None else reference(g, w, s, t, rate) for g, w, s in each]
        out = [rounded(w) for w in new]
    return out


@cache
def problem(steps=20, seed=0, shapes=((3, 4), (5,)), spread=4):
    """Weights, and gradients that change sign, span orders of magnitude (four, unless told) and hold exact zeros."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s).astype("float32") for s in shapes]
    gradients = []
    for _ in range(steps):
        grads = [rng.normal(size=s) * 10.0 ** rng.uniform(1 - spread, 1, size=s) for s in shapes]
        gradients.append([(g * (rng.random(g.shape) > 0.15)).astype("float32") for g in grads])
    return weights, gradients
