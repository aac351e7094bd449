"""Make `examples/data/fashion_mnist_small.npz`: 2,000 + 2,000 images of Fashion-MNIST, the same bytes each time.

    python tools/fashion_mnist_subset.py FOLDER

FOLDER holds the four original files (`train-images-idx3-ubyte.gz` and its fellows). The first 200 images of each
class are taken from the training file and the first 200 from the test file, in their original order.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "examples" / "data" / "fashion_mnist_small.npz"
PER_CLASS = 200


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format: two zeros, the type (8 = uint8), the rank, the sizes, the values."""
    content = gzip.decompress(path.read_bytes())
    zeros, kind, rank = content[:2], content[2], content[3]
    if zeros != b"\0\0" or kind != 8:
        raise ValueError(f"{path} is not an IDX file of bytes. Expected one of the original Fashion-MNIST files.")
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def first_of_each_class(labels: np.ndarray) -> np.ndarray:
    """Positions of the first `PER_CLASS` examples of each class, in ascending order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:PER_CLASS] for k in np.unique(labels)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the four original files")
    folder = parser.parse_args().folder
    arrays = {}
    for split, file in (("train", "train"), ("validation", "t10k")):
        labels = read_idx(folder / f"{file}-labels-idx1-ubyte.gz")
        chosen = first_of_each_class(labels)
        arrays[f"x_{split}"] = read_idx(folder / f"{file}-images-idx3-ubyte.gz")[chosen]
        arrays[f"y_{split}"] = labels[chosen]
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes", {name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
