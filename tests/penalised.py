"""What tests ask of a model with penalties of one strength."""

import keras

STRENGTH = 0.5


def number(scalar):
    return float(keras.ops.convert_to_numpy(scalar))


def total(model):
    """The sum of its penalties."""
    return sum(number(loss) for loss in model.losses)


def squares(variables):
    """λΣw² by hand, each variable once."""
    return STRENGTH * sum((keras.ops.convert_to_numpy(v).astype("float64") ** 2).sum() for v in variables)


def reload(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")
