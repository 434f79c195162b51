"""Small image data sets in the format of TFDS, which a network can learn."""

import numpy as np
import pytest


def squares(n, sides, seed):
    """Yields `(image, label)` of n images of given sizes: noise with a bright square in red, green or blue."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        height, width = sides[i % len(sides)]
        image = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
        down, right = rng.integers(0, (height - 8, width - 8))
        image[down : down + 8, right : right + 8, i % 3] += 170
        yield image, i % 3


def write(folder, name, sides, encoding, train=96, test=48):
    """Writes images as data set `name` into a data_dir of TFDS."""
    import tensorflow_datasets as tfds

    parts = {"train": squares(train, sides, 0), "test": squares(test, sides, 1)}
    shape = (*sides[0], 3) if len(sides) == 1 else (None, None, 3)
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=folder,
        split_datasets={k: [(i, {"image": x, "label": y}) for i, (x, y) in enumerate(v)] for k, v in parts.items()},
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape, encoding_format=encoding),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
        ),
        disable_shuffling=True,
    )


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Returns a data_dir of TFDS with "squares" (one size), "photos" (JPEG, several sizes) and "drawings" (PNG)."""
    folder = tmp_path_factory.mktemp("tfds")
    write(folder, "squares", [(16, 16)], "png")
    for name, encoding in (("photos", "jpeg"), ("drawings", "png")):
        write(folder, name, [(24, 30), (40, 25), (32, 32)], encoding, train=40, test=20)
    return folder
