"""Optimizers, regularizers, schedules and callbacks for Keras 3.

```python
import keras_optreg as kor

print(kor.attach(model, kor.regularizers.L2(1e-4)))
model.compile(kor.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy")
model.fit(x, y, validation_split=0.1, callbacks=[kor.callbacks.TensorBoard("logs/run1")])
```
"""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as _error:
    raise ImportError(
        f"keras_optreg needs Keras with one of its backends, and `{_error.name}` is not installed. "
        'Install one with: pip install "keras-optreg[cpu]"  (TensorFlow for CPU; other extras: tf, gpu, jax, torch). '
        "Keras takes the backend from the environment variable KERAS_BACKEND, by default tensorflow."
    ) from _error

from keras_optreg import bounds, callbacks, constraints, diagnosis, optimizers, regularizers, schedules, select
from keras_optreg.check import check
from keras_optreg.diagnosis import diagnose
from keras_optreg.regularizers import attach, detach, report, transfer
from keras_optreg.summary import summary

__all__ = [
    "attach",
    "bounds",
    "callbacks",
    "check",
    "constraints",
    "detach",
    "diagnose",
    "diagnosis",
    "optimizers",
    "regularizers",
    "report",
    "schedules",
    "select",
    "summary",
    "transfer",
]
__version__ = "0.1.0"
