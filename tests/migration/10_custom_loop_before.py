import numpy as np
import tensorflow as tf
from tensorflow import keras

keras.utils.set_random_seed(10)
x_train = np.random.default_rng(10).normal(size=(256, 6)).astype("float32")
y_train = np.sin(x_train.sum(axis=1, keepdims=True))
train_dataset = tf.data.Dataset.from_tensor_slices((x_train, y_train)).batch(64)

model = keras.Sequential([keras.Input(shape=(6,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)])
optimizer = keras.optimizers.Adam(learning_rate=1e-2, clipnorm=1.0)
loss_fn = keras.losses.MeanSquaredError()


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss_value = loss_fn(y, model(x, training=True))
    grads = tape.gradient(loss_value, model.trainable_weights)
    optimizer.apply_gradients(zip(grads, model.trainable_weights))
    return loss_value


for epoch in range(3):
    for x_batch, y_batch in train_dataset:
        loss = train_step(x_batch, y_batch)
