"""The criteria of EarlyStopping against Prechelt's formulas, other libraries' stories, and their own states."""

import json
from datetime import timedelta
from math import inf, nan

import keras
import numpy as np
import pytest
from keras import ops

from keras_optreg import optimizers
from keras_optreg.callbacks import EarlyStopping, EvaluateAtAverage
from keras_optreg.callbacks.actions.action import outcomes_of
from keras_optreg.callbacks.criteria import (
    Criterion,
    Divergence,
    GeneralizationLoss,
    Patience,
    ProgressQuotient,
    Seen,
    Threshold,
    TimeBudget,
    UpStrips,
    time_budget,
)


class Weights:
    """What EarlyStopping asks of a model; its weights are the number of the epoch."""

    stop_training, weights = False, -1

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights


def trained(stopping, values, first=0, name="val_loss", losses=None):
    """The last epoch, and the model."""
    model = Weights()
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch in range(first, len(values)):
        model.weights = epoch
        stopping.on_epoch_begin(epoch)
        stopping.on_epoch_end(epoch, {name: values[epoch], "loss": 1.0 if losses is None else losses[epoch]})
        if model.stop_training:
            break
    stopping.on_train_end()
    return epoch, model


def stops(criterion, values, mode="min", losses=None):
    """The position of the first value at which a criterion stops; None where it goes on."""
    for i, value in enumerate(values):
        logs = {"loss": 1.0 if losses is None else losses[i]}
        if criterion.observe(Seen(value, "val_loss", mode, logs, f"epoch {i + 1}", is_first=i == 0)):
            return i
    return None


# Prechelt's formulas, written for whole lists.


def first(condition, n):
    return next((t for t in range(n) if condition(t)), None)


def gl(va, t):
    return 100 * (va[t] / min(va[: t + 1]) - 1)


def pq(va, tr, t, k):
    strip = tr[t - k + 1 : t + 1]
    return gl(va, t) / (1000 * (sum(strip) / (k * min(strip)) - 1))


def up(va, t, s, k):
    return t - k >= 0 and va[t] > va[t - k] and (s == 1 or up(va, t - k, s - 1, k))


@pytest.mark.parametrize("seed", range(20))
def test_prechelts_criteria_are_his_formulas(seed):
    rng, n = np.random.default_rng(seed), 60
    va = np.abs(1 / np.arange(1, n + 1) + 0.002 * np.arange(n) + 0.02 * rng.standard_normal(n)) + 0.1
    tr = 1 / np.arange(1, n + 1) + 0.01 * rng.random(n)
    for alpha in (5, 20):
        assert stops(GeneralizationLoss(alpha), va) == first(lambda t, a=alpha: gl(va, t) > a, n)
    for alpha, k in ((0.5, 5), (0.1, 3)):
        expected = first(lambda t, k=k, a=alpha: (t + 1) % k == 0 and pq(va, tr, t, k) > a, n)
        assert stops(ProgressQuotient(alpha, k), va, losses=tr) == expected
    for s, k in ((1, 5), (2, 3), (3, 4)):
        expected = first(lambda t, s=s, k=k: (t + 1) % k == 0 and up(va, t, s, k), n)
        assert stops(UpStrips(s, k), va) == expected


def test_the_formulas_stop_somewhere_else_each():
    va = np.array([1.0, 0.5, 0.52, 0.51, 0.6, 0.7, 0.8, 0.9, 1.0])
    tr = np.array([1.0, 0.8, 0.6, 0.5, 0.4, 0.39, 0.385, 0.384, 0.384])
    found = [stops(c, va, losses=tr) for c in (GeneralizationLoss(3), ProgressQuotient(0.5, 2), UpStrips(2, 2))]
    assert found == [2, 5, 5]  # at 5: GL = 40, P = 1000 (0.395/0.39 - 1) = 12.8, their quotient 3.1
    assert [stops(c, va, losses=tr) for c in (ProgressQuotient(3.5, 2), UpStrips(3, 2), UpStrips(4, 2))] == [7, 7, None]


@pytest.mark.parametrize("kind", [GeneralizationLoss, ProgressQuotient, UpStrips])
def test_prechelts_criteria_are_for_losses(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} is for losses, and 'val_loss' is to be large"):
        stops(kind(), [0.5], mode="max")
    with pytest.raises(ValueError, match="val_loss=-1"):
        stops(kind(), [-1.0])


def test_zero_and_nan_in_prechelts_criteria():
    assert stops(GeneralizationLoss(5), [0.0, 0.0, 0.1]) == 2
    assert stops(GeneralizationLoss(5), [nan, nan, 1.0, 1.0, nan]) == 4
    assert stops(UpStrips(2, 1), [nan, nan, nan]) == 2
    assert stops(ProgressQuotient(1, 2), [1, 1, 1, 1], losses=[0.0] * 4) is None
    with pytest.raises(ValueError, match=r"training loss 'mse'.*There are: loss"):
        stops(ProgressQuotient(loss="mse"), [1.0])


def test_threshold_and_divergence():
    assert stops(Threshold(2.9), [9, 8, 7, 6, 5, 6, 4, 3, 2, 1]) == 8
    assert stops(Threshold(0.9), [0.5, nan, 0.9], mode="max") == 2
    assert stops(Divergence(15.9), [9, 4, 2, 16, 32]) == 3
    assert stops(Divergence(0.2), [0.1, 0.5, 0.1], mode="max") == 0
    assert stops(Divergence(relative=1.0), [9, 8, 16, 17]) == 3
    assert stops(Divergence(relative=0.5), [0.8, 0.4, 0.39], mode="max") == 2
    assert stops(Divergence(relative=0.5), [-2, -1.1, -0.9]) == 2
    assert [stops(Divergence(), [3, value]) for value in (nan, inf, -inf, 1e30)] == [1, 1, 1, None]


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time_budget, "time", clock)
    return clock


def test_a_time_budget_counts_over_resumed_trainings(clock):
    def run(budget, seconds):
        budget.start()
        answers = []
        for step in seconds:
            clock.now += step
            answers.append(budget.observe(Seen(1.0, "loss", "min")))
        return answers

    whole, first_part, second_part = (TimeBudget(timedelta(minutes=1)) for _ in range(3))
    assert run(whole, [25, 25, 10])[1:] == [None, "the 60 seconds are over, 60 taken"]
    assert run(first_part, [25]) == [None]
    clock.now += 5
    first_part.stop()
    clock.now += 1000  # between the two
    second_part.load_state_dict(json.loads(json.dumps(first_part.state_dict())))
    assert run(second_part, [25, 6]) == [None, "the 60 seconds are over, 61 taken"]
    whole.reset()
    assert run(whole, [25]) == [None]


class At(Criterion):
    """Says so at the values with these numbers, and counts them."""

    def __init__(self, *when):
        self.when = when
        super().__init__()

    def reset(self):
        self.n = -1

    def observe(self, seen):
        self.n += 1
        return f"at {self.n}" if self.n in self.when else None


def test_criteria_do_not_latch_and_all_see_every_value():
    assert stops(At(2) | At(4), range(6)) == 2
    assert stops(At(4) | At(2), range(6)) == 2
    assert stops(At(2) & At(4), range(6)) is None
    assert stops(At(2, 4) & At(3, 4), range(6)) == 4
    assert stops(At(2, 4) & (At(4) | At(1)), range(6)) == 4
    both = At(1) | At(1)
    assert [both.observe(Seen(0.0, "loss", "min")) for _ in range(2)] == [None, "at 1; at 1"]
    assert (At(0) & At(0)).observe(Seen(0.0, "loss", "min")) == "at 0 and at 0"
    one = Patience(2)
    assert stops(one | one, [1, 1, 1]) == 2  # two copies, each of which sees a value once
    # Patience holds from 3 on and is given up at 5, where there is an improvement.
    assert stops(Patience(2) & At(5), [3, 3, 3, 3, 3, 1]) is None
    assert stops(Patience(2) & At(4), [3, 3, 3, 3, 3, 1]) == 4


LISTS = {
    # from Lightning's tests: patience, losses, the epoch it stops in
    "Lightning, patience 3": (dict(patience=3), [6, 5, 5, 5, 5, 5], 4),
    "Lightning, patience 1": (dict(patience=1), [6, 5, 4, 4, 3, 3], 3),
    "Lightning, a rise between": (dict(patience=3), [6, 5, 6, 5, 5, 5], 4),
    "Lightning, its default": (dict(patience=3), [8, 4, 2, 3, 4, 5, 8, 10], 5),
    "Lightning, threshold": (dict(criterion=Patience(3) | Threshold(2.9)), [9, 8, 7, 6, 5, 6, 4, 3, 2, 1], 8),
    "Lightning, divergence": (dict(criterion=Patience(3) | Divergence(15.9)), [9, 4, 2, 16, 32, 64], 3),
    "Lightning, not finite": (dict(criterion=Patience(3) | Divergence()), [4, 3, nan, 2, 1], 2),
    "Lightning, infinite": (dict(criterion=Patience(3) | Divergence()), [4, 3, inf, 2, 1], 2),
    # Differs: Lightning stops at a NaN unless told otherwise (check_finite), we do with Divergence, Keras never does.
    "NaN without Divergence": (dict(patience=3), [4, 3, nan, 2, 1], 4),
    # Differs: Lightning wants the threshold to be passed, for us it is enough to reach it.
    "goal reached": (dict(criterion=Threshold(3)), [9, 3, 2], 1),
    # from Keras's tests
    **{
        f"Keras, patience {n}": (dict(patience=n), [10.0, 9.0, 8.0, 9.0, 8.9, 8.8, 8.7, 8.6, 8.5], max(n, 1) + 2)
        for n in range(4)
    },
    "Keras, restore": (dict(patience=2, restore_best_weights=True), [0.2, 0.15, 0.1, 0.11, 0.12], 4),
    "Keras, baseline": (
        dict(patience=5, baseline=0.5, restore_best_weights=True),
        [0.9, 0.8, 0.7, 0.71, 0.72, 0.73],
        4,
    ),
    # Differs: where the first value is not a number, Keras keeps it as the best and stops.
    "infinite at first": (dict(patience=2, min_delta=0.1, relative=True), [inf, 3, 2, 1, 0.5], 4),
}


@pytest.mark.parametrize("name", LISTS)
def test_losses_of_other_libraries_tests_stop_where_they_say(name):
    arguments, values, expected = LISTS[name]
    stopping = EarlyStopping("val_loss", mode="min", **arguments)
    last, model = trained(stopping, values)
    assert last == expected
    if arguments.get("restore_best_weights"):
        assert model.weights == 2


def test_two_of_them_stop_at_the_first_whichever_comes_first():
    losses = [8, 4, 2, 3, 4, 5, 8, 10]  # Lightning's: one has patience 3, the other sees a constant
    for order in (1, -1):
        model = Weights()
        both = [EarlyStopping("abc", patience=3, mode="min"), EarlyStopping("cba", patience=3, mode="min")][::order]
        for stopping in both:
            stopping.set_model(model)
            stopping.on_train_begin()
        for epoch, loss in enumerate(losses):
            for stopping in both:
                stopping.on_epoch_end(epoch, {"abc": loss, "cba": 0})
            if model.stop_training:
                break
        assert epoch == 3
        assert sum(stopping.stop_reason is not None for stopping in both) == 1


def test_the_default_is_patience():
    rng = np.random.default_rng(0)
    for n in range(30):
        values = rng.random(20) / np.arange(1, 21) ** 0.3
        patience, delta = n % 4, 0.05 * (n % 3)
        plain = EarlyStopping("val_loss", delta, patience, mode="min", relative=bool(n % 2))
        own = EarlyStopping("val_loss", mode="min", criterion=Patience(patience, delta, bool(n % 2)))
        assert trained(plain, values)[0] == trained(own, values)[0]
        assert plain.stop_reason == own.stop_reason


CRITERIA = {
    "none": None,
    "patience": Patience(4, 0.01),
    "GL": GeneralizationLoss(20),
    "PQ": ProgressQuotient(0.2, 3),
    "UP": UpStrips(2, 2),
    "divergence": Divergence(relative=0.5),
    "either": UpStrips(2, 3) | Divergence(relative=0.6) | Threshold(0.05),
    "both": Patience(2) & (UpStrips(1, 3) | GeneralizationLoss(10)),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_a_resumed_training_stops_where_the_whole_one_does(name):
    def make():
        return EarlyStopping("val_loss", patience=4 * (name == "none"), mode="min", criterion=CRITERIA[name])

    rng = np.random.default_rng(1)
    for _ in range(5):
        values = np.abs(1 / np.arange(1, 31) + 0.05 * rng.standard_normal(30)) + 0.1
        losses = 1 / np.arange(1, 31)
        whole = make()
        last, _ = trained(whole, values, losses=losses)
        for cut in (2, 5, 7):
            if cut > last:
                continue
            one, other = make(), make()
            trained(one, values[:cut], losses=losses)
            other.load_state_dict(json.loads(json.dumps(one.state_dict())))
            assert trained(other, values, cut, losses=losses)[0] == last
            assert (other.stop_reason, other.best, other.best_epoch) == (
                whole.stop_reason,
                whole.best,
                whole.best_epoch,
            )


def test_a_state_of_another_criterion_is_refused():
    for one, other in (
        (Patience(1), UpStrips()),
        (Patience(1), Patience(1) | Patience(1)),
        (At(1) | At(1), Patience()),
    ):
        with pytest.raises(ValueError, match="not the state of"):
            other.load_state_dict(one.state_dict())


def test_one_criterion_serves_several_callbacks():
    criterion = Patience(1)
    one, other = (EarlyStopping("val_loss", mode="min", criterion=criterion) for _ in range(2))
    assert trained(one, [2, 2, 2])[0] == trained(other, [2, 2, 2])[0] == 1
    assert criterion.wait == 0


def test_what_is_refused():
    with pytest.raises(TypeError, match="criterion=5"):
        EarlyStopping(criterion=5)
    with pytest.raises(TypeError, match="joins two criteria"):
        Patience(1) | 5
    with pytest.raises(ValueError, match="patience, baseline, which belong"):
        EarlyStopping(patience=3, baseline=1.0, criterion=Threshold(1))
    with pytest.raises(ValueError, match="baseline, which belong"):
        EarlyStopping(baseline=0.0, criterion=Threshold(1))
    with pytest.raises(TypeError, match="a generator can be read once"):
        EarlyStopping(every=3, validation_data=(pair for pair in [(1, 2)]))
    with pytest.raises(ValueError, match="together"):
        EarlyStopping(every=3)
    with pytest.raises(ValueError, match="`every` of EarlyStopping must be an integer"):
        EarlyStopping(every=0, validation_data=(1, 2))
    for make in (
        lambda: Patience(-1),
        lambda: Threshold(nan),
        lambda: Divergence(relative=-1),
        lambda: TimeBudget(0),
        lambda: GeneralizationLoss(0),
        lambda: ProgressQuotient(1, 0),
        lambda: UpStrips(0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()


# In `fit`.

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((24, 3)).astype("float32"), RNG.standard_normal((24, 1)).astype("float32")
EAGERLY = keras.backend.backend() == "tensorflow"  # where a compiled step costs more than all the rest of a test
VALIDATION = (X[:10] + 0.3, Y[:10])


class Noisy(keras.Layer):
    """Random also where a model is evaluated, as in variational models."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(3)

    def call(self, x):
        return x + 0.1 * keras.random.normal(ops.shape(x), seed=self.seed_generator)


def noisy_model(optimizer=None, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=2),
            Noisy(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", metrics=["mae"], **options)
    return model


def fit(model, callbacks=(), epochs=2, **options):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


class Batches(keras.callbacks.Callback):
    def __init__(self):
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append({name: float(value) for name, value in logs.items()})


def test_a_look_within_the_epoch_leaves_no_trace():
    plain, looked_at = noisy_model(), noisy_model()
    stopping, batches = (
        EarlyStopping("val_loss", patience=99, every=4, validation_data=VALIDATION),
        [Batches(), Batches()],
    )
    expected = fit(plain, [batches[0]], validation_data=VALIDATION)
    found = fit(looked_at, [stopping, batches[1]], validation_data=VALIDATION)
    assert stopping.criterion.wait + (stopping.best_step or 0) // 4 == 3  # 12 batches
    assert batches[0].logs == batches[1].logs
    assert expected.history == found.history
    for a, b in zip(plain.variables, looked_at.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    for a, b in zip(plain.optimizer.variables, looked_at.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_it_stops_within_the_epoch_and_sees_what_evaluate_sees():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    stopping = EarlyStopping("val_loss", patience=2, every=4, validation_data=VALIDATION, restore_best_weights=True)
    history = fit(model, [stopping], epochs=5)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 12  # 6 batches an epoch, 3 checks
    assert (stopping.best_step, stopping.best_epoch, stopping.stopped_epoch) == (4, 0, 1)
    assert stopping.best == pytest.approx(model.evaluate(*VALIDATION, verbose=0), rel=1e-6)
    assert stopping.stop_reason.startswith("val_loss has not improved on ")
    assert "(step 4) for 2 checks" in stopping.stop_reason
    assert history.history.keys() == {"loss"}

    one, other = (EarlyStopping("val_loss", patience=2, every=4, validation_data=VALIDATION) for _ in range(2))
    fit(model, [one], epochs=1)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    fit(model, [other], epochs=5, initial_epoch=1)
    assert (other.best_step, other.stopped_epoch, other.stop_reason) == (4, 1, stopping.stop_reason)


def test_a_name_that_no_check_gives_is_an_error_at_the_first():
    stopping = EarlyStopping("val_mse", every=2, validation_data=VALIDATION, mode="min")
    with pytest.raises(ValueError, match=r"not in the logs\. There are: .*val_mae"):
        fit(noisy_model(run_eagerly=EAGERLY), [stopping])


def test_the_history_knows_what_came_of_it():
    model = noisy_model(keras.optimizers.SGD(0.0), run_eagerly=EAGERLY)
    stopping, other = EarlyStopping("loss", criterion=Threshold(1e9)), EarlyStopping("mae", patience=9)
    history = fit(model, [stopping, other])
    assert history.actions == [stopping, other]
    said = outcomes_of(model)["EarlyStopping"].splitlines()
    assert said[0].startswith("best loss ")
    assert said[0].endswith(f"(epoch 1); stopped in epoch 1: {stopping.stop_reason}")
    assert said[1].startswith("best mae ")
    assert "stopped" not in said[1]
    fit(model, [other], epochs=1)
    assert len(outcomes_of(model)["EarlyStopping"].splitlines()) == 1


def test_checks_within_the_epoch_beside_an_average():
    weights = []
    for every in (None, 4):
        model = noisy_model(optimizers.ScheduleFreeSGD(0.05))
        look = [EarlyStopping("val_loss", patience=99, every=every, validation_data=VALIDATION)] if every else []
        with pytest.warns(UserWarning, match="batch normalisation"):
            fit(model, [EvaluateAtAverage(), *look])
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
