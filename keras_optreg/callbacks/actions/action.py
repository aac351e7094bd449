"""A callback that changes the training, and whose state can be kept."""

from copy import copy
from typing import Any, ClassVar

import keras


def outcomes_of(model: Any) -> dict[str, str]:
    """What the actions of the model's last `fit` have to say at its end, by the names of their classes."""
    actions = getattr(getattr(model, "history", None), "actions", ())
    said = [(type(action).__name__, action.outcome()) for action in actions]
    found: dict[str, str] = {}
    for name, sentence in said:
        if sentence is not None:
            found[name] = f"{found[name]}\n{sentence}" if name in found else sentence
    return found


class Action(keras.callbacks.Callback):
    """A callback that changes training and can be stopped and resumed.

    A subclass names in `state` the attributes that change while training, and sets them all in `reset`, which is
    called when a training begins, unless `load_state_dict` came before it. What `fit` returns has the actions of that
    fit as `history.actions`.
    """

    state: ClassVar[tuple[str, ...]] = ()

    def __init__(self):
        super().__init__()
        self._resumed = False
        self.reset()

    def reset(self) -> None:
        """Forget the last training."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What must be kept to go on later as if never stopped."""
        return {name: copy(getattr(self, name)) for name in self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`; the next `fit` continues from it instead of starting afresh.

        Raises:
            ValueError: When the names are not those of this callback.
        """
        if set(state) != set(self.state):
            raise ValueError(
                f"This is not the state of {type(self).__name__}, which has {sorted(self.state)}. "
                f"Received: {sorted(state)}. Pass what its state_dict() returned."
            )
        for name, value in state.items():
            setattr(self, name, copy(value))
        self._resumed = True

    def outcome(self) -> str | None:
        """What came of the last training, as a sentence (which TensorBoard shows); None for nothing to say."""
        return None

    def on_train_begin(self, logs=None):
        if not self._resumed:
            self.reset()
        self._resumed = False
        # A callback does not know its siblings; the history that `fit` returns knows the actions, whatever their order.
        history = getattr(self.model, "history", None)
        if history is not None:
            known = history.__dict__.setdefault("actions", [])
            if not any(action is self for action in known):
                known.append(self)
