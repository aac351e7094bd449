"""One row an architecture of `keras.applications`: how to make it small, and its kernels from its table of blocks.

The lists follow the papers' tables and Keras's names; none is asked of a model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from keras import applications


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], Any]
    layers: Callable[[], Iterator[str]]
    """The names of the layers that have one variable called `kernel`; or whole paths."""

    def __str__(self) -> str:
        return self.name

    @property
    def kernels(self) -> list[str]:
        """The paths of all its kernels."""
        return [name if name.endswith("kernel") else f"{name}/kernel" for name in self.layers()]


SMALL: dict[str, Any] = {"weights": None, "classes": 3}


def mobilenet() -> Iterator[str]:
    yield from ("conv1", "conv_preds")
    for block in range(1, 14):
        yield from (f"conv_dw_{block}", f"conv_pw_{block}")


def mobilenet_v2() -> Iterator[str]:
    yield from ("Conv1", "expanded_conv_depthwise", "expanded_conv_project", "Conv_1", "predictions")
    for block in range(1, 17):
        yield from (f"block_{block}_{part}" for part in ("expand", "depthwise", "project"))


def mobilenet_v3_small() -> Iterator[str]:
    yield from ("conv", "conv_1", "conv_2", "logits")
    for block in range(11):
        prefix = f"expanded_conv_{block}_" if block else "expanded_conv_"
        yield from (f"{prefix}depthwise", f"{prefix}project")
        if block:
            yield f"{prefix}expand"
        if block not in (1, 2):
            yield from (f"{prefix}squeeze_excite_conv", f"{prefix}squeeze_excite_conv_1")


def efficientnet_b0() -> Iterator[str]:
    yield from ("stem_conv", "top_conv", "predictions")
    for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1), start=1):
        for letter in ascii_lowercase[:repeats]:
            parts = ("dwconv", "se_reduce", "se_expand", "project_conv", *(("expand_conv",) if stage > 1 else ()))
            yield from (f"block{stage}{letter}_{part}" for part in parts)


def resnet50() -> Iterator[str]:
    yield from ("conv1_conv", "predictions")
    for stage, blocks in enumerate((3, 4, 6, 3), start=2):
        yield f"conv{stage}_block1_0_conv"  # the shortcut where the size changes
        for block in range(1, blocks + 1):
            yield from (f"conv{stage}_block{block}_{i}_conv" for i in (1, 2, 3))


def xception() -> Iterator[str]:
    yield from ("block1_conv1", "block1_conv2", "predictions")
    yield from ("conv2d", "conv2d_1", "conv2d_2", "conv2d_3")  # the shortcuts of blocks 2, 3, 4 and 13
    for block in range(2, 15):
        for i in (1, 2, 3) if 5 <= block <= 12 else (1, 2):
            yield from (f"block{block}_sepconv{i}/{part}_kernel" for part in ("depthwise", "pointwise"))


def convnext_tiny() -> Iterator[str]:
    yield from ("convnext_tiny_stem/convnext_tiny_stem_conv", "convnext_tiny_head_dense")
    for i in range(3):
        yield f"convnext_tiny_downsampling_block_{i}/convnext_tiny_downsampling_conv_{i}"
    for stage, blocks in enumerate((3, 3, 9, 3)):
        for block in range(blocks):
            prefix = f"convnext_tiny_stage_{stage}_block_{block}_"
            yield from (f"{prefix}depthwise_conv", f"{prefix}pointwise_conv_1", f"{prefix}pointwise_conv_2")


def vgg16() -> Iterator[str]:
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        yield from (f"block{block}_conv{i}" for i in range(1, convolutions + 1))


def inception_v3() -> Iterator[str]:
    # The stem, mixed 0-2, mixed 3, mixed 4-7, mixed 8, mixed 9 and 10. Keras numbers them as they are made.
    convolutions = 5 + 3 * 7 + 4 + 4 * 10 + 6 + 2 * 9
    yield from ("conv2d", "predictions")
    yield from (f"conv2d_{i}" for i in range(1, convolutions))


CASES = [
    Case("MobileNet", lambda: applications.MobileNet((32, 32, 3), alpha=0.1, **SMALL), mobilenet),
    Case("MobileNetV2", lambda: applications.MobileNetV2((32, 32, 3), alpha=0.05, **SMALL), mobilenet_v2),
    Case(
        "MobileNetV3Small", lambda: applications.MobileNetV3Small((32, 32, 3), alpha=0.1, **SMALL), mobilenet_v3_small
    ),
    Case("EfficientNetB0", lambda: applications.EfficientNetB0(input_shape=(32, 32, 3), **SMALL), efficientnet_b0),
    Case("ResNet50", lambda: applications.ResNet50(input_shape=(32, 32, 3), **SMALL), resnet50),
    Case("Xception", lambda: applications.Xception(input_shape=(71, 71, 3), **SMALL), xception),
    Case("ConvNeXtTiny", lambda: applications.ConvNeXtTiny(input_shape=(32, 32, 3), **SMALL), convnext_tiny),
    Case("VGG16", lambda: applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3)), vgg16),
    Case("InceptionV3", lambda: applications.InceptionV3(input_shape=(75, 75, 3), **SMALL), inception_v3),
]
