# Keras ships no types, and what is inferred from its source (`ops.sum` may return None) makes every formula an error.
from typing import Any

def __getattr__(name: str) -> Any: ...
