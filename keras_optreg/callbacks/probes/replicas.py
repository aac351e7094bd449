"""How many replicas share a batch under `tf.distribute`."""

import keras


def num_replicas() -> int:
    """Replicas in sync around the code that runs; 1 everywhere but under a strategy of TensorFlow."""
    if keras.config.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
