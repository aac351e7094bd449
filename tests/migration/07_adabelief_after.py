import keras_optreg as kor
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale
import keras

keras.utils.set_random_seed(7)
x, y = load_wine(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(scale(x), y, test_size=0.25, random_state=7)

inputs = keras.Input(shape=(13,))
hidden = keras.layers.Dense(20, activation="tanh")(inputs)
hidden = keras.layers.Dropout(0.1)(hidden)
outputs = keras.layers.Dense(3, activation="softmax")(hidden)
model = keras.Model(inputs=inputs, outputs=outputs)

model.compile(
    loss="sparse_categorical_crossentropy",
    optimizer=kor.optimizers.AdaBelief(learning_rate=1e-3, epsilon=1e-14),
    metrics=["accuracy"],
)
history = model.fit(x_train, y_train, validation_data=(x_test, y_test), epochs=3, verbose=0)
