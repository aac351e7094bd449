"""Draw what each penalty, constraint and schedule of dropout does to weights, and keep the numbers that are drawn.

    python tools/draw_regularizers.py               # all pictures of docs/regularizers.md, in a few minutes
    python tools/draw_regularizers.py L1 constraints

Everything is trained on scikit-learn's digits: the pixels that say something, 32 hidden units with tanh, 10 classes,
from the same start. The penalty stands on the hidden layer's kernel. Captions, with
their numbers, go to docs/images/regularizers/numbers.json, from where tools/update_docs.py takes them.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits

import keras_optreg as kor
from keras_optreg import constraints, regularizers, select
from keras_optreg.callbacks import DropoutSchedule, MagnitudePruning
from keras_optreg.regularizers import L2SP, MCP, SCAD, KLSparsity, PenaltyRegularizer

FOLDER = Path(__file__).parents[1] / "docs" / "images" / "regularizers"
NUMBERS = FOLDER / "numbers.json"
GREY, BLUE, RED = "#8a9097", "#1f5fa8", "#c0392b"
HIDDEN = select.matching("hidden/kernel")
Picture = tuple[Figure, str]
"""What is drawn, and the sentence under it, with its numbers."""

# ------------------------------------------------------------------ the network


@cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """1,200 images to train on with their classes, and 597 to judge by; without the pixels that are hardly ever on."""
    data: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.data[order] / 16).astype("float32"), data.target[order]
    x = x[:, (x[:1200] > 0).mean(0) > 0.05]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def network() -> keras.Sequential:
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(32, "tanh", name="hidden")
    return keras.Sequential([keras.Input(digits()[0].shape[1:]), hidden, keras.layers.Dense(10, name="head")])


def adam(**arguments: Any) -> Any:
    return kor.optimizers.Adam(1e-2, **arguments)


def sgd(**arguments: Any) -> Any:
    return kor.optimizers.SGD(0.1, momentum=0.9, **arguments)


def trained(
    penalty: Any = None, in_update: bool = True, optimizer: Callable[..., Any] = adam, start: Any = None
) -> keras.Sequential:
    """The network after 40 epochs, with the penalty in the update or in the loss, on the hidden kernel."""
    model = network()
    if start is not None:
        model.set_weights(start.get_weights())
    if penalty is not None and not in_update:
        kor.attach(model, penalty, on=HIDDEN)
    fit(model, optimizer(penalties=[(HIDDEN, penalty)] if penalty is not None and in_update else None))
    return model


def fit(model: keras.Model, optimizer: Any, epochs: int = 40, **arguments: Any) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    x, y, *_ = digits()
    model.fit(**{"x": x, "y": y, "batch_size": 200, "epochs": epochs, "verbose": 0, **arguments})


plain = cache(trained)


@cache
def trained_on() -> keras.Sequential:
    return trained(start=plain())


def kernel(model: keras.Model) -> np.ndarray:
    return ops.convert_to_numpy(model.get_layer("hidden").kernel)


def predicted(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(model(x)).argmax(-1)


def accuracy(model: keras.Model) -> str:
    _, _, x, y = digits()
    return f"{100 * np.mean(predicted(model, x) == y):.1f} %"


# ------------------------------------------------------------------ drawing


def panels(*widths: float, height: float = 2.3) -> tuple[Figure, Any]:
    figure = Figure((6, height), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(axis: Any, title: str, x: str = "", y: str = "") -> None:
    axis.set_title(title, fontsize=8.5)
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)


def legend(axis: Any, **where: Any) -> None:
    axis.legend(fontsize=7.5, frameon=False, **where)


def heat(
    axis: Any, matrix: np.ndarray, title: str, x: str = "", y: str = "", least: float = 0, most: float = 1
) -> None:
    """White is exactly 0, and all else bluer from `least` to `most`."""
    shown = np.ma.masked_equal(matrix, 0)
    axis.imshow(shown, cmap="Blues", vmin=least, vmax=most, aspect="auto", interpolation="nearest")
    axis.spines[:].set_visible(False)
    axis.set_xticks([])
    axis.set_yticks([])
    label(axis, title, x, y)


def sorted_weights(axis: Any, before: np.ndarray, after: np.ndarray, title: str) -> None:
    for w, colour, name in ((before, GREY, "without"), (after, BLUE, "with the penalty")):
        axis.plot(np.sort(np.abs(w).ravel())[::-1], color=colour, label=name)
    axis.set_ylim(bottom=0)
    legend(axis)
    label(axis, title, f"the {before.size} weights, largest first", "|w|")


def save(figure: Figure, path: Path) -> None:
    """With 64 colours, which makes the file a third as large."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


# ------------------------------------------------------------------ one function a kind of picture


def elementwise(shape: PenaltyRegularizer, used: PenaltyRegularizer, from_trained: bool = False) -> Picture:
    """Penalty and proximal map of a single weight; the sorted weights of the hidden layer without it and with it.

    With `from_trained` both go on from the network that was trained without it.
    """
    before = trained_on() if from_trained else plain()
    after = trained(used, start=plain() if from_trained else None)
    figure, (formula, weights) = panels(2, 3)
    w = np.linspace(-4, 4, 161, dtype="float32")
    formula.plot(w, w, color=GREY, lw=0.8, ls=":")
    formula.plot(w, [float(shape(ops.array([each]))) for each in w], color=RED, label="Ω(w)")
    formula.plot(w, ops.convert_to_numpy(shape.proximal(ops.array(w), 1.0)), color=BLUE, label="prox(w, 1)")
    formula.set_ylim(-4, 4)
    legend(formula)
    label(formula, repr(shape), "w")
    zeros = 100 * np.mean(kernel(after) == 0)
    sorted_weights(weights, kernel(before), kernel(after), f"{used!r}: {zeros:.0f} % exact zeros")
    start = ", from weights trained without it" if from_trained else ""
    return figure, (
        f"`{used!r}` in Adam's update{start}: {zeros:.0f} % of the weights are exactly 0, the largest is "
        f"{np.abs(kernel(after)).max():.2f} (without: {np.abs(kernel(before)).max():.2f}); accuracy on new digits "
        f"{accuracy(after)} (without: {accuracy(before)})."
    )


def hoyer() -> Picture:
    penalty = regularizers.Hoyer(1e-4)
    before, after = plain(), trained(penalty, in_update=False)
    figure, (force, weights) = panels(2, 3)
    w = np.sort(kernel(before).ravel())
    force.axhline(0, color=GREY, lw=0.8)
    force.plot(w, -ops.convert_to_numpy(penalty.gradient(ops.array(w))), color=RED)
    label(force, "its pull on the weights without it", "w", "−∂Ω/∂w")
    small = [100 * np.mean(np.abs(each) < 0.01) for each in (kernel(before), kernel(after))]
    sorted_weights(weights, kernel(before), kernel(after), f"{penalty!r}: {small[1]:.0f} % below 0.01")
    return figure, (
        f"`{penalty!r}` in the loss: {small[1]:.0f} % of the weights are below 0.01 (without: {small[0]:.0f} %), none "
        f"is 0; the largest is {np.abs(kernel(after)).max():.2f} (without: {np.abs(kernel(before)).max():.2f}); "
        f"accuracy {accuracy(after)} (without: {accuracy(before)})."
    )


def groups(penalty: PenaltyRegularizer) -> Picture:
    before, after = plain(), trained(penalty)
    w = np.abs(kernel(after))
    idle, zeros = int((w.max(0) == 0).sum()), 100 * np.mean(w == 0)
    figure, axes = panels(1, 1, height=2.8)
    for axis, each, title in ((axes[0], np.abs(kernel(before)), "without"), (axes[1], w, f"{idle} idle units of 32")):
        heat(axis, each, title, "32 units", f"{len(w)} inputs", least=-0.15, most=0.6)
    live = w[:, w.max(0) > 0]
    return figure, (
        f"|w|, white is 0. `{penalty!r}` in Adam's update: {idle} of 32 units are exactly 0, {zeros:.0f} % of all "
        f"weights, {100 * np.mean(live == 0):.0f} % of those of the other units; accuracy {accuracy(after)} "
        f"(without: {accuracy(before)})."
    )


def singular_values(w: np.ndarray) -> np.ndarray:
    return np.linalg.svd(w.astype("float64"), compute_uv=False)


def nuclear_norm() -> Picture:
    penalty = regularizers.NuclearNorm(0.01)
    before, after = trained(optimizer=sgd), trained(penalty, optimizer=sgd)
    figure, (axis,) = panels(1)
    values = [singular_values(kernel(model)) for model in (before, after)]
    ranks = [int((each > 1e-4 * each[0]).sum()) for each in values]
    for each, colour, name, shift in zip(
        values, (GREY, BLUE), ("without", "with the penalty"), (-0.2, 0.2), strict=True
    ):
        axis.bar(np.arange(1, 33) + shift, each, 0.4, color=colour, label=name)
    legend(axis)
    label(axis, f"{penalty!r}: rank {ranks[0]} → {ranks[1]}", "the 32 singular values of the hidden kernel", "σ")
    return figure, (
        f"`{penalty!r}` in SGD's update: rank {ranks[1]} (σ above 10⁻⁴ of the largest; without: {ranks[0]}); accuracy "
        f"{accuracy(after)} (without: {accuracy(before)})."
    )


def spectral_norm() -> Picture:
    penalty = regularizers.SpectralNorm(0.03)
    figure, (axis,) = panels(1)
    ends = []
    for given, colour, name in ((None, GREY, "without"), (penalty, BLUE, "with the penalty")):
        model, history = network(), []

        def record(*_: Any, model: Any = model, history: list[float] = history, **__: Any) -> None:
            history.append(singular_values(kernel(model))[0])

        if given is not None:
            kor.attach(model, given, on=HIDDEN)
        record()
        fit(model, adam(), callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=record)])
        axis.plot(history, color=colour, label=name)
        ends.append((history[-1], accuracy(model)))
    axis.set_ylim(bottom=0)
    legend(axis)
    label(axis, repr(penalty), "step", "largest singular value")
    return figure, (
        f"`{penalty!r}` in the loss: σ₁ ends at {ends[1][0]:.2f} (without: {ends[0][0]:.2f}); accuracy {ends[1][1]} "
        f"(without: {ends[0][1]})."
    )


def gram(penalty: PenaltyRegularizer) -> Picture:
    before, after = plain(), trained(penalty, in_update=False)
    figure, axes = panels(1, 1, height=2.7)
    grams = [kernel(model).T @ kernel(model) for model in (before, after)]
    worst = [np.abs(singular_values(each - np.eye(32))[0]) for each in grams]
    for axis, each, title in zip(axes, grams, ("without", f"with {type(penalty).__name__}"), strict=True):
        heat(axis, np.abs(each), title, "|M Mᵀ|", most=1.5)
        axis.set_aspect("equal")
    return figure, (
        f"M Mᵀ, the inner products of the 32 units' weights. `{penalty!r}` in the loss: M Mᵀ − I has the norm "
        f"{worst[1]:.2f} (without: {worst[0]:.2f}); accuracy {accuracy(after)} (without: {accuracy(before)})."
    )


def l2_sp() -> Picture:
    x, y, x_new, y_new = digits()
    model = network()
    fit(model, keras.optimizers.SGD(0.2), x=x[y < 5], y=y[y < 5], epochs=60)
    start = model.get_weights()
    penalty = L2SP(0.0)
    kor.attach(model, penalty, on=select.everything())
    model.compile(keras.optimizers.SGD(0.2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    strengths = [0, 1e-3, 0.01, 0.03, 0.1, 0.3]
    known: dict[str, list[float]] = {"0 to 4, learnt first": [], "5 to 9, learnt then": []}
    for penalty.strength in strengths:
        model.set_weights(start)
        model.fit(x[y >= 5], y[y >= 5], batch_size=200, epochs=60, verbose=0)
        is_right = predicted(model, x_new) == y_new
        for row, among in zip(known.values(), (y_new < 5, y_new >= 5), strict=True):
            row.append(100 * is_right[among].mean())
    figure, (axis,) = panels(1)
    for (name, row), colour in zip(known.items(), (BLUE, GREY), strict=True):
        axis.plot(range(len(strengths)), row, "o-", color=colour, label=name)
    axis.set_xticks(range(len(strengths)), [f"{s:g}" for s in strengths])
    axis.set_ylim(-4, 104)
    legend(axis)
    label(
        axis, "a network for 0 to 4 is trained on with 5 to 9 alone", "strength of L2SP on all weights", "accuracy, %"
    )
    old, new = known.values()
    best = int(np.argmax(np.add(old, new)))
    return figure, (
        f"After training on with 5 to 9 alone, {old[0]:.0f} % of the digits 0 to 4 are still known without the "
        f"penalty, and {old[best]:.0f} % with `L2SP({strengths[best]:g})`, which knows {new[best]:.0f} % of 5 to 9 "
        f"(without: {new[0]:.0f} %)."
    )


def kl_sparsity() -> Picture:
    x, _, x_new, _ = digits()
    penalty = KLSparsity(0.01, target=0.1)
    figure, (axis,) = panels(1)
    means = []
    for given, colour, name in ((None, GREY, "without"), (penalty, BLUE, "with the penalty")):
        keras.utils.set_random_seed(0)
        code = keras.layers.Dense(48, "sigmoid", activity_regularizer=given, name="code")
        model = keras.Sequential([keras.Input(x.shape[1:]), code, keras.layers.Dense(x.shape[1])])
        model.compile(kor.optimizers.Adam(1e-2), "mse")
        model.fit(x, x, batch_size=200, epochs=60, verbose=0)
        active = ops.convert_to_numpy(code(x_new)).mean(0)
        axis.hist(active, np.linspace(0, 1, 41), color=colour, alpha=0.75, label=name)
        means.append(active)
    axis.axvline(penalty.target, color=RED, lw=1, ls="--", label="target")
    legend(axis)
    label(axis, "an autoencoder's 48 sigmoid units", "mean activity of a unit on new digits", "units")
    low, high = means[1].min(), means[1].max()
    return figure, (
        f"`{penalty!r}` on the code of an autoencoder: mean activities lie between {low:.2f} and {high:.2f} "
        f"(without: {means[0].min():.2f} and {means[0].max():.2f})."
    )


# ------------------------------------------------------------------ what is no penalty


def dropout() -> Picture:
    figure, (axis,) = panels(1, height=2.0)
    epochs = np.arange(61)
    for code, colour, style in (
        ("early(0.2, until=20)", BLUE, "-"),
        ("late(0.2, start=40)", RED, "-"),
        ("linear(0.3, until=50)", GREY, "--"),
    ):
        name, arguments = code.rstrip(")").split("(")
        rate, key, value = arguments.replace(", ", "=").split("=")
        schedule = getattr(DropoutSchedule, name)(float(rate), **{key: float(value)}).schedule
        axis.step(epochs, [schedule(t) for t in epochs], style, where="post", color=colour, label=code)
    axis.set_ylim(-0.02, 0.35)
    legend(axis, loc="upper right")
    label(axis, "DropoutSchedule", "epoch", "rate of dropout")
    return figure, "The rate of dropout against the epoch."


def set_of_points() -> Picture:
    figure, axes = panels(1, 1, 1, 1.8, height=1.8)
    points = np.random.default_rng(2).uniform(-2, 2, (24, 2)).astype("float32")
    frames = {
        "L1Ball(1.0)": [(1, 0), (0, 1), (-1, 0), (0, -1), (1, 0)],
        "Simplex(1.0)": [(1, 0), (0, 1)],
        "Box(-1.0, 0.5)": [(-1, -1), (0.5, -1), (0.5, 0.5), (-1, 0.5), (-1, -1)],
    }
    for axis, (code, frame) in zip(axes, frames.items(), strict=False):
        name, numbers = code.rstrip(")").split("(")
        constraint = getattr(constraints, name)(*map(float, numbers.split(",")))
        for point in points:
            nearest = ops.convert_to_numpy(constraint(ops.array(point)))
            axis.plot(*np.transpose([point, nearest]), color=GREY, lw=0.6)
            axis.plot(*point, ".", color=GREY, ms=3)
            axis.plot(*nearest, ".", color=BLUE, ms=5)
        axis.plot(*np.transpose(frame), color=RED, lw=1)
        axis.set(aspect="equal", xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        label(axis, code)
    blob = np.exp(-np.hypot(*np.meshgrid(range(-2, 3), range(-2, 3))) / 2)
    w = (blob + np.random.default_rng(0).uniform(0, 0.4, (5, 5)))[..., None, None].astype("float32")
    radial = ops.convert_to_numpy(constraints.RadialConstraint(nearest_point=True)(ops.array(w)))
    heat(axes[3], np.hstack([w[..., 0, 0], np.zeros((5, 1)), radial[..., 0, 0]]), "RadialConstraint")
    axes[3].set_xticks([2, 8], ["before", "after"])
    axes[3].tick_params(length=0)
    axes[3].set_aspect("equal")
    return figure, (
        "Grey points go to the blue ones, in the set (red). On the right a 5×5 filter and the nearest one with "
        "constant rings, `RadialConstraint(nearest_point=True)`."
    )


def pruning() -> Picture:
    callback = MagnitudePruning(0.9, begin_step=60, end_step=180, every=12, on=HIDDEN)
    model = network()
    history: list[float] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: history.append(np.mean(kernel(model) == 0))
    )
    fit(model, adam(), callbacks=[callback, record])
    figure, (axis,) = panels(1, height=2.0)
    axis.step(np.arange(1, len(history) + 1), 100 * np.array(history), color=BLUE)
    axis.set_ylim(-4, 104)
    label(axis, "MagnitudePruning(0.9, begin_step=60, end_step=180, every=12)", "step", "zeros, %")
    return figure, (
        f"Zeros of the hidden kernel while training: {100 * history[-1]:.1f} % at the end; accuracy {accuracy(model)} "
        f"(without pruning: {accuracy(plain())})."
    )


PICTURES: dict[str, Callable[[], Picture]] = {
    "L2": lambda: elementwise(regularizers.L2(0.25), regularizers.L2(1e-3)),
    "L1": lambda: elementwise(regularizers.L1(1.0), regularizers.L1(1e-3)),
    "L1L2": lambda: elementwise(regularizers.L1L2(0.75, 0.25), regularizers.L1L2(1e-3, 1e-3)),
    "MCP": lambda: elementwise(MCP(1.0), MCP(1e-3, gamma=200), from_trained=True),
    "SCAD": lambda: elementwise(SCAD(1.0), SCAD(1e-3, a=200), from_trained=True),
    "Hoyer": hoyer,
    "GroupLasso": lambda: groups(regularizers.GroupLasso(0.02)),
    "SparseGroupLasso": lambda: groups(regularizers.SparseGroupLasso(5e-4, 0.02)),
    "NuclearNorm": nuclear_norm,
    "SpectralNorm": spectral_norm,
    "Orthogonality": lambda: gram(regularizers.Orthogonality(0.01)),
    "SRIP": lambda: gram(regularizers.SRIP(0.1)),
    "L2SP": l2_sp,
    "KLSparsity": kl_sparsity,
    "dropout": dropout,
    "constraints": set_of_points,
    "MagnitudePruning": pruning,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which pictures; all by default. One of: {', '.join(PICTURES)}")
    names = parser.parse_args().names or list(PICTURES)
    FOLDER.mkdir(parents=True, exist_ok=True)
    captions = json.loads(NUMBERS.read_text(encoding="utf-8"))["captions"] if NUMBERS.exists() else {}
    for name in names:
        figure, captions[name] = PICTURES[name]()
        save(figure, FOLDER / f"{name}.png")
        print(f"{name}: {captions[name]}", flush=True)
        kept = {
            "versions": {"keras": keras.__version__, "backend": keras.backend.backend()},
            "captions": {name: captions[name] for name in PICTURES if name in captions},
        }
        NUMBERS.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
