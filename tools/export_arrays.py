"""Writes a TFDS image data set as .npy files, for machines without TensorFlow or TFDS.

    python tools/export_arrays.py --dataset cifar10 --output_dir arrays
    KERAS_BACKEND=jax python recipes/wrn_cifar10.py --data_dir arrays

If all images have the same size, they are written unchanged. Otherwise they are resized to a shorter side of 256 pixels
(`--side`) and cropped to the central square, from which the recipes crop 224 pixels. The folder OUTPUT_DIR/DATASET has
`SPLIT_images.npy` (uint8) and `SPLIT_labels.npy` (int32) for each split, and `info.json`, which is written last.
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

from common import tfds


def export(dataset, output_dir, data_dir=None, splits=None, side=256):
    """Writes the arrays, one image at a time.

    Args:
        dataset: str, TFDS name.
        output_dir: folder in which a folder with the name of the data set is made.
        data_dir: existing data_dir of TFDS, or None for its default.
        splits: list of names of splits; None for all.
        side: int, height and width in pixels to which images of different sizes are resized.

    Raises:
        app.UsageError: if the data set does not exist, cannot be prepared, has no images and labels, or does not have
            one of the splits.
    """
    import tensorflow as tf

    builder = tfds.builder(dataset, data_dir, {"splits": "+".join(splits)} if splits else {})
    folder = Path(output_dir) / dataset
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "info.json").unlink(missing_ok=True)  # Without it nothing reads the arrays until all are written.
    shape = builder.info.features["image"].shape
    fixed = None not in shape
    if not fixed:
        shape = (side, side, shape[-1])
    sizes = {}
    for split in splits or builder.info.splits:
        n = sizes[split] = builder.info.splits[split].num_examples
        images = np.lib.format.open_memmap(folder / f"{split}_images.npy", "w+", "uint8", (n, *shape))
        labels = np.zeros(n, "int32")
        examples = builder.as_dataset(split=split).map(lambda example: (example["image"], example["label"]))
        if not fixed:
            examples = examples.map(lambda image, label: (square(image, side), label), tf.data.AUTOTUNE)
        for i, (image, label) in enumerate(examples.prefetch(64).as_numpy_iterator()):
            images[i], labels[i] = image, label
        images.flush()
        np.save(folder / f"{split}_labels.npy", labels)
    info = {"splits": sizes, "classes": builder.info.features["label"].num_classes}
    (folder / "info.json").write_text(json.dumps(info) + "\n")


def square(image, side):
    """Resizes an image to a shorter side of `side` pixels, and crops the center: uint8, shape `(side, side, 3)`."""
    import tensorflow as tf

    sides = tf.cast(tf.shape(image)[:2], "float32")
    sides = tf.cast(tf.round(sides * (side / tf.reduce_min(sides))), "int32")
    image = tf.image.resize(image, sides, antialias=True)
    image = tf.image.resize_with_crop_or_pad(image, side, side)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), "uint8")


def define_flags():
    """Defines the flags of the command line."""
    flags.DEFINE_string("dataset", None, "TFDS name.", required=True)
    flags.DEFINE_string("output_dir", None, "Folder in which DATASET/ is written.", required=True)
    flags.DEFINE_string("data_dir", None, "data_dir of TFDS; default: TFDS_DATA_DIR, or the default of TFDS.")
    flags.DEFINE_list("splits", None, "Splits; default: all.")
    flags.DEFINE_integer("side", 256, "Height and width in pixels, if images have different sizes.", 1)


def main(_):
    """Exports the data set given by the flags."""
    options = flags.FLAGS
    export(options.dataset, options.output_dir, options.data_dir, options.splits, options.side)


if __name__ == "__main__":
    define_flags()
    app.run(main)
