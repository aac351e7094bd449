import numpy as np
import keras_optreg as kor
import keras

keras.utils.set_random_seed(8)
rng = np.random.default_rng(8)
x = rng.normal(size=(160, 4)).astype("float32")
y = rng.normal(size=(160, 1)).astype("float32")

model = keras.Sequential(
    [
        keras.Input(shape=(4,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(1),
    ]
)
optimizers = [keras.optimizers.Adam(learning_rate=1e-4), keras.optimizers.Adam(learning_rate=1e-2)]
opt = kor.optimizers.Partition([(kor.select.variables(model.layers[0].weights), optimizers[0])], rest=optimizers[1])
model.compile(optimizer=opt, loss="mse")
history = model.fit(x, y, batch_size=32, epochs=4, verbose=0)
