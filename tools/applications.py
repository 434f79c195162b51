"""Tells which part of each network of keras.applications `sparsify` masks, and whether outputs stay the same.

    python tools/applications.py > docs/applications.md
    python tools/applications.py --families MobileNetV2,Xception

Each network is made without pretrained weights, converted with sparsity 0, saved, loaded and converted back. The table
has the largest difference of outputs after each of these steps.
"""

import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
from absl import app, flags
from keras import applications

import keras_sparse as ks

# The smallest network of each family: its arguments, and the smallest image size in pixels that it accepts.
FAMILIES = {
    "ConvNeXtTiny": ({}, 32),
    "DenseNet121": ({}, 32),
    "EfficientNetB0": ({}, 32),
    "EfficientNetV2B0": ({}, 32),
    "InceptionResNetV2": ({}, 75),
    "InceptionV3": ({}, 75),
    "MobileNet": ({"alpha": 0.25}, 32),
    "MobileNetV2": ({"alpha": 0.35}, 32),
    "MobileNetV3Small": ({"minimalistic": True}, 32),
    "NASNetMobile": ({}, 32),
    "ResNet50": ({}, 32),
    "ResNet50V2": ({}, 32),
    "VGG16": ({}, 32),
    "Xception": ({}, 71),
}

flags.DEFINE_list("families", list(FAMILIES), "Classes of keras.applications, separated by commas.")


def row(name: str) -> dict:
    """Returns the entries of the table for a family, a dict."""
    arguments, size = FAMILIES[name]
    keras.utils.set_random_seed(0)
    shape = (size, size, 3)
    dense = getattr(applications, name)(weights=None, input_shape=shape, classes=10, **arguments)
    x = np.random.default_rng(0).random((1, *shape), "float32")
    expected = _outputs(dense, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sparse = ks.sparsify(dense, 0.0)
    report = ks.report(sparse)
    with tempfile.TemporaryDirectory() as folder:
        sparse.save(Path(folder) / "model.keras")
        loaded = keras.models.load_model(Path(folder) / "model.keras")
    models = (sparse, loaded, ks.densify(loaded))
    total = report.sparse_weights + sum(w.weights for w in report.dense)
    return {
        "name": name,
        "parameters": total,
        "masked": report.sparse_weights / total,
        "largest_dense": max(report.dense, key=lambda w: w.weights),
        "differences": [float(np.abs(_outputs(m, x) - expected).max()) for m in models],
    }


def _outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def main(arguments):
    """Prints the table."""
    del arguments
    print(
        "# What is masked of keras.applications\n\n"
        f"Made by `python tools/applications.py` on {keras.backend.backend()}.\n"
    )
    print("| network | parameters | masked | largest that stays dense | sparsified | loaded | densified |")
    print("| --- | --: | --: | --- | --: | --: | --: |")
    for name in flags.FLAGS.families:
        found = row(name)
        differences = " | ".join(f"{d:.0e}" if d else "0" for d in found["differences"])
        largest = found["largest_dense"]
        print(
            f"| {name} | {found['parameters']:,} | {found['masked']:.1%} | {largest.name} ({largest.weights:,}, "
            f"{largest.reason}) | {differences} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
