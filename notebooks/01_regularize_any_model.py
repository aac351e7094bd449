# %% [markdown]
# # Regularize any model
#
# Your model is built, perhaps trained, perhaps loaded from a file, and it overfits. Keras reads
# `kernel_regularizer=` while a layer is built, and later it is too late. Here is what works at any time:
#
# 1. what goes wrong when a penalty is put on a finished model by hand;
# 2. `attach`: a penalty in the loss, kept through save and load;
# 3. `penalties=`: a penalty in the update, with exact zeros;
# 4. `insert_dropout`: dropout in a model that has none;
# 5. what each of them does to the gap between training and validation.
#
# Install: `pip install "keras-optreg[cpu,plots]"`. Everything below runs in about a minute without a network, on
# 2,000 + 2,000 images of Fashion-MNIST.

# %%
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_optreg as kor
from keras_optreg import regularizers, select

arrays = np.load(Path("../examples/data/fashion_mnist_small.npz"))
x, x_val = (arrays[f"x_{split}"].reshape(-1, 784) / np.float32(255) for split in ("train", "validation"))
y, y_val = arrays["y_train"], arrays["y_validation"]


def network():
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((784,)),
        keras.layers.Dense(128, activation="relu", name="hidden_1"),
        keras.layers.Dense(64, activation="relu", name="hidden_2"),
        keras.layers.Dense(10, name="head"),
    ]
    return keras.Sequential(layers, name="classifier")


x.shape, x_val.shape

# %% [markdown]
# ## 1. Three ways that do not work
#
# The first raises an error. The other two are worse: the first of them does nothing at all, and the second is lost
# when the model is saved.

# %%
model = network()
try:
    model.compile("adam", "mse", kernel_regularizer=keras.regularizers.L2(1e-3))
except TypeError as error:
    print("compile:", str(error).splitlines()[0][:90])

model = network()
model.get_layer("hidden_1").kernel_regularizer = keras.regularizers.L2(1e-3)
print("layer attribute:", model.losses)
assert model.losses == []

model = network()
model.get_layer("hidden_1").kernel.regularizer = keras.regularizers.L2(1e-3)
copy = keras.models.clone_model(model)
print("variable attribute:", len(model.losses), "penalty, after cloning", len(copy.losses))
assert (len(model.losses), len(copy.losses)) == (1, 0)

# %% [markdown]
# ## 2. `attach`: a penalty in the loss
#
# One line, on the kernels by default. The table says what was touched and what survives saving.

# %%
model = network()
kor.attach(model, regularizers.L2(1e-3))

# %% [markdown]
# `L2(λ)` is Keras's λΣw². It counts in `model.losses` at once, also in a train function that was traced before.

# %%
by_hand = sum(1e-3 * np.sum(keras.ops.convert_to_numpy(w) ** 2.0) for w in select.kernels().of(model))
by_keras = float(sum(model.losses))
print(f"by hand {by_hand:.4f}, in the loss {by_keras:.4f}")
assert len(model.losses) == 3
assert abs(by_hand - by_keras) < 1e-4 * by_hand

regularizers.report(model)

# %% [markdown]
# Which weights? A selector says it, here and everywhere else in the package. This one leaves the head alone.

# %%
model = network()
kor.attach(model, regularizers.L2(1e-3), select.kernels() & ~select.matching("head"))

# %%
assert len(model.losses) == 2
assert [w.path.split("/")[-2] for w in model.trainable_weights if w.regularizer] == ["hidden_1", "hidden_2"]

# %% [markdown]
# It survives saving, loading and cloning.

# %%
model.save("regularized.keras")
loaded = keras.models.load_model("regularized.keras")
Path("regularized.keras").unlink()
print([round(float(loss), 4) for loss in loaded.losses])
assert np.allclose([float(loss) for loss in loaded.losses], [float(loss) for loss in model.losses])
assert len(keras.models.clone_model(model).losses) == 2

# %% [markdown]
# A network from `keras.applications` is no different: one line, all its convolutions.

# %%
big = keras.applications.MobileNetV3Small(input_shape=(32, 32, 3), weights=None, classes=10)
table = kor.attach(big, regularizers.L2(1e-5))
print(len(table), "weights; the first:", table[0].path, "-", table[0].status)
assert len(table) == len(big.losses) == len(select.kernels().of(big))
assert all(row.survives for row in table)

# %% [markdown]
# `detach` puts back what stood there before.

# %%
regularizers.detach(big)
assert big.losses == []

# %% [markdown]
# ## 3. `penalties=`: in the update, with exact zeros
#
# An L1 in the loss pulls small weights to and fro around zero and never leaves them there. Given to an optimizer of
# this package, the same penalty acts through its proximal map, which does. Both networks below train 15 epochs on the
# same images with the same strength.


# %%
def fit(model, optimizer, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=100, epochs=15, verbose=0, validation_data=(x_val, y_val), **kwargs)
    return history.history


def kernel_values(model):
    return np.concatenate([np.ravel(keras.ops.convert_to_numpy(kernel)) for kernel in select.kernels().of(model)])


in_the_loss = network()
kor.attach(in_the_loss, regularizers.L1(2e-4))
fit(in_the_loss, kor.optimizers.Adam(1e-3))

in_the_update = network()
l1_history = fit(in_the_update, kor.optimizers.Adam(1e-3, penalties=regularizers.L1(2e-4)))

zeros_in_loss, zeros_in_update = (np.mean(kernel_values(m) == 0) for m in (in_the_loss, in_the_update))
print(f"exact zeros: in the loss {zeros_in_loss:.0%}, in the update {zeros_in_update:.0%}")
assert zeros_in_loss < 0.001
assert zeros_in_update > 0.2

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), sharey=True, dpi=70, layout="constrained")
for axis, trained, title in zip(
    axes, (in_the_loss, in_the_update), ("L1 in the loss", "L1 in the update"), strict=True
):
    axis.hist(np.abs(kernel_values(trained)), bins=np.linspace(0, 0.02, 81), color="tab:blue")
    axis.set(title=title, xlabel="|weight|", yscale="log", xticks=[0, 0.01, 0.02])
axes[0].set_ylabel("weights")
plt.show()

# %% [markdown]
# ## 4. `insert_dropout`: dropout in a model that has none
#
# The new model has the same layers with dropout after the hidden ones, and shares their weights. Predictions stay
# the same, because dropout acts in training only.

# %%
plain = network()
with_dropout = regularizers.insert_dropout(plain, 0.5)
print([layer.name for layer in with_dropout.layers])
assert np.array_equal(plain.predict(x[:100], verbose=0), with_dropout.predict(x[:100], verbose=0))
assert all(ours is theirs for ours, theirs in zip(with_dropout.weights, plain.weights, strict=True))

# %% [markdown]
# ## 5. What it does to the gap
#
# The same network without regularization, with each of the three, 15 epochs each.

# %%
without = network()
histories = {"nothing": fit(without, kor.optimizers.Adam(1e-3))}

with_l2 = network()
kor.attach(with_l2, regularizers.L2(3e-3))
histories["L2 attached"] = fit(with_l2, kor.optimizers.Adam(1e-3))
histories["L1 in the update"] = l1_history
histories["dropout"] = fit(with_dropout, kor.optimizers.Adam(1e-3))

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), sharex=True, sharey=True, dpi=70, layout="constrained")
for axis, (name, history) in zip(axes, histories.items(), strict=True):
    axis.plot(history["accuracy"], color="tab:orange", label="training")
    axis.plot(history["val_accuracy"], color="tab:blue", label="validation")
    axis.set(title=name, xlabel="epoch", ylim=(0.6, 1))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("accuracy")
axes[0].legend(loc="lower right")
plt.show()

# %%
models = {"nothing": without, "L2 attached": with_l2, "L1 in the update": in_the_update, "dropout": with_dropout}
gaps = {}
for name, model in models.items():
    # Measured after training: the curves above have training accuracy with dropout at work.
    training, validation = (model.evaluate(*part, verbose=0, batch_size=500)[1] for part in ((x, y), (x_val, y_val)))
    gaps[name] = training - validation
    print(f"{name:18} training {training:.1%}, validation {validation:.1%}, gap {100 * gaps[name]:.1f} points")
assert all(gap < gaps["nothing"] for name, gap in gaps.items() if name != "nothing")

# %% [markdown]
# ## Which of them?
#
# Begin with `attach(model, L2(1e-4))` and make it stronger until the gap stops shrinking or validation accuracy falls.
# Take L1 in the update when zeros are the aim, dropout when the layers are wide; they can be combined. `report(model)`
# says what share of the loss each penalty has.
