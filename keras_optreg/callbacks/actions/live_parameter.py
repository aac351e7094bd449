"""A number of optimizers that can be set while `fit` runs, and acts in the next step."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from keras_optreg.callbacks.probes.probe import stand_in


class LiveParameter:
    """A number that the compiled step of a model reads from variables of its optimizers, until `stop`.

    The step is traced anew at both ends. Files are the same with and without.

    Args:
        owner: the name of the callback, for messages.
        model: a compiled model.
        name: of the number.
        optimizers: those of the model that have it, of this package.

    Raises:
        ValueError: when the model is not built, the number cannot change, or another callback of this fit sets it.
    """

    def __init__(self, owner: str, model: Any, name: str, optimizers: Sequence[Any]):
        if not model.built:
            raise ValueError(
                f"{owner}: the model {model.name!r} is not built, so its optimizer does not know the weights. Give it "
                "an Input, or call it on a batch before fit."
            )
        self.name = name
        self.optimizers = list(optimizers)
        self._model = model
        outer = model.optimizer
        if not outer.built:
            outer.build(model.trainable_variables)  # the variable must come after the optimizer's own
        for optimizer in self.optimizers:
            optimizer.live.add(name, getattr(model, "history", None))  # each fit has a history of its own
        # Loss scaling reads and writes the variables of the optimizer inside it; every other hides its own.
        methods = ("save_own_variables", "load_own_variables") if hasattr(outer, "dynamic_scale") else ()
        self._put_back = [stand_in(outer, method, self._hiding(getattr(outer, method))) for method in methods]
        model.make_train_function(force=True)

    def values(self) -> list[float]:
        """What it is now, in each optimizer."""
        return [optimizer.live.number(self.name) for optimizer in self.optimizers]

    def set(self, optimizer: Any, value: float) -> None:
        """Set it in one of them. On JAX, within `fit`, after a look at the callback's `model`.

        Raises:
            ValueError: for a value that the optimizer cannot take.
        """
        optimizer.live.check(self.name, value)
        optimizer.live.set(self.name, value)

    def stop(self) -> None:
        """What was set last stays."""
        for put_back in self._put_back:
            put_back()
        for optimizer in self.optimizers:
            optimizer.live.remove(self.name)
        self._model.make_train_function(force=True)

    def _hiding(self, method: Callable[[Any], None]) -> Callable[[Any], None]:
        def hiding(store: Any) -> None:
            with ExitStack() as stack:
                for optimizer in self.optimizers:
                    stack.enter_context(optimizer.live.hidden())
                method(store)

        return hiding
