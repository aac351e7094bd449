"""The order of one update, as pure arithmetic on values: every weight's next value, and that of all its slots.

Transform and clip; add the gradients of coupled penalties; decay; the rule; transform its update; the proximal map; the
constraint; the moving average.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras import ops

from keras_optreg.optimizers.gradient_transforms import GradientTransform
from keras_optreg.optimizers.slots import FILLED, WEIGHT, update_precision
from keras_optreg.optimizers.weight_decay import FullyDecoupled
from keras_optreg.typing import Penalty, Tensor, Variable

if TYPE_CHECKING:
    from keras_optreg.optimizers.rule_optimizer import RuleOptimizer, Step

Pairs = list[tuple[Variable, Tensor]]


class _Seen(NamedTuple):
    """What the rule sees of one weight."""

    g: Tensor
    w: Tensor
    state: dict[str, Tensor]
    lr: Tensor


def updates(
    optimizer: "RuleOptimizer", grads: Sequence[Tensor], indices: Sequence[int], lr: Tensor, t: Tensor, wd: Tensor
) -> Iterator[Pairs]:
    """The update as (variable, next value) pairs, a list for each weight. Reads variables, assigns none.

    Every list may be assigned before the next is asked for: no weight reads what belongs to another.

    Args:
        optimizer: the built optimizer.
        grads: one gradient for each index, in `update_precision`, summed over replicas and accumulated.
        indices: positions of the weights among those the optimizer was built with.
        lr: learning rate, before multipliers.
        t: the number of this update, from 1.
        wd: weight decay.
    """
    built, weights = optimizer.state, optimizer._trainable_variables
    own = optimizer.own_arguments()
    transforms, given = optimizer.gradient_transforms, grads
    if transforms:
        grads = [_transformed(transforms, g, value_of(weights[i])) for g, i in zip(grads, indices, strict=True)]
    grads = optimizer._clip_gradients(grads)

    def seen() -> Iterator[_Seen]:  # one weight at a time: eagerly, a list of all would hold a decayed copy of each
        return (_seen_by_rule(optimizer, g, i, lr, wd) for g, i in zip(grads, indices, strict=True))

    extra: dict[str, Any] = {}
    if built.shared:
        extra["shared"] = _next_shared(optimizer, seen(), lr, t, own)
        yield [(variable, extra["shared"][name]) for name, variable in built.shared.items()]
    for g, one, i in zip(given, seen(), indices, strict=True):
        step = _step(optimizer, one, i, t, wd, extra, own)
        delta = step.delta
        for transform in transforms:
            delta = transform.update(delta, one.g)
        touched = _touched(g) if built.plan.touched_only[i] else None
        yield _finished(optimizer, i, one, one.w + delta, step, t, touched)
    if optimizer.use_ema:
        rest = [i for i in range(len(weights)) if i not in indices]
        yield [pair for i in rest for pair in _averaged(optimizer, i, value_of(weights[i]), t)]
    if built.started is not None:
        now = ops.convert_to_tensor([float(i in indices) for i in range(len(weights))], built.started.dtype)
        yield [(built.started, ops.maximum(ops.convert_to_tensor(built.started), now))]
    yield optimizer.left_behind(indices)


def row_updates(
    optimizer: "RuleOptimizer",
    g: Tensor,
    i: int,
    read: Callable[[Variable], Tensor],
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
) -> Pairs:
    """The update of some rows of one weight. `read` gives these rows of a variable, and `g` is their gradient.

    For optimizers and weights that `is_by_rows` allows.
    """
    one = _seen_by_rule(optimizer, g, i, lr, wd, read)
    step = _step(optimizer, one, i, t, wd, {}, optimizer.own_arguments())
    return _finished(optimizer, i, one, one.w + step.delta, step, t, _touched(g), read)


def is_by_rows(optimizer: "RuleOptimizer", i: int) -> bool:
    """Whether nothing in the update of weight i looks beyond a row: no norm, no shared sum, no average."""
    built, variable = optimizer.state, optimizer._trainable_variables[i]
    clips = optimizer.clipnorm, optimizer.clipvalue, optimizer.global_clipnorm, optimizer.gradient_accumulation_steps
    whole = (
        any(clips) or optimizer.use_ema or optimizer.gradient_transforms or built.shared or built.started is not None
    )
    own = built.plan.penalties_of(i) or getattr(variable, "constraint", None) is not None
    return built.plan.touched_only[i] and not whole and not own


def _touched(g: Tensor) -> Tensor:
    """1 for the rows of a gradient that are not all zero, shaped to go with it."""
    return ops.any(g != 0, axis=tuple(range(1, len(g.shape))), keepdims=True)


def _step(
    optimizer: "RuleOptimizer", one: _Seen, i: int, t: Tensor, wd: Tensor, extra: dict[str, Any], own: dict[str, Any]
) -> "Step":
    cls = type(optimizer)
    if cls.takes_decay:
        extra = {**extra, "wd": ops.cast(wd, one.w.dtype) if _decays(optimizer, i) else 0.0}
    own = {**own, **optimizer.live.tensors(one.w.dtype)}
    return cls.rule(*one[:3], lr=one.lr, t=ops.cast(t, one.w.dtype), **extra, **own)


def _transformed(transforms: Sequence[GradientTransform], g: Tensor, w: Tensor) -> Tensor:
    g = ops.cast(g, w.dtype)
    for transform in transforms:
        g = transform.gradient(g, w)
    return g


def _decays(optimizer: "RuleOptimizer", i: int) -> bool:
    return optimizer.weight_decay is not None and optimizer.state.plan.decays[i]


def value_of(variable: Variable) -> Tensor:
    """The value of a weight in the precision of the update."""
    value = ops.convert_to_tensor(variable)
    return ops.cast(value, update_precision(value.dtype))


def _seen_by_rule(
    optimizer: "RuleOptimizer",
    g: Tensor,
    i: int,
    lr: Tensor,
    wd: Tensor,
    read: Callable[[Variable], Tensor] = value_of,
) -> _Seen:
    built = optimizer.state
    w = read(optimizer._trainable_variables[i])
    g = ops.cast(g, w.dtype)
    lr = ops.cast(lr, w.dtype)
    if built.multipliers is not None:
        lr = lr * ops.cast(ops.convert_to_tensor(built.multipliers)[i], w.dtype)
    with built.at_strengths(w.dtype):
        for penalty in built.plan.coupled[i]:
            g = g + ops.cast(penalty.gradient(w), w.dtype)
    state = state_of(optimizer, i, w, g, read)
    w = optimizer.resumed(w, state)
    if _decays(optimizer, i) and not type(optimizer).takes_decay:
        w = w - w * ops.cast(wd, w.dtype) * (1.0 if isinstance(optimizer.weight_decay, FullyDecoupled) else lr)
    return _Seen(g, w, state, lr)


def state_of(
    optimizer: "RuleOptimizer", i: int, w: Tensor, g: Tensor, read: Callable[[Variable], Tensor] = value_of
) -> dict[str, Tensor]:
    """The slots of a weight, those that start as the weight or its gradient filled.

    They are filled here because an assign in `build` is lost inside `fit` on TensorFlow.
    """
    built = optimizer.state
    state = {name: read(s[i]) for name, s in built.slots.items() if s[i] is not None}
    for name, start in optimizer.slots.items():
        if start in FILLED and name in state:
            is_started = ops.convert_to_tensor(built.started)[i] > 0
            state[name] = ops.where(is_started, state[name], w if start == WEIGHT else g)
    return state


def _next_shared(
    optimizer: "RuleOptimizer", seen: Iterable[_Seen], lr: Tensor, t: Tensor, own: dict[str, Any]
) -> dict[str, Tensor]:
    cls = type(optimizer)
    # Copies: these are assigned before the rules run, and a tensor of TensorFlow's or torch's variable is live.
    old = {name: ops.copy(ops.convert_to_tensor(variable)) for name, variable in optimizer.state.shared.items()}
    sums: dict[str, Tensor] = {}
    own = {**own, **optimizer.live.tensors(lr.dtype)}
    if cls.measure is not None:
        for one in seen:
            for name, value in cls.measure(*one[:3], old, lr=one.lr, t=t, **own).items():
                sums[name] = sums.get(name, 0.0) + ops.cast(value, lr.dtype)
    assert cls.share is not None, f"{cls.__name__} declares shared_slots without share"
    return cls.share(old, sums, lr=lr, t=t, **own)


def _finished(
    optimizer: "RuleOptimizer",
    i: int,
    one: _Seen,
    w: Tensor,
    step: "Step",
    t: Tensor,
    touched: Tensor | None,
    read: Callable[[Variable], Tensor] = value_of,
) -> Pairs:
    built, variable = optimizer.state, optimizer._trainable_variables[i]
    proximal, constraint = built.plan.proximal[i], getattr(variable, "constraint", None)
    if proximal is not None:
        with built.at_strengths(w.dtype):
            w = _penalised(proximal, w, step)
    if constraint is not None:
        w = constraint(w)
    state = step.state
    if touched is not None:
        w = ops.where(touched, w, optimizer.resumed(read(variable), one.state))
        state = {name: ops.where(touched, new, one.state[name]) for name, new in state.items()}
    pairs = [(slot[i], state[name]) for name, slot in built.slots.items() if slot[i] is not None]
    averaged = _averaged(optimizer, i, w, t)
    if not any(target is variable for target, _ in averaged):
        pairs.append((variable, w))
    return pairs + averaged


def _penalised(proximal: Penalty, w: Tensor, step: "Step") -> Tensor:
    """The proximal map in the rule's metric, cut so that it moves no weight further than twice the rule's reach.

    A constant gradient moves a weight by the reach at most. So where the two balance, or the penalty brings a weight
    back to zero, nothing is cut: fixed points are those of the metric, for penalties on groups of weights too.
    """
    z = proximal.proximal(w, step.metric)
    if step.reach is None:
        return z
    return ops.minimum(ops.maximum(z, w - 2 * step.reach), w + 2 * step.reach)


def _averaged(optimizer: "RuleOptimizer", i: int, w: Tensor, t: Tensor) -> Pairs:
    """The moving average of a weight, which starts at its first updated value; and the weight, when overwritten."""
    average = optimizer._model_variables_moving_average[i] if optimizer.use_ema else None
    if average is None:
        return []
    momentum = ops.where(t > 1, ops.cast(optimizer.ema_momentum, w.dtype), ops.cast(0.0, w.dtype))
    new = momentum * ops.convert_to_tensor(average) + (1 - momentum) * w
    if not optimizer.ema_overwrite_frequency:
        return [(average, new)]
    due = ops.equal(ops.mod(t, float(optimizer.ema_overwrite_frequency)), 0.0)
    return [(average, new), (optimizer._trainable_variables[i], ops.where(due, new, w))]
