import keras
from keras import layers
from keras.optimizers import SGD
from keras.optimizers.schedules import ExponentialDecay
from keras.regularizers import L2
from sklearn.datasets import load_digits

keras.utils.set_random_seed(9)
x, y = load_digits(return_X_y=True)
x, y = x[:500] / 16.0, y[:500]

model = keras.Sequential(
    [
        keras.Input(shape=(64,)),
        layers.Dense(32, activation="relu", kernel_regularizer=L2(1e-3)),
        layers.Dense(16, activation="relu", kernel_regularizer=L2(1e-3)),
        layers.Dense(10, activation="softmax"),
    ]
)
lr_schedule = ExponentialDecay(initial_learning_rate=0.1, decay_steps=20, decay_rate=0.9)
model.compile(
    optimizer=SGD(learning_rate=lr_schedule, momentum=0.9, nesterov=True),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
history = model.fit(x, y, batch_size=50, epochs=3, verbose=0)
