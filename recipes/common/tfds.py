"""Access to TensorFlow Datasets, with errors that say which flag to change."""

import contextlib
from pathlib import Path

from absl import app


def builder(dataset, data_dir, splits):
    """Returns the builder of an image data set, which is downloaded if necessary.

    Args:
        dataset: str, TFDS name.
        data_dir: folder; None for the environment variable TFDS_DATA_DIR, or the default of TFDS.
        splits: dict of the name of a flag to its value, a TFDS split string, such as made by `named`.

    Returns:
        `tfds.core.DatasetBuilder`.

    Raises:
        app.UsageError: if the data set does not exist, cannot be prepared, or has no images and labels; if it does not
            have one of the splits; or if TensorFlow or TFDS is not installed.
    """
    if data_dir and not Path(data_dir).expanduser().is_dir():
        raise app.UsageError(
            f"--data_dir={data_dir} is not a folder. Give one with {dataset}/, as written by TFDS or "
            "tools/export_arrays.py; or an empty one, into which TFDS downloads; or omit the flag for TFDS's default."
        )
    try:
        import tensorflow  # noqa: F401 - TFDS needs it to read
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise app.UsageError(
            f"--dataset={dataset} comes by TensorFlow Datasets, which cannot be imported here: {error}. Write it as "
            "arrays with tools/export_arrays.py on a machine that has TensorFlow, copy the folder, and give it as "
            "--data_dir; or pip install tensorflow tensorflow-datasets."
        ) from error
    with reading(dataset, data_dir, "Check --dataset, --data_dir and the network, and that the folder can be written."):
        made = tfds.builder(dataset, data_dir=data_dir)
        made.download_and_prepare()
    features = getattr(made.info, "features", None) or {}
    if not all(name in features for name in ("image", "label")):
        raise app.UsageError(
            f"--dataset={dataset} is no set of images with a label each: it has {sorted(features)}. Choose one that "
            "has `image` and `label`."
        )
    for flag, split in splits.items():
        with reading(
            dataset, data_dir, f"Its splits: {sorted(made.info.splits)}; a part is 'train[:1000]'.", flag, split
        ):
            files = [f.filename for f in made.info.splits[split].file_instructions]
        missing = [str(f) for f in files if not Path(f).exists() and "://" not in str(f)]
        if missing:
            raise app.UsageError(
                f"{dataset} is not complete: {missing[0]} is missing. Delete {made.data_dir} and let TFDS prepare it "
                "again."
            )
    return made


def named(splits):
    """Returns a dict of the two split flags of the recipes to their values."""
    return dict(zip(("train_split", "test_split"), splits, strict=True))


@contextlib.contextmanager
def reading(dataset, data_dir, advice, flag=None, value=None):
    """Context manager that turns errors of TFDS and TensorFlow into an `app.UsageError`.

    It catches many types of errors, since TFDS downloads through many libraries.
    """
    import tensorflow as tf

    try:
        yield
    except (app.UsageError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        what = f"--{flag}={value} of {dataset}" if flag else f"--dataset={dataset}"
        where = f" in --data_dir={data_dir}" if data_dir else ""
        if isinstance(error, tf.errors.OpError):
            advice = "A file is damaged: delete the folder of the set, and let TFDS prepare it again."
        (line, *_) = [x for x in str(error).splitlines() if x.strip()] or ["no reason given"]
        raise app.UsageError(f"{what} cannot be read{where}: {type(error).__name__}: {line[:300]} {advice}") from error
