import keras_optreg as kor
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler
import keras

keras.utils.set_random_seed(1)
x, y = load_iris(return_X_y=True)
x = StandardScaler().fit_transform(x).astype("float32")

model = keras.Sequential(
    [
        keras.layers.Input(shape=(4,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(3, activation="softmax"),
    ]
)
optimizer = kor.optimizers.RAdam(learning_rate=1e-2, weight_decay=1e-4)
model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(x, y, batch_size=32, epochs=3, verbose=0)
