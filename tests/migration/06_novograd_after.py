import keras_optreg as kor
from sklearn.datasets import load_digits
import keras

keras.utils.set_random_seed(6)
digits = load_digits()
x_train = digits.images[:256, ..., None].astype("float32") / 16.0
y_train = keras.utils.to_categorical(digits.target[:256], 10)

model = keras.models.Sequential()
model.add(keras.layers.Input(shape=(8, 8, 1)))
model.add(keras.layers.Conv2D(8, (3, 3), activation="relu"))
model.add(keras.layers.MaxPooling2D((2, 2)))
model.add(keras.layers.Flatten())
model.add(keras.layers.Dense(10, activation="softmax"))

opt = kor.optimizers.NovoGrad(1e-2, beta_1=0.9, beta_2=0.999, epsilon=1e-7, weight_decay=0.001)
model.compile(loss="categorical_crossentropy", optimizer=opt, metrics=["accuracy"])
history = model.fit(x_train, y_train, batch_size=64, epochs=2, verbose=0)
