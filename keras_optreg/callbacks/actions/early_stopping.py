"""Stop when it is enough: by default when a number has stopped getting better."""

from copy import deepcopy
from typing import Any

from keras_optreg.bounds import NON_NEGATIVE, POSITIVE_COUNT, check
from keras_optreg.callbacks.actions.evaluation import evaluated
from keras_optreg.callbacks.actions.monitored import Monitored
from keras_optreg.callbacks.criteria.criterion import Criterion, Seen
from keras_optreg.callbacks.criteria.patience import Patience


class EarlyStopping(Monitored):
    """Stop training when a monitored number has not improved for `patience` epochs.

    When to use it: with validation data, wherever a model trained for too long overfits; set `epochs` high.

    Keras's arguments, under Keras's names, in Keras's order, and its meaning of them. The differences: NaN is never
    the best value and never an improvement (in Keras a first NaN stays the best for ever), nor is an infinite one;
    `relative` improvements; a name that is not logged is an error, not a warning; the reason is kept in `stop_reason`;
    the state can be saved.

    A value x improves on the best b when, for `mode="min"`,

        x < b − min_delta            or, with `relative`,            x < b − min_delta · |b|

    and for `"max"` accordingly. With `restore_best_weights` the best weights are put back when training ends, however
    it ends; the optimizer's state is not. (With an optimizer that has `use_ema`, they replace the averaged weights.)

    `criterion` stops by other rules, which `|` and `&` join; see `callbacks.criteria`:

        criterion=Patience(10) | Divergence() | TimeBudget(3600)

    It is copied, and asked whenever the number is there. With `every=n` and `validation_data`, the model is evaluated
    after every n batches, at the weights it trains with, and the criterion is asked then, and only then; patience
    counts these checks. The running epoch's metrics, seeds and all other state go on as if there had been none.

    Args:
        monitor: A name in the logs: `"val_loss"`, `"val_accuracy"`, `"loss"`, ...
        min_delta: What counts as an improvement, in units of the number, or as a fraction of it with `relative`.
        patience: Epochs without improvement before training stops.
        verbose: 1 prints why training stopped and which weights were restored.
        mode: `"min"`, `"max"`, or `"auto"`: losses and what Keras's metrics say about themselves.
        baseline: Epochs count as being without improvement until this value is passed.
        restore_best_weights: Put back the weights of the best epoch.
        start_from_epoch: Epochs, from 0, before which values are ignored.
        relative: Take `min_delta` as a fraction of the best value.
        criterion: When to stop. Defaults to `Patience(patience, min_delta, relative, baseline)`; with another, leave
            these four out.
        every: Batches between two checks, counted from the beginning of the first epoch; None looks at the end of each
            epoch. With `steps_per_execution=k` a check waits for the end of the k batches.
        validation_data: For `every`: what `fit` takes under this name.
        validation_batch_size: For `every`, when these data are arrays.

    Attributes:
        stop_reason: Why training was stopped, as a sentence; `None` when it was not.
        best: The best value; `None` before there is one.
        best_epoch: Its epoch, from 0.
        best_step: With `every`, the batches before it; otherwise None.
        stopped_epoch: The epoch in which training was stopped, from 0; 0 when it was not.

    Raises:
        ValueError: For an unknown mode, a number out of range, or arguments that exclude each other; at the first
            epoch's end (the first check), when `monitor` is not in the logs or its direction is unknown.
        TypeError: When `criterion` is none.

    Example:
        ```python
        stopping = EarlyStopping("val_loss", patience=5, restore_best_weights=True)
        model.fit(x, y, validation_split=0.1, epochs=100, callbacks=[stopping])
        print(stopping.stop_reason)   # val_loss has not improved on 0.2817 (epoch 12) for 5 epochs
        ```

    What `fit` returns has it in `history.actions`, and its `outcome()` is all of this in a sentence.

    Reference:
        Prechelt, "Early stopping - but when?", 1998.
    """

    state = (
        *("best", "best_epoch", "best_step", "best_weights", "stopped_epoch", "stop_reason"),
        *("criterion_state", "_step", "_seen"),
    )

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        relative: bool = False,
        criterion: Criterion | None = None,
        every: int | None = None,
        validation_data: Any = None,
        validation_batch_size: int | None = None,
    ):
        check("EarlyStopping", {"patience": patience}, {"patience": NON_NEGATIVE})
        given = {"min_delta": min_delta, "patience": patience, "baseline": baseline, "relative": relative}
        if criterion is None:
            check("EarlyStopping", {"min_delta": abs(min_delta)}, {"min_delta": NON_NEGATIVE})
            criterion = Patience(patience, abs(min_delta), relative, baseline)
        elif not isinstance(criterion, Criterion):
            raise TypeError(
                f"The `criterion` of EarlyStopping is an object such as Patience(5) | TimeBudget(3600). "
                f"Received: criterion={criterion!r}"
            )
        elif names := [name for name, value in given.items() if value or (name == "baseline" and value is not None)]:
            raise ValueError(
                f"EarlyStopping got a criterion, and {', '.join(names)}, which belong to the criterion Patience. "
                "Write criterion=Patience(...) | ... with these in it."
            )
        if every is not None:
            check("EarlyStopping", {"every": every}, {"every": POSITIVE_COUNT})
        if (every is None) != (validation_data is None):
            raise ValueError(
                "EarlyStopping takes `every` and `validation_data` together: to look within epochs it evaluates the "
                "model itself. At the end of epochs it reads the logs, and validation_data go to fit."
            )
        if hasattr(validation_data, "__next__"):
            raise TypeError(
                "EarlyStopping evaluates its `validation_data` many times, and a generator can be read once. Pass "
                f"arrays, a dataset or a PyDataset. Received: validation_data={validation_data!r}"
            )
        self.patience = patience
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.criterion = deepcopy(criterion)
        self.every = every
        self.validation_data = validation_data
        self.validation_batch_size = validation_batch_size
        if every is not None:  # on the object: with the method alone, Keras would wait for each batch to be done
            self.on_train_batch_end = self._batch_end
        super().__init__(monitor, mode, verbose, min_delta, relative, start_from_epoch)

    def reset(self) -> None:
        super().reset()
        self.criterion.reset()
        self.best: float | None = None
        self.best_epoch = 0
        self.best_step: int | None = None
        self.best_weights: list[Any] | None = None
        self.stopped_epoch = 0
        self.stop_reason: str | None = None
        self._step = 0  # batches before this epoch

    @property
    def criterion_state(self) -> dict[str, Any]:
        return self.criterion.state_dict()

    @criterion_state.setter
    def criterion_state(self, state: dict[str, Any]) -> None:
        self.criterion.load_state_dict(state)

    def outcome(self) -> str | None:
        if self.best is None:
            return self.stop_reason
        where = self._where(self.best_epoch, self.best_step)
        end = f"; stopped in epoch {self.stopped_epoch + 1}: {self.stop_reason}" if self.stop_reason else ""
        return f"best {self.monitor} {self.best:.4g} ({where}){end}"

    # -------------------------------------------------------------- when

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.stopped_epoch, self.stop_reason = 0, None  # of this training, also where it goes on from a state
        self.criterion.start()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._batches = 0  # in this epoch

    def _batch_end(self, batch: int, logs: Any = None) -> None:
        done, self._batches = self._batches, batch + 1
        every = self.every or 1
        is_due = (self._step + self._batches) // every > (self._step + done) // every
        if not is_due or self._epoch < self.start_from_epoch:
            return
        model = self.model  # on JAX this brings the state to the host
        all_logs = {**(logs or {}), **evaluated(model, self.validation_data, self.validation_batch_size)}
        value = self._value(self._epoch, all_logs)
        if value is not None:
            self._look(value, all_logs, self._epoch, self._step + self._batches)

    def on_epoch_end(self, epoch, logs=None):
        if self.every is not None:
            self._step += self._batches
            return
        value = self._value(epoch, logs or {})
        if value is not None:
            self._look(value, logs or {}, epoch, None)

    def on_train_end(self, logs=None):
        self.criterion.stop()
        if not self.restore_best_weights:
            return
        if self.best_weights is None:
            self._say(f"No weights restored: {self.monitor} never had a value that is a number.")
            return
        where = f"epoch, {self.best_epoch + 1}" if self.best_step is None else f"step, {self.best_step}"
        self._say(f"Restoring the weights of the best {where}.")
        self.model.set_weights(self.best_weights)

    # -------------------------------------------------------------- what

    def _look(self, value: float, logs: Any, epoch: int, step: int | None) -> None:
        is_first = epoch == 0 if step is None else step <= (self.every or 1)
        unit, where = "epoch" if step is None else "check", self._where(epoch, step)
        if self._improves(value, self.best):
            self.best, self.best_epoch, self.best_step = value, epoch, step
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
        reason = self.criterion.observe(Seen(value, self.monitor, self._direction(), logs, where, unit, is_first))
        if reason is not None:
            self.stopped_epoch, self.stop_reason = epoch, reason
            self.model.stop_training = True
            self._say(f"{where[0].upper()}{where[1:]}: early stopping: {reason}")

    def _where(self, epoch: int, step: int | None) -> str:
        return f"epoch {epoch + 1}" if step is None else f"step {step}"
