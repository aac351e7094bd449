import numpy as np
import keras_optreg as kor
import keras

learning_rate = 0.001
weight_decay = 0.0001

keras.utils.set_random_seed(4)
rng = np.random.default_rng(4)
images = rng.uniform(size=(128, 8, 8, 1)).astype("float32")
labels = rng.integers(10, size=128)


def build_model():
    return keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


model = build_model()
optimizer = kor.optimizers.AdamW(learning_rate, weight_decay=kor.optimizers.FullyDecoupled(weight_decay))
model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
history = model.fit(images, labels, batch_size=32, epochs=2, verbose=0)
