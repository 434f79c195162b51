"""TensorFlow Datasets, with errors that say which flag to change."""

import contextlib
from pathlib import Path

from absl import app


def builder(dataset, data_dir, splits):
    """A prepared builder of an image set; what is not there yet is downloaded.

    Args:
        dataset: TFDS name.
        data_dir: folder, or None for the environment's TFDS_DATA_DIR, or TFDS's own default.
        splits: dict of flag to the TFDS split string that it names, which the set must have; `named(...)`'s, say.

    Returns:
        `tfds.core.DatasetBuilder`.

    Raises:
        app.UsageError: if there is no such set, it cannot be prepared, has no images and labels, or not those splits;
            or if TensorFlow or TFDS is not installed.
    """
    if data_dir and not Path(data_dir).expanduser().is_dir():
        raise app.UsageError(
            f"--data_dir={data_dir} is no folder. Name one that holds {dataset}/, as TFDS or tools/export_arrays.py "
            "has written it; or make it first, and TFDS downloads into it; or leave the flag out for TFDS's own."
        )
    try:
        import tensorflow  # noqa: F401 - which TFDS reads by
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise app.UsageError(
            f"--dataset={dataset} comes by TensorFlow Datasets, which cannot be imported here: {error}. Write it as "
            "arrays by tools/export_arrays.py on a machine that has TensorFlow, copy the folder, and name it by "
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
    """The dict of the recipes' two flags to their splits."""
    return dict(zip(("train_split", "test_split"), splits, strict=True))


@contextlib.contextmanager
def reading(dataset, data_dir, advice, flag=None, value=None):
    """Turns what TFDS and TensorFlow raise into an `app.UsageError`; TFDS downloads by many means."""
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
