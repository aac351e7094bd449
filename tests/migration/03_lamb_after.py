import numpy as np
import keras_optreg as kor
import keras

BATCH_SIZE, EPOCHS = 128, 3

keras.utils.set_random_seed(3)
rng = np.random.default_rng(3)
x_train = rng.normal(size=(512, 10)).astype("float32")
y_train = x_train @ rng.normal(size=(10, 1)).astype("float32")

inputs = keras.Input(shape=(10,))
h = keras.layers.Dense(32, activation="gelu", name="intermediate")(inputs)
h = keras.layers.LayerNormalization(name="layer_norm")(h)
outputs = keras.layers.Dense(1, name="output")(h)
model = keras.Model(inputs, outputs)

opt = kor.optimizers.LAMB(0.01, weight_decay=0.01, weight_decay_on=~kor.select.matching("layer_norm|bias"))
model.compile(optimizer=opt, loss="mse")
history = model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
