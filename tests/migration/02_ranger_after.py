import keras
import numpy as np
import keras_optreg as kor

keras.utils.set_random_seed(2)
rng = np.random.default_rng(2)
x = rng.normal(size=(256, 8)).astype("float32")
y = (x[:, :1] * x[:, 1:2] > 0).astype("float32")

model = keras.Sequential(
    [
        keras.layers.Input(shape=(8,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)

# Ranger = RAdam + Lookahead
ranger = kor.optimizers.Lookahead(kor.optimizers.RAdam(1e-2), sync_period=6, slow_step_size=0.5)
model.compile(loss="binary_crossentropy", optimizer=ranger)
history = model.fit(x, y, batch_size=32, epochs=3, callbacks=[kor.callbacks.EvaluateAtAverage()], verbose=0)
