import numpy as np
import keras_optreg as kor
import keras

vocab_size, embedding_dim, maxlen = 1000, 8, 12

keras.utils.set_random_seed(5)
rng = np.random.default_rng(5)
tokens = rng.integers(1, 900, size=(192, maxlen))
labels = (tokens.mean(axis=1) > 450).astype("float32")

model = keras.Sequential()
model.add(keras.Input(shape=(maxlen,), dtype="int32"))
model.add(keras.layers.Embedding(vocab_size, embedding_dim))
model.add(keras.layers.GlobalAveragePooling1D())
model.add(keras.layers.Dense(1, activation="sigmoid"))

opt = kor.optimizers.Adam(0.001, sparse="touched_rows")
model.compile(optimizer=opt, loss="binary_crossentropy", metrics=["accuracy"])
history = model.fit(tokens, labels, batch_size=64, epochs=2, shuffle=False, verbose=0)
