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

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from keras_optreg import bounds, select
from keras_optreg.bounds import Interval
from keras_optreg.optimizers import checkpoint, compiled_step, options, saved_arguments, weight_plan
from keras_optreg.optimizers.gradient_transforms import GradientTransform, as_transforms
from keras_optreg.optimizers.live_arguments import LiveArguments, LiveState
from keras_optreg.optimizers.scheduled_rate import ScheduledRate
from keras_optreg.optimizers.slots import (
    GRADIENT,
    WEIGHT,
    ZEROS,
    PreciseState,
    Scalar,
    Shaped,
    Start,
    create,
    update_precision,
)
from keras_optreg.optimizers.update_order import Pairs
from keras_optreg.optimizers.weight_decay import FullyDecoupled
from keras_optreg.saving import without_tensorflow
from keras_optreg.select import Selector, path_of
from keras_optreg.typing import Penalty, Tensor, Variable

__all__ = ["GRADIENT", "WEIGHT", "ZEROS", "RuleOptimizer", "Scalar", "Shaped", "Step"]


class Step(NamedTuple):
    """What a rule returns.

    Attributes:
        delta: what to add to the weight, shaped like it.
        state: the next value of every slot.
        metric: the c >= 0, a scalar or shaped like the weight, for which a constant gradient g gives
            delta = -c·g in the long run. Proximal penalties use it as their step. None where no such c exists.
        reach: for rules that divide by the size of the gradient, how far a constant gradient of any size moves the
            weight in one step. A proximal penalty moves it by twice that at most: where gradients have been zero so
            far, c says nothing and is enormous. None for the others.
    """

    delta: Tensor
    state: dict[str, Tensor]
    metric: Tensor | None = None
    reach: Tensor | None = None


class RuleOptimizer(PreciseState, LiveState, ScheduledRate):
    """Abstract engine of all optimizers here. A subclass declares facts and gives its own arguments to `__init__`.

    One update, in this order, compiled as a whole where the backend can:
    gradients are summed over replicas, unscaled and accumulated; clipped; coupled penalties add their gradients;
    weight decay shrinks the weight; the rule gives its delta; proximal penalties act with the rule's metric; the
    constraint projects; the moving average of the weights follows.

    Class attributes:
        rule: `(g, w, state, *, lr, t, **own_arguments) -> Step`, pure. `t` counts real updates from 1.
        slots: name -> how each of its numbers starts: `ZEROS`, another number, `WEIGHT` or `GRADIENT`; or
            `Scalar(start)` for one number a weight, `Shaped(shape)` for zeros of another shape. Their order is the
            layout of checkpoints.
        bounds: legal range of each own number; own arguments without a range are flags.
        shared_slots: name -> first value of a scalar that all weights share. The rule gets them as `shared`.
        share: `(shared, sums, *, lr, t, **own_arguments) -> shared`, their next value, before the rule runs.
        measure: optional `(g, w, state, shared, *, lr, t, **own_arguments) -> {name: scalar}`, summed over all
            weights into the `sums` that `share` gets.
        has_metric: whether the rule's `Step` carries a `metric`.
        has_scalar_metric: whether that is one number for all of a weight, which some proximal maps need.
        takes_decay: the rule receives `wd` and applies the decay itself.
        owns_iterate: the rule rebuilds w from its own copy; so it takes the decay, and proximal penalties and
            constraints are refused.
        elementwise: the rule treats every scalar of a weight alone.
        constants: own numbers that cannot be scheduled, because the rule looks at them in Python, they are only where
            something starts, or its state belongs to one value of them. Counts never can.
    """

    rule: ClassVar[Callable[..., Step]]
    slots: Mapping[str, Start] = {}
    bounds: ClassVar[Mapping[str, Interval]] = {}
    shared_slots: Mapping[str, float] = {}
    share: ClassVar[Callable[..., dict[str, Tensor]] | None] = None
    measure: ClassVar[Callable[..., dict[str, Tensor]] | None] = None
    has_metric: bool = False
    has_scalar_metric: ClassVar[bool] = False
    takes_decay: ClassVar[bool] = False
    owns_iterate: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    constants: ClassVar[tuple[str, ...]] = ()

    is_loss_scaled: bool = False

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.takes_decay = cls.takes_decay or cls.owns_iterate
        cls.__signature__ = options.full_signature(cls)  # so that help() and editors show every argument

    def __init__(self, learning_rate: Any, *, own: Mapping[str, Any], **given: Any):
        owner = type(self).__name__
        given, own = options.plain(given), options.plain(own)
        options.check_names(owner, given, own)
        engine = {name: given.pop(name, None) for name in options.ENGINE_OPTIONS}
        options.check_values(owner, given, own, self.bounds)
        super().__init__(learning_rate, **given)
        self._own_names = tuple(own)
        self.live = LiveArguments(self)
        for name, value in own.items():
            setattr(self, name, value)
        if engine["weight_decay_on"] is not None:
            select.as_selector(engine["weight_decay_on"])
            if self.weight_decay is None:
                raise ValueError(
                    f"{owner} got `weight_decay_on` but no `weight_decay`, so nothing would decay. "
                    "Give weight_decay=, or leave weight_decay_on out."
                )
        self.weight_decay_on = engine["weight_decay_on"]
        self._check_decay()
        self.sparse = engine["sparse"]
        self._check_sparse()
        self._excluded = _Opaque({})
        self._multipliers = _Opaque(weight_plan.as_multipliers(engine["learning_rate_multipliers"]))
        self._penalties = _Opaque(weight_plan.as_penalties(engine["penalties"]))
        self._transforms = _Opaque(as_transforms(engine["gradient_transforms"]))
        if self.owns_iterate and any(transform.changes_update for transform in self.gradient_transforms):
            raise ValueError(
                f"{owner} cannot take a transform of the update, such as Cautious(): its rule rebuilds the weights "
                "from a copy of its own, which the transform would not reach."
            )
        refused = "its rule rebuilds the weights from a copy of its own" if self.owns_iterate else ""
        if not self.has_metric:
            refused = refused or f"the rule of {owner} gives no step size for it"
        weight_plan.check_penalties(owner, self.penalties, proximal_refused=refused, is_scalar=self.has_scalar_metric)
        self._built_with: _Opaque | None = None
        self._checked: tuple[tuple[str, Any], ...] = ()

    @property
    def learning_rate_multipliers(self) -> list[tuple[Selector, float]]:
        """The (selector, factor) pairs, which multiply the learning rate of the weights they select.

        They can be set while training, from a callback for instance, when there were some at construction.
        """
        return list(self._multipliers.value)

    @learning_rate_multipliers.setter
    def learning_rate_multipliers(self, value: Any) -> None:
        pairs = weight_plan.as_multipliers(value)
        multipliers = self.state.multipliers if self.built else None
        if self.built and multipliers is None:
            raise ValueError(
                f"{type(self).__name__} was built without learning_rate_multipliers, so its compiled steps have no "
                "place for them. Give some at construction; a factor of 1 will do."
            )
        before, self._multipliers = self._multipliers, _Opaque(pairs)
        if multipliers is not None:
            variables = self._trainable_variables
            try:
                selected = self._select(variables)
            except ValueError:
                self._multipliers = before
                raise
            factors = self._plan(selected, variables).multipliers
            self._built_with = _Opaque(weight_plan.remember(self._selectors(), selected, variables))
            multipliers.assign(ops.convert_to_tensor(factors, multipliers.dtype))

    @property
    def penalties(self) -> list[tuple[Selector, Penalty]]:
        """The (selector, penalty) pairs given at construction."""
        return list(self._penalties.value)

    @property
    def gradient_transforms(self) -> list[GradientTransform]:
        """The transforms given at construction."""
        return list(self._transforms.value)

    def _check_decay(self) -> None:
        if self.takes_decay and isinstance(self.weight_decay, FullyDecoupled):
            raise ValueError(
                f"{type(self).__name__} takes the weight decay inside its rule, so it cannot be fully decoupled. Give "
                "a number or a schedule: weight_decay=1e-4."
            )

    def _check_sparse(self) -> None:
        if self.sparse not in (None, "touched_rows"):
            raise ValueError(
                f"The `sparse` of {type(self).__name__} is None (exact) or 'touched_rows'. Received: "
                f"sparse={self.sparse!r}"
            )
        beyond_rows = not self.elementwise or self.measure is not None or GRADIENT in self.slots.values()
        if self.sparse and beyond_rows:
            raise ValueError(
                f"{type(self).__name__} cannot update the touched rows alone: its rule takes norms or sums over whole "
                "weights, or starts from the first gradient of a weight. Leave sparse out, or give the embeddings "
                "another optimizer with Partition."
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "loss_scale_factor" and hasattr(self, name):
            # `keras.optimizers.LossScaleOptimizer` clears it in the optimizer it wraps: the one sign of being wrapped.
            self.is_loss_scaled = value is None
        super().__setattr__(name, value)

    # ------------------------------------------------------------------ variables

    def build(self, variables: Sequence[Variable]) -> None:
        """Create slots and decide, weight by weight, what decays, which rate it gets and which penalties act."""
        if self.built:
            return
        variables = list(variables)
        selected = self._select(variables)
        plan = self._plan(selected, variables)
        if self.owns_iterate:
            self._refuse_constraints(variables)
        plan.warn_of_double_shrinking(variables, self.weight_decay)
        if self.use_ema:
            plan.warn_of_averaged_zeros(variables)
        super().build(variables)
        self._at_build = self._decided_at_build()
        self.state = create(self, plan, variables)
        if any(selected.values()):
            self._built_with = _Opaque(weight_plan.remember(self._selectors(), selected, variables))
        self._runner = compiled_step.Runner(self)

    def plan_for(self, variables: Sequence[Variable]) -> weight_plan.WeightPlan:
        """What each of these weights gets from the engine (the weights it was built with, once it is built)."""
        if not self.built:
            return self._plan(self._select(variables), variables)
        if self.state.multipliers is not None:
            self.state.plan.multipliers = [float(f) for f in ops.convert_to_numpy(self.state.multipliers)]
        return self.state.plan

    def _selectors(self) -> dict[str, list[Selector]]:
        return {
            "weight_decay_on": [self.weight_decay_on] if self.weight_decay_on is not None else [],
            "learning_rate_multipliers": [selector for selector, _ in self.learning_rate_multipliers],
            "penalties": [selector for selector, _ in self.penalties],
            "sparse": [select.embeddings()] if self.sparse else [],
            **self._excluded.value,
        }

    def _select(self, variables: Sequence[Variable]) -> dict[str, list[tuple[int, ...]]]:
        saved = self._built_with.value if self._built_with else None
        return weight_plan.resolve(self._selectors(), variables, saved)

    def _plan(
        self, selected: Mapping[str, list[tuple[int, ...]]], variables: Sequence[Variable]
    ) -> weight_plan.WeightPlan:
        decaying = set(range(len(variables)))
        if selected["weight_decay_on"]:
            decaying &= set(selected["weight_decay_on"][0])
        decaying -= {i for group in self._excluded.value for found in selected[group] for i in found}
        factors = [factor for _, factor in self.learning_rate_multipliers]
        penalties = [penalty for _, penalty in self.penalties]
        return weight_plan.WeightPlan(
            variables,
            decays=[i in decaying for i in range(len(variables))],
            multipliers=list(zip(selected["learning_rate_multipliers"], factors, strict=True)),
            penalties=list(zip(selected["penalties"], penalties, strict=True)),
            touched_only={i for found in selected["sparse"] for i in found},
        )

    def _refuse_constraints(self, variables: Sequence[Variable]) -> None:
        constrained = [path_of(v) for v in variables if getattr(v, "constraint", None) is not None]
        if constrained:
            raise ValueError(
                f"{type(self).__name__} cannot keep the constraints of {', '.join(constrained)}: its rule rebuilds the "
                "weights from a copy of its own, which the constraint would not reach. Remove the constraint or use "
                "another optimizer."
            )

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Keep weights from decaying; as in Keras, but `var_names` are searched in the path, and it is saved.

        Args:
            var_list: variables to exclude.
            var_names: regular expressions; a weight is excluded when one is found in its path.

        Raises:
            TypeError: when `var_names` is a string, and not a list of them.
            ValueError: after the optimizer was built.
        """
        if isinstance(var_names, str):
            raise TypeError(
                "`exclude_from_weight_decay(var_names=)` takes a list of regular expressions. "
                f"Write var_names=[{var_names!r}]."
            )
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay()` was called after the optimizer was built, when it has no effect any "
                "more. Call it before the first training step, or use weight_decay_on=~select.matching(...)."
            )
        self._excluded = _Opaque(
            {
                "excluded": [select.variables(var_list)] if var_list else [],
                "excluded_names": [select.matching("|".join(var_names))] if var_names else [],
            }
        )

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
        variables: list[Variable] = list(trainable_variables or ())
        if len(grads) != len(variables):
            raise ValueError(
                f"Expected one gradient a variable. Received {len(grads)} gradients for {len(variables)} variables."
            )
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        self._refuse_changes_since_build()
        self._check_values_set_since()
        grads, variables = _with_gradient(grads, variables)
        grads, variables = self._overwrite_variables_directly_with_gradients(grads, variables)
        done = 1
        if variables:
            done = self._runner.run(grads, tuple(self._get_variable_index(v) for v in variables))
        self._iterations.assign_add(done)

    def _decided_at_build(self) -> dict[str, Any]:
        return {
            "slots": tuple(self.slots),
            "use_ema": bool(self.use_ema),
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "weight_decay_on": self.weight_decay_on,
            "sparse": self.sparse,
        }

    def _refuse_changes_since_build(self) -> None:
        now = self._decided_at_build()
        if now == self._at_build:  # identical objects are equal without a look inside them
            return
        [name, *_] = [name for name in now if now[name] != self._at_build[name]]
        raise ValueError(
            f"The `{name}` of {type(self).__name__} changed from {self._at_build[name]} to {now[name]} after the "
            "optimizer was built, but its variables were created then. Make a new optimizer with these arguments."
        )

    def _check_values_set_since(self) -> None:
        given = tuple((name, getattr(self, name)) for name in (*options.CONSTANTS, "weight_decay"))
        if given != self._checked:
            options.check_values(type(self).__name__, dict(given), {}, {})
            self._check_decay()
            self._checked = given

    def scalars(self) -> dict[str, Tensor]:
        """The numbers of the coming update: learning rate, count from 1, weight decay. Read outside compiled code."""
        wd = self.weight_decay
        if callable(wd):
            wd = wd(self.iterations)
        precision = update_precision(keras.config.floatx())
        if "weight_decay" in self.live:
            wd = self.live.tensor("weight_decay", precision)
        return {
            "lr": ops.cast(self.learning_rate, precision),
            "t": ops.cast(self.iterations, precision) + 1.0,
            "wd": ops.cast(0.0 if wd is None else wd, precision),
        }

    def own_arguments(self) -> dict[str, Any]:
        """The optimizer's own arguments, as its rule gets them: those it has now, which may have been set since."""
        own = {name: getattr(self, name) for name in self._own_names}
        bounds.check(type(self).__name__, own, self.bounds)
        return own

    def settings(self) -> tuple[Any, ...]:
        """All numbers and flags that stand as constants in a compiled step. Another value needs another step."""
        return (
            *("live" if name in self.live else value for name, value in self.own_arguments().items()),
            "weight_decay" in self.live,
            *(penalty.settings() for _, penalty in self.penalties),
            *map(repr, self.gradient_transforms),
            self.weight_decay is None,
            isinstance(self.weight_decay, FullyDecoupled),
            *(getattr(self, name) for name in options.CONSTANTS),
        )

    def unscaled(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients in the precision of the update, loss scale removed."""
        scale = self.loss_scale_factor
        grads = [ops.cast(g, update_precision(g.dtype)) for g in grads]
        return grads if scale is None else [g / scale for g in grads]

    # For optimizers that put other values into the weights to evaluate them: `averaged.Averaged`.

    def resumed(self, w: Tensor, state: dict[str, Tensor]) -> Tensor:
        """The weight as training left it, which is where its update goes on."""
        return w

    def left_behind(self, indices: Sequence[int]) -> Pairs:
        """What else changes once the weights at `indices` have been updated."""
        return []

    def accumulators(self, indices: Sequence[int]) -> list[Variable]:
        """Accumulated gradients of these weights; empty without gradient accumulation."""
        return [self._accumulated_gradients[i] for i in indices] if self.gradient_accumulation_steps else []

    def _overwrite_model_variables_with_average_value(self, trainable_variables: Sequence[Variable]) -> None:
        if not self.built:
            return
        averages = ((v, self._model_variables_moving_average[self._get_variable_index(v)]) for v in trainable_variables)
        is_average = ops.greater(self.iterations, 0)  # there is none before the first update
        compiled_step.assign_all(
            [
                (v, ops.where(is_average, ops.convert_to_tensor(average), ops.cast(v, average.dtype)))
                for v, average in averages
                if average is not None
            ]
        )

    # ------------------------------------------------------------------ checkpoints

    def save_own_variables(self, store: Any) -> None:
        """As Keras's, with one entry more that says what each variable is."""
        with self.live.hidden():
            super().save_own_variables(store)
            checkpoint.save(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Restore the state, unless it is another optimizer's: then warn and leave everything as it is."""
        with self.live.hidden():
            checkpoint.load(self, store)

    # ------------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """All arguments, and for a built optimizer the positions its selectors found."""
        with without_tensorflow():
            config = super().get_config()
        return saved_arguments.with_arguments(self, config)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RuleOptimizer":
        """The optimizer of a config; state and weights come later, from `load_own_variables`."""
        arguments, rest = saved_arguments.restored(config, custom_objects)
        optimizer = cls(**arguments)
        if rest.learning_rate_scale is not None:
            optimizer.scale_rate(rest.learning_rate_scale)
        optimizer._excluded = _Opaque(rest.excluded)
        optimizer._built_with = _Opaque(rest.built_with) if rest.built_with else None
        return optimizer


class _Opaque:
    """Holds a container that Keras's attribute tracking must neither wrap nor search."""

    def __init__(self, value: Any):
        self.value = value


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
