"""Runs a pure update rule as a Keras optimizer. Everything that optimizers share is here or called from here.

A rule reads like its paper and knows nothing of variables, backends or Keras:

```python
def lion(g, w, state, *, lr, t, beta_1, beta_2):
    u = ops.sign(beta_1 * state["m"] + (1 - beta_1) * g)
    m = beta_2 * state["m"] + (1 - beta_2) * g
    return Step(-lr * u, {"m": m})
```

The class beside it declares its slots and the legal ranges of its numbers, and is done.
"""

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from keras_optreg import bounds, select
from keras_optreg.bounds import Interval
from keras_optreg.optimizers import compiled_step, weight_plan
from keras_optreg.select import Selector, path_of
from keras_optreg.typing import Penalty, Tensor, Variable

ZEROS = 0.0
"""A slot that starts at zero. Any other number starts it there."""
WEIGHT = "weight"
"""A slot that starts as a copy of its weight."""

_OPTION_DEFAULTS: dict[str, Any] = {
    "weight_decay": None,
    "weight_decay_on": None,
    "learning_rate_multipliers": None,
    "penalties": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "name": None,
}
_OWN_OPTIONS = ("weight_decay_on", "learning_rate_multipliers", "penalties")
_Pairs = list[tuple[Variable, Tensor]]


class Step(NamedTuple):
    """What a rule returns.

    Attributes:
        delta: what to add to the weight, shaped like it.
        state: the next value of every slot.
        metric: the c >= 0, a scalar or shaped like the weight, for which a constant gradient g gives
            delta = -c·g in the long run. Proximal penalties use it as their step. None where no such c exists.
    """

    delta: Tensor
    state: dict[str, Tensor]
    metric: Tensor | None = None


class RuleOptimizer(keras.optimizers.Optimizer):
    """Abstract engine of all optimizers here. A subclass declares facts and gives its own arguments to `__init__`.

    One update, in this order, compiled as a whole where the backend can:
    gradients are summed over replicas, unscaled and accumulated; clipped; coupled penalties add their gradients;
    weight decay shrinks the weight; the rule gives its delta; proximal penalties act with the rule's metric; the
    constraint projects; the moving average of the weights follows.

    Class attributes:
        rule: `(g, w, state, *, lr, t, **own_arguments) -> Step`, pure. `t` counts real updates from 1.
        slots: name -> `ZEROS`, another number, or `WEIGHT`. Their order is the layout of checkpoints.
        bounds: legal range of each own number; own arguments without a range are flags.
        shared_slots: name -> first value of a scalar that all weights share. The rule gets them as `shared`.
        share: `(shared, sums, *, lr, t, **own_arguments) -> shared`, their next value, before the rule runs.
        measure: optional `(g, w, state, shared, *, lr, t, **own_arguments) -> {name: scalar}`, summed over all
            weights into the `sums` that `share` gets.
        has_metric: whether the rule's `Step` carries a `metric`.
        owns_iterate: the rule rebuilds w from its own copy, so it receives `wd` and applies the decay itself, and
            proximal penalties and constraints are refused.
        elementwise: the rule treats every scalar of a weight alone.
    """

    rule: ClassVar[Callable[..., Step]]
    slots: Mapping[str, float | str] = {}
    bounds: ClassVar[Mapping[str, Interval]] = {}
    shared_slots: ClassVar[Mapping[str, float]] = {}
    share: ClassVar[Callable[..., dict[str, Tensor]] | None] = None
    measure: ClassVar[Callable[..., dict[str, Tensor]] | None] = None
    has_metric: bool = False
    owns_iterate: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.__signature__ = _full_signature(cls)  # so that help() and editors show every argument

    def __init__(self, learning_rate: Any, *, own: Mapping[str, Any], **options: Any):
        owner = type(self).__name__
        _check_names(owner, options, own)
        engine = {name: options.pop(name, None) for name in _OWN_OPTIONS}
        _check_options(owner, options)
        super().__init__(learning_rate=_as_rate(owner, learning_rate), **options)
        if not isinstance(self._learning_rate, keras.Variable):
            self._learning_rate_scale = self.add_variable(
                (), "ones", name="learning_rate_scale", aggregation="only_first_replica"
            )
        self._own_names = tuple(own)
        for name, value in own.items():
            setattr(self, name, value)
        bounds.check(owner, own, self.bounds)
        for name in set(own) - set(self.bounds):
            if not isinstance(own[name], bool):
                raise ValueError(f"The `{name}` of {owner} must be True or False. Received: {name}={own[name]!r}")

        if engine["weight_decay_on"] is not None:
            select.as_selector(engine["weight_decay_on"])
            if self.weight_decay is None:
                raise ValueError(
                    f"{owner} got `weight_decay_on` but no `weight_decay`, so nothing would decay. "
                    "Give weight_decay=, or leave weight_decay_on out."
                )
        self.weight_decay_on = engine["weight_decay_on"]
        self._not_decayed: Selector | None = None
        self._multipliers = _Opaque(weight_plan.as_multipliers(engine["learning_rate_multipliers"]))
        self._penalties = _Opaque(weight_plan.as_penalties(engine["penalties"]))
        refused = "its rule rebuilds the weights from a copy of its own" if self.owns_iterate else ""
        if not self.has_metric:
            refused = refused or f"the rule of {owner} gives no step size for it"
        weight_plan.check_penalties(owner, self.penalties, proximal_refused=refused)
        self._built_with: _Opaque | None = None

    @property
    def learning_rate_multipliers(self) -> list[tuple[Selector, float]]:
        """The (selector, factor) pairs given at construction."""
        return list(self._multipliers.value)

    @property
    def penalties(self) -> list[tuple[Selector, Penalty]]:
        """The (selector, penalty) pairs given at construction."""
        return list(self._penalties.value)

    # ------------------------------------------------------------------ learning rate

    @property
    def learning_rate(self) -> Tensor:
        """The current learning rate. Setting a number while a schedule drives it scales the schedule from here on."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        value = _as_rate(type(self).__name__, value)
        if not isinstance(value, float):
            if isinstance(self._learning_rate, keras.Variable):  # keep the variable: its place in checkpoints is fixed
                self._learning_rate_scale = self._learning_rate
            self._learning_rate_scale.assign(1.0)
            self._learning_rate = value
        elif isinstance(self._learning_rate, keras.Variable):
            self._learning_rate.assign(value)
        else:
            scheduled = float(ops.convert_to_numpy(self._scheduled_rate()))
            if scheduled == 0.0 and value != 0.0:
                raise ValueError(
                    f"The schedule's learning rate is 0 at this step, so no scaling of it gives {value}. "
                    "Set the rate at another step, or give the optimizer a number instead of a schedule."
                )
            self._learning_rate_scale.assign(value / scheduled if scheduled else 1.0)

    def _scheduled_rate(self) -> Tensor:
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self.iterations)  # real updates, not micro-batches
        return rate()

    def _get_current_learning_rate(self) -> Tensor:
        if isinstance(self._learning_rate, keras.Variable):
            return self._learning_rate
        return ops.multiply(self._scheduled_rate(), self._learning_rate_scale)

    # ------------------------------------------------------------------ variables

    def add_variable(self, shape: Any, initializer: Any = "zeros", dtype: Any = None, **kwargs: Any) -> Any:
        """As Keras's, but never less precise than float32: a 16-bit average with a momentum of 0.999 does not move."""
        dtype = _at_least_float32(dtype or keras.config.floatx())
        return super().add_variable(shape, initializer=initializer, dtype=dtype, **kwargs)

    def build(self, variables: Sequence[Variable]) -> None:
        """Create slots and decide, weight by weight, what decays, which rate it gets and which penalties act."""
        if self.built:
            return
        variables = list(variables)
        plan, selected = self._plan_for(variables)
        super().build(variables)
        names = list(self.slots)
        starts = [keras.initializers.Constant(0.0 if s == WEIGHT else s) for s in self.slots.values()]
        lists = self.add_optimizer_variables(variables, names, starts) if names else ()
        self._slots = _Opaque(dict(zip(names, lists, strict=True)))
        self._shared = _Opaque({
            name: self.add_variable((), keras.initializers.Constant(first), dtype="float32", name=name,
                                    aggregation="only_first_replica")
            for name, first in self.shared_slots.items()
        })  # fmt: skip
        self._started = None
        if WEIGHT in self.slots.values():  # filled inside the step: an assign here is lost inside `fit` on TensorFlow
            self._started = self.add_variable((len(variables),), dtype="float32", name="started",
                                              aggregation="only_first_replica")  # fmt: skip
        self._plan = plan
        self._built_with = _Opaque(weight_plan.remember(selected, variables)) if any(selected.values()) else None
        self._runner = compiled_step.Runner(self)

    def _plan_for(self, variables: list[Variable]) -> tuple[weight_plan.WeightPlan, dict[str, Any]]:
        multipliers, penalties = self.learning_rate_multipliers, self.penalties
        groups = {
            "weight_decay_on": [self.weight_decay_on] if self.weight_decay_on is not None else [],
            "learning_rate_multipliers": [selector for selector, _ in multipliers],
            "penalties": [selector for selector, _ in penalties],
        }
        saved = self._built_with.value if self._built_with else None
        if saved and len(saved["selected"].get("not_decayed", [])):
            groups["not_decayed"] = [self._not_decayed]
        selected = weight_plan.resolve(groups, variables, saved)
        if self._not_decayed is not None and "not_decayed" not in selected:  # excluding nothing is legal, as in Keras
            excluded = tuple(i for i, v in enumerate(variables) if self._not_decayed.selects(v))
            selected["not_decayed"] = [excluded]
        decaying = set(range(len(variables))) if self.weight_decay is not None else set()
        if selected["weight_decay_on"]:
            decaying &= set(selected["weight_decay_on"][0])
        for found in selected.get("not_decayed", []):
            decaying -= set(found)
        plan = weight_plan.WeightPlan(
            variables,
            decays=[i in decaying for i in range(len(variables))],
            multipliers=[(f, m) for f, (_, m) in zip(selected["learning_rate_multipliers"], multipliers, strict=True)],
            penalties=[(f, p) for f, (_, p) in zip(selected["penalties"], penalties, strict=True)],
        )
        constrained = [path_of(v) for v in variables if getattr(v, "constraint", None) is not None]
        if self.owns_iterate and constrained:
            raise ValueError(
                f"{type(self).__name__} cannot keep the constraints of {', '.join(constrained)}: its rule rebuilds the "
                "weights from a copy of its own, which the constraint would not reach. Remove the constraint or use "
                "another optimizer."
            )
        return plan, selected

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Keep weights from decaying; as in Keras, but `var_names` are searched in the path, and it is saved.

        Args:
            var_list: variables to exclude.
            var_names: regular expressions; a weight is excluded when one is found in its path.

        Raises:
            ValueError: after the optimizer was built.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay()` was called after the optimizer was built, when it has no effect any "
                "more. Call it before the first training step, or use weight_decay_on=~select.matching(...)."
            )
        parts = [select.variables(var_list)] if var_list else []
        parts += [select.matching("|".join(var_names))] if var_names else []
        self._not_decayed = parts[0] | parts[1] if len(parts) == 2 else (parts[0] if parts else None)

    # ------------------------------------------------------------------ one update

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[Variable] | None = None) -> None:
        """Update the weights. `grads` match `trainable_variables`, or the variables the optimizer was built with."""
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            if not self.built:
                raise ValueError(
                    f"{type(self).__name__}.apply(grads) was called before the optimizer was built. Call "
                    "`optimizer.build(variables)` first, or pass the variables as the second argument."
                )
            trainable_variables = self._trainable_variables
        variables = list(trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(f"Expected one gradient a variable. Received {len(grads)} gradients for {len(variables)} variables.")
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        grads, variables = _with_gradient(grads, variables)
        grads, variables = self._overwrite_variables_directly_with_gradients(grads, variables)
        if variables:
            self._runner.run(grads, tuple(self._get_variable_index(v) for v in variables))
        self._iterations.assign_add(1)

    def scalars(self) -> dict[str, Tensor]:
        """The numbers of the coming update: learning rate, its count from 1, weight decay. Read outside compiled code."""
        wd = self.weight_decay
        if callable(wd):
            wd = wd(self.iterations)
        return {
            "lr": ops.cast(self.learning_rate, "float32"),
            "t": ops.cast(self.iterations, "float32") + 1.0,
            "wd": ops.cast(0.0 if wd is None else wd, "float32"),
        }

    def unscaled(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients in the precision of the update, loss scale removed."""
        scale = self.loss_scale_factor
        grads = [ops.cast(g, _at_least_float32(g.dtype)) for g in grads]
        return grads if scale is None else [g / scale for g in grads]

    def accumulators(self, indices: Sequence[int]) -> list[Variable]:
        """Accumulated gradients of these weights; empty without gradient accumulation."""
        return [self._accumulated_gradients[i] for i in indices] if self.gradient_accumulation_steps else []

    def updates(self, grads: Sequence[Tensor], indices: Sequence[int], lr: Tensor, t: Tensor, wd: Tensor) -> Iterator[_Pairs]:
        """The update as (variable, next value) pairs, a list for each weight. Reads variables, assigns none.

        Every list may be assigned before the next is asked for: no weight reads what belongs to another.
        """
        grads = self._clip_gradients(grads)
        own = {name: getattr(self, name) for name in self._own_names}
        started = None if self._started is None else ops.convert_to_tensor(self._started)
        seen = [self._seen_by_rule(g, i, lr, wd, started) for g, i in zip(grads, indices, strict=True)]
        extra: dict[str, Any] = {}
        if self.shared_slots:
            shared, pairs = self._next_shared(seen, lr, t, own)
            yield pairs
            extra["shared"] = shared
        for (g, w, state, rate), i in zip(seen, indices, strict=True):
            if self.owns_iterate:
                extra["wd"] = ops.cast(wd, w.dtype) if self._plan.decays[i] else 0.0
            step = type(self).rule(g, w, state, lr=rate, t=ops.cast(t, w.dtype), **extra, **own)
            yield self._finished(i, w + step.delta, step, t)
        rest = [i for i in range(len(self._trainable_variables)) if i not in indices] if self.use_ema else []
        yield [pair for i in rest for pair in self._averaged(i, _read(self._trainable_variables[i]), t)]
        if started is not None:
            now = [float(i in indices) for i in range(len(self._trainable_variables))]
            yield [(self._started, ops.maximum(started, ops.convert_to_tensor(now, "float32")))]

    def _seen_by_rule(self, g: Tensor, i: int, lr: Tensor, wd: Tensor, started: Tensor | None) -> tuple[Any, ...]:
        w = _read(self._trainable_variables[i])
        g = ops.cast(g, w.dtype)
        state = {name: ops.convert_to_tensor(slot[i]) for name, slot in self._slots.value.items()}
        if started is not None:
            for name in (n for n, start in self.slots.items() if start == WEIGHT):
                state[name] = ops.where(started[i] > 0, state[name], w)
        rate = ops.cast(lr, w.dtype)
        if self._plan.multipliers[i] != 1.0:
            rate = rate * self._plan.multipliers[i]
        for penalty in self._plan.coupled[i]:
            g = g + ops.cast(penalty.gradient(w), w.dtype)
        if self._plan.decays[i] and not self.owns_iterate:
            w = w - w * ops.cast(wd, w.dtype) * rate
        return g, w, state, rate

    def _next_shared(self, seen: Sequence[tuple[Any, ...]], lr: Tensor, t: Tensor, own: dict[str, Any]) -> tuple[dict[str, Tensor], _Pairs]:
        old = {name: ops.convert_to_tensor(variable) for name, variable in self._shared.value.items()}
        sums: dict[str, Tensor] = {}
        if type(self).measure is not None:
            for g, w, state, rate in seen:
                for name, value in type(self).measure(g, w, state, old, lr=rate, t=t, **own).items():
                    sums[name] = sums.get(name, 0.0) + ops.cast(value, "float32")
        new = type(self).share(old, sums, lr=lr, t=t, **own)
        return new, [(self._shared.value[name], new[name]) for name in self.shared_slots]

    def _finished(self, i: int, w: Tensor, step: Step, t: Tensor) -> _Pairs:
        variable = self._trainable_variables[i]
        if self._plan.proximal[i] is not None:
            w = self._plan.proximal[i].proximal(w, step.metric)
        if getattr(variable, "constraint", None) is not None:
            w = variable.constraint(w)
        pairs = [(slot[i], step.state[name]) for name, slot in self._slots.value.items()]
        averaged = self._averaged(i, w, t)
        if not any(target is variable for target, _ in averaged):
            averaged.append((variable, w))
        return pairs + averaged

    def _averaged(self, i: int, w: Tensor, t: Tensor) -> _Pairs:
        if not self.use_ema or self._model_variables_moving_average[i] is None:
            return []
        average = self._model_variables_moving_average[i]
        momentum = ops.where(t > 1, ops.cast(self.ema_momentum, w.dtype), ops.cast(0.0, w.dtype))
        new = momentum * ops.convert_to_tensor(average) + (1 - momentum) * w
        if not self.ema_overwrite_frequency:
            return [(average, new)]
        due = ops.equal(ops.mod(t, float(self.ema_overwrite_frequency)), 0.0)
        return [(average, new), (self._trainable_variables[i], ops.where(due, new, w))]

    def _overwrite_model_variables_with_average_value(self, trainable_variables: Sequence[Variable]) -> None:
        compiled_step.assign_all([
            (v, average)
            for v, average in zip(trainable_variables, self._model_variables_moving_average, strict=True)
            if average is not None
        ])  # fmt: skip

    # ------------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """All arguments, and for a built optimizer the positions its selectors found."""
        config = super().get_config()
        config |= {name: getattr(self, name) for name in self._own_names}
        serialize = keras.saving.serialize_keras_object
        if callable(self.weight_decay):
            config["weight_decay"] = serialize(self.weight_decay)
        if self.weight_decay_on is not None:
            config["weight_decay_on"] = serialize(self.weight_decay_on)
        if self.learning_rate_multipliers:
            config["learning_rate_multipliers"] = [[serialize(s), m] for s, m in self.learning_rate_multipliers]
        if self.penalties:
            config["penalties"] = [[serialize(s), serialize(p)] for s, p in self.penalties]
        if self._not_decayed is not None:
            config["not_decayed"] = serialize(self._not_decayed)
        if self._built_with is not None:
            config["built_with"] = self._built_with.value
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RuleOptimizer":
        """The optimizer of a config; state and weights come later, from `load_own_variables`."""

        def restored(value: Any) -> Any:
            if isinstance(value, dict) and "class_name" in value:
                return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            return value

        config = dict(config)
        built_with, not_decayed = config.pop("built_with", None), config.pop("not_decayed", None)
        for name in ("learning_rate", "weight_decay", "weight_decay_on"):
            if name in config:
                config[name] = restored(config[name])
        for name in ("learning_rate_multipliers", "penalties"):
            if config.get(name):
                config[name] = [(restored(selector), restored(thing)) for selector, thing in config[name]]
        optimizer = cls(**config)
        optimizer._not_decayed = restored(not_decayed)
        optimizer._built_with = _Opaque(built_with) if built_with else None
        return optimizer


class _Opaque:
    """Holds a container that Keras's attribute tracking must neither wrap nor search."""

    def __init__(self, value: Any):
        self.value = value


def _read(variable: Variable) -> Tensor:
    """The value of a weight, in the precision of the update."""
    value = ops.convert_to_tensor(variable)
    return ops.cast(value, _at_least_float32(value.dtype))


def _at_least_float32(dtype: Any) -> str:
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if name in ("float16", "bfloat16") or name.startswith("float8") else name


def _with_gradient(grads: Sequence[Tensor], variables: Sequence[Variable]) -> tuple[list[Tensor], list[Variable]]:
    missing = [path_of(v) for g, v in zip(grads, variables, strict=True) if g is None]
    if len(missing) == len(variables):
        raise ValueError(f"No gradients provided for any variable: {missing}. Does the loss depend on the weights?")
    if missing:
        warnings.warn(
            f"Gradients do not exist for variables {missing} when minimizing the loss. If you're using "
            "`model.compile()`, did you forget to provide a `loss` argument?",
            stacklevel=3,
        )
    kept = [(g, v) for g, v in zip(grads, variables, strict=True) if g is not None]
    return [g for g, _ in kept], [v for _, v in kept]


def _as_rate(owner: str, rate: Any) -> Any:
    """A legal learning rate: a number >= 0 as a float, a schedule or another callable as it is."""
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) or callable(rate):
        return rate
    if not isinstance(rate, str) and getattr(rate, "shape", None) == ():
        rate = float(ops.convert_to_numpy(rate))
    if not bounds.is_number(rate):
        raise ValueError(
            f"The `learning_rate` of {owner} should be a number, a schedule or a callable. Received: {rate!r}"
        )
    bounds.check(owner, {"learning_rate": float(rate)}, {"learning_rate": bounds.NON_NEGATIVE})
    return float(rate)


def _check_names(owner: str, options: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    known = [*_OPTION_DEFAULTS, *own, "learning_rate"]
    for name in set(options) - set(known) - {"decay"}:  # Keras answers `decay` itself, with a warning
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"It takes {', '.join(known)}."
        if name.endswith("_regularizer"):
            hint = "A regularizer belongs to a layer (keras_optreg.attach(model, penalty)) or in `penalties=`."
        raise ValueError(f"Argument(s) not recognized: {owner} has no argument `{name}`. {hint}")


def _check_options(owner: str, options: Mapping[str, Any]) -> None:
    ranges = {"clipnorm": bounds.POSITIVE, "clipvalue": bounds.POSITIVE, "global_clipnorm": bounds.POSITIVE,
              "loss_scale_factor": bounds.POSITIVE, "weight_decay": bounds.NON_NEGATIVE}  # fmt: skip
    given = {name: value for name, value in options.items() if name in ranges and value is not None}
    if callable(given.get("weight_decay")):
        given.pop("weight_decay")
    bounds.check(owner, given, {name: ranges[name] for name in given})


def _full_signature(cls: type) -> inspect.Signature:
    own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.name != "self"]
    named = [p for p in own if p.kind is not p.VAR_KEYWORD]
    if len(named) == len(own):
        return inspect.Signature(named)
    taken = {p.name for p in named}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in _OPTION_DEFAULTS.items()
        if name not in taken
    ]
    return inspect.Signature([*named, *options])
