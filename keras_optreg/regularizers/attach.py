"""Give penalties to the weights of a model that exists, take them away, carry them to another model."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras

from keras_optreg.introspection import inner_optimizer, is_quadratic, shown
from keras_optreg.regularizers.owners import Owner, SavedConfig, forget, owners_of, track
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.saved_form import is_serializable, needs_package, same_penalty
from keras_optreg.regularizers.sum import Sum
from keras_optreg.select import Selector, as_selector, everything, kernels, path_of
from keras_optreg.table import Table

# What stood before the first attach: on a variable (which cannot be a key of a dictionary, its `==` being elementwise)
# and by layer. Neither is ever saved.
_VARIABLE_BEFORE = "_penalty_before_attach"
_LAYER_BEFORE: WeakKeyDictionary[keras.Layer, dict[str, Any]] = WeakKeyDictionary()
_COLUMNS = ("path", "layer", "penalty", "status", "survives", "note")


def attach(model: Any, penalty: Any, on: Selector | None = None, existing: str | None = None) -> Table:
    r"""Adds a penalty to the loss of a model that is already built: new, nested, pretrained or loaded.

    The recommended way to regularize. Keras reads `kernel_regularizer` only while a layer is built; later it acts only
    through the variable, and is saved only from the layer. This sets both, so the penalty counts now and is still there
    after `model.save`, `load_model`, `clone_model` and `from_config`, and it rebuilds train and test functions which
    this model has already traced, so that it acts in the next `fit` without a new `compile`. It warns where the weight
    decay of a built optimizer of this package shrinks the same weight already; one that is not built warns when it is.

        loss = data loss + Σ_w Ω(w)        over the selected weights, a shared one counted once

    Args:
        model: a built Keras model (or layer). A function traced by another model around it is not rebuilt: attach to
            the model you train.
        penalty: a penalty object such as `L2(1e-4)`; Keras's own objects are taken too. It is kept, not copied.
        on: a selector of weights. Defaults to `select.kernels()`.
        existing: what to do where another penalty stands: `"add"` both (a `Sum`), or `"replace"` the old one.
            By default it is an error. The same penalty, or a sum that holds it, is left as it is.

    Returns:
        A table with one row a selected weight: `path`, `layer`, `penalty`, `status` ("attached", "already attached" or
        "frozen, skipped": Keras counts no penalty on frozen weights), `survives` (whether saving and cloning keep it)
        and a `note` that says why not. Where it does not survive, attach again or `transfer` after loading.

    Raises:
        TypeError: when the penalty is a string, a number or a class, or `on` is no selector.
        ValueError: when the model is not built, the selector matches nothing or only frozen weights, or another penalty
            stands on a weight. The model is then unchanged.

    Example:
        >>> from keras_optreg.regularizers import L2
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
        >>> row = attach(model, L2(0.5))[0]
        >>> row.status, row.survives, float(model.losses[0])
        ('attached', True, 3.0)
    """
    _check_penalty(penalty)
    chosen = _select(model, kernels() if on is None else on, "attach")
    if not any(owner.is_trainable for owner in chosen):
        thaw = "Set `trainable = True` on their layers first, or select"
        first = thaw if any(owner.is_parameter for owner in chosen) else "Select"
        raise ValueError(
            f"attach: all {len(chosen)} weights that match are frozen, and Keras counts no penalty on frozen weights: "
            f"{_paths(chosen, _why_frozen)}. {first} other weights with `on=`."
        )
    return _give(model, [(owner, penalty) for owner in chosen], existing, "attach")


def transfer(from_model: Any, to_model: Any, existing: str | None = None) -> Table:
    """Gives the weights of one model the penalties which stand on the same weights of another, e.g. after loading.

    For weights whose layer has nowhere to keep a penalty (`survives` is False in the table of `attach`).
    Weights correspond by their position in `model.weights`; numbers and shapes must agree.

    Args:
        from_model: the model that has the penalties.
        to_model: a built model with the same weights: loaded, cloned or made again.
        existing: as in `attach`.

    Returns:
        The table of `attach`, for the weights that have a penalty in `from_model`.

    Raises:
        ValueError: when the weights differ in number or shape, or `from_model` has no penalty, or as in `attach`.

    Example:
        >>> from keras_optreg.regularizers import L2
        >>> layers = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> model, other = layers(), layers()
        >>> table = attach(model, L2(0.5))
        >>> transfer(model, other)[0].status
        'attached'
    """
    source, target = owners_of(from_model, "transfer"), owners_of(to_model, "transfer")
    if len(source) != len(target):
        raise ValueError(
            f"transfer: the models must have the same weights, but {from_model.name!r} has {len(source)} "
            f"and {to_model.name!r} has {len(target)}. Make `to_model` as `from_model` was made."
        )
    pairs = []
    for a, b in zip(source, target, strict=True):
        shapes = tuple(a.variable.shape), tuple(b.variable.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"transfer: weights correspond by position, but {path_of(a.variable)} has shape {shapes[0]} "
                f"and {path_of(b.variable)} has {shapes[1]}. Make `to_model` as `from_model` was made."
            )
        if a.variable.regularizer is not None:
            pairs.append((b, a.variable.regularizer))
    if not pairs:
        raise ValueError(f"transfer: no weight of {from_model.name!r} has a penalty; attach(model, penalty) gives one.")
    return _give(to_model, pairs, existing, "transfer")


def detach(model: Any, on: Selector | None = None, *, remove_all: bool = False) -> Table:
    """Takes attached penalties away: each weight and its layer get back what stood there before the first `attach`.

    A model saved afterwards names nothing of this package, unless a layer's constructor or the optimizer does.

    Args:
        model: a built Keras model.
        on: a selector of weights. Defaults to all.
        remove_all: also remove penalties that were not attached in this process, but came with a layer's constructor or
            a loaded file. Nothing is known to have stood before them, so these weights end without a penalty.

    Returns:
        A table with the columns of `attach`, one row a weight whose penalty changed; `penalty` is what stands there
        now. The footer tells when the optimizer, which is saved with the model, needs this package.

    Raises:
        ValueError: when the selector matches nothing, or nothing that it matches was attached.

    Example:
        >>> from keras_optreg.regularizers import L2
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> table = attach(model, L2(0.5))
        >>> detach(model)[0].status, model.losses
        ('detached', [])
    """
    _find_younger(owners_of(model, "detach"))
    chosen = _select(model, everything() if on is None else on, "detach")
    attached = [o for o in chosen if hasattr(o.variable, _VARIABLE_BEFORE) or (remove_all and _standing(o) is not None)]
    if not attached:
        raise ValueError(
            f"detach: none of the {len(chosen)} selected weights was given a penalty by attach in this process. "
            f"A penalty from a layer's constructor or a loaded file is removed with detach(model, remove_all=True)."
        )
    removed: list[Any] = []
    for owner in attached:
        removed.append(owner.variable.regularizer)
        owner.variable.regularizer = None if remove_all else getattr(owner.variable, _VARIABLE_BEFORE)
        owner.variable.__dict__.pop(_VARIABLE_BEFORE, None)
    for holder in {id(o.holder): o.holder for o in attached if o.holder is not None}.values():
        # A holder of several weights keeps nothing once one of them is detached: it would come back to that one.
        before = _LAYER_BEFORE.get(holder.target, {})
        holder.penalty = None if remove_all else before.get(holder.attribute)
        if not any(hasattr(v, _VARIABLE_BEFORE) for v in holder.variables):
            before.pop(holder.attribute, None)
    forget(model, removed)
    retrace(model)
    return _table(model, [(owner, "detached") for owner in attached], needs_package(model))


def _select(model: Any, on: Selector, purpose: str) -> list[Owner]:
    owners = owners_of(model, purpose)
    return [owners[i] for i in as_selector(on).resolve([owner.variable for owner in owners], purpose)]


def _give(model: Any, pairs: Sequence[tuple[Owner, Any]], existing: str | None, purpose: str) -> Table:
    """Decides for all weights first, so that an error leaves the model as it was; then changes them."""
    if existing not in (None, "add", "replace"):
        raise ValueError(f"The `existing` of {purpose} must be 'add', 'replace' or None. Received: {existing=!r}")
    statuses: list[tuple[Owner, str]] = []
    plan: list[tuple[Owner, Any]] = []
    conflicts: list[Owner] = []
    for owner, given in pairs:
        standing, penalty = _standing(owner), given
        if isinstance(given, PenaltyRegularizer) and owner.is_trainable:
            penalty = given.for_variable(owner.variable)
        if not owner.is_trainable:
            statuses.append((owner, "frozen, skipped"))
        elif owner.variable.regularizer is not None and _holds(standing, given, existing):
            statuses.append((owner, "already attached"))
            plan.append((owner, standing))
        elif standing is None or same_penalty(standing, penalty) or existing == "replace":
            statuses.append((owner, "attached"))
            plan.append((owner, penalty))
        elif existing == "add" and isinstance(standing, keras.regularizers.Regularizer):
            statuses.append((owner, "attached"))
            parts = penalty.penalties if isinstance(penalty, Sum) else (penalty,)
            plan.append((owner, Sum(standing, *(part for part in parts if not _holds(standing, part, existing)))))
        else:
            conflicts.append(owner)
    if conflicts:
        found = _paths(conflicts, lambda owner: shown(_standing(owner)))
        raise ValueError(
            f"{purpose}: another penalty stands on {found}. Pass existing='add' to add to it or existing='replace' to "
            "replace it, or select other weights. Nothing was changed."
        )
    removed: list[Any] = []
    for owner, penalty in plan:
        is_new_to_layer = owner.holder is not None and not same_penalty(owner.holder.penalty, penalty)
        if owner.variable.regularizer is not penalty or is_new_to_layer:
            owner.variable.__dict__.setdefault(_VARIABLE_BEFORE, owner.variable.regularizer)
            removed.append(owner.variable.regularizer)
            owner.variable.regularizer = penalty
            track(owner.layer, penalty)  # also where it has no attribute for it
    _tell_layers([owner for owner, _ in plan])
    forget(model, removed)
    retrace(model)
    if any(status == "attached" and is_quadratic(owner.variable.regularizer) for owner, status in statuses):
        _warn_of_double_shrinking(model)
    return _table(model, statuses)


def _tell_layers(owners: Sequence[Owner]) -> None:
    """Sets the layers' attributes where all trainable weights that share one have the same penalty."""
    for holder in {id(o.holder): o.holder for o in owners if o.holder is not None}.values():
        trainable = [v.regularizer for v in holder.variables if v.trainable]
        before = _LAYER_BEFORE.setdefault(holder.target, {})
        before.setdefault(holder.attribute, holder.penalty)
        agree = all(same_penalty(trainable[0], other) for other in trainable) and is_serializable(trainable[0])
        holder.penalty = trainable[0] if agree else before[holder.attribute]


def _find_younger(owners: Sequence[Owner]) -> None:
    """Counts as attached what Keras made later from the penalty of a layer: factors of LoRA, quantized kernels."""
    for owner in owners:
        holder = owner.holder
        before = _LAYER_BEFORE.get(holder.target, {}) if holder is not None else {}
        if holder is None or holder.attribute not in before or holder.penalty is before[holder.attribute]:
            continue
        if owner.variable.regularizer is holder.penalty or not owner.is_parameter:
            owner.variable.__dict__.setdefault(_VARIABLE_BEFORE, before[holder.attribute])


def _standing(owner: Owner) -> Any:
    """The penalty that acts on a weight, or else the one its layer would bring to life at the next reload."""
    if owner.variable.regularizer is not None or owner.holder is None or len(owner.holder.variables) > 1:
        return owner.variable.regularizer
    return owner.holder.penalty


def _holds(standing: Any, penalty: Any, existing: str | None) -> bool:
    if existing == "replace" and hasattr(standing, "origin"):  # it starts anew from the weights as they are
        return standing is penalty
    parts = standing.penalties if isinstance(standing, Sum) and existing != "replace" else ()
    return same_penalty(standing, penalty) or any(same_penalty(part, penalty) for part in parts)


def _table(model: Any, statuses: Sequence[tuple[Owner, str]], footer: str = "") -> Table:
    config = SavedConfig(model)
    rows = []
    for owner, status in statuses:
        penalty = owner.variable.regularizer
        if status == "frozen, skipped":
            survives, note = None, _why_frozen(owner)
        elif penalty is None:
            survives, note = None, ""
        else:
            note = config.why_lost(owner, penalty)
            survives = not note
        rows.append((path_of(owner.variable), type(owner.layer).__name__, penalty, status, survives, note))
    lost = sum(row[4] is False for row in rows)
    footer = f"{lost} of {len(rows)} would be lost by saving and loading; see note." if lost else footer
    return Table(_COLUMNS, rows, footer)


def retrace(model: Any) -> None:
    """Train and test functions that are already traced keep the old loss on TensorFlow and JAX: makes them again."""
    for kind in ("train", "test"):
        if getattr(model, f"{kind}_function", None) is not None:
            getattr(model, f"make_{kind}_function")(force=True)


def _warn_of_double_shrinking(model: Any) -> None:
    optimizer = inner_optimizer(model)
    if hasattr(optimizer, "plan_for") and optimizer.built:
        variables = optimizer._trainable_variables
        optimizer.plan_for(variables).warn_of_double_shrinking(variables, optimizer.weight_decay)


def _check_penalty(penalty: Any) -> None:
    if isinstance(penalty, keras.regularizers.Regularizer):
        return
    hint = "Write attach(model, regularizers.L2(1e-4))."
    if isinstance(penalty, type):
        hint = f"That is a class; make an object of it: {penalty.__name__}(1e-4)."
    elif isinstance(penalty, int | float):
        hint = f"For a sum of squares with this strength write regularizers.L2({penalty!r})."
    elif isinstance(penalty, str):
        hint = "A name hides its strength; write for example regularizers.L2(0.01)."
    raise TypeError(f"attach takes a penalty object. {hint} Received: penalty={penalty!r}")


def _why_frozen(owner: Owner) -> str:
    if owner.is_parameter:
        return "frozen: attach again after making it trainable"
    return f"{'quantized' if owner.holder is not None else 'state of the layer'}: it is never trained"


def _paths(owners: Sequence[Owner], detail: Callable[[Owner], str] | None = None) -> str:
    shown = [path_of(o.variable) + (f" ({detail(o)})" if detail else "") for o in owners[:6]]
    return ", ".join(shown) + (f", … ({len(owners)} in all)" if len(owners) > 6 else "")
