"""Data sets that do not fit into memory, such as ImageNet, read and decoded by tf.data during training."""

import dataclasses
import functools

import numpy as np

from common import augment, data, tfds

RESIZED = 256 / 224  # shorter side of a test image / size of its crop


@dataclasses.dataclass(frozen=True)
class Stream:
    """A split of a TFDS image data set, which is read and decoded in parallel, without a cache.

    Training images are cropped to a random window (8 to 100% of the area, aspect ratio 3:4 to 4:3), resized, and
    mirrored with probability 1/2. Test images are resized to a shorter side of 256/224 of the size, and cropped to the
    center.

    Attributes:
        builder: `tfds.core.DatasetBuilder`, prepared.
        split: TFDS split string.
        size: int, height and width in pixels of the images that the network gets.
        block: int, the number of encoded images, from several files, that are shuffled together.
    """

    builder: object
    split: str
    size: int = 224
    block: int = 8_192

    def __len__(self):
        return self.builder.info.splits[self.split].num_examples

    @property
    def shape(self):
        """Shape `(height, width, channels)` of the images that the network gets."""
        return (self.size, self.size, 3)

    @property
    def classes(self):
        """Number of classes."""
        return self.builder.info.features["label"].num_classes

    def batches(self, batch_size, seed, first_step=0, part=(0, 1)):
        """Returns an infinite sequence of training batches from a step on, with another order and crops in each epoch.

        Args:
            batch_size: int, the batch size of all processes together.
            seed: int of at least 0.
            first_step: int, the number of steps since the start of the training.
            part: tuple `(i, n)`, to return the i-th of n equal parts of each batch.

        Returns:
            `tf.data.Dataset` of float32 images and int32 labels.
        """
        import tensorflow as tf

        steps = len(self) // batch_size
        first_epoch, skip = divmod(first_step, steps)

        def epoch(number):
            # `Dataset.shuffle` cannot be resumed: its order depends on how often it was iterated, and its seed cannot
            # be a tensor.
            files = self._files().batch(len(self)).map(functools.partial(_shuffled, seed, number)).unbatch()
            records = files.interleave(_records, 16, block_length=4, num_parallel_calls=tf.data.AUTOTUNE)
            records = records.batch(self.block).map(functools.partial(_shuffled, seed, number)).prefetch(1).unbatch()
            records = records.enumerate().take(steps * batch_size)
            records = records.skip(tf.where(number == first_epoch, np.int64(skip * batch_size), np.int64(0)))
            records = records.shard(part[1], part[0])
            decode = functools.partial(self._train_example, seed, number)
            return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

        examples = tf.data.Dataset.counter(first_epoch, dtype=tf.int64).flat_map(epoch)
        return _finish(examples.batch(batch_size // part[1], drop_remainder=True))

    def evaluation(self, count, batch_size, part=(0, 1)):
        """Returns the first images, each once and in order, for the argument `validation_data` of `fit`.

        Args:
            count: int, the number of images.
            batch_size: int, the batch size of all processes together; it must divide `count` if there are several.
            part: tuple `(i, n)`, to return the i-th of n equal parts of each batch.
        """
        import tensorflow as tf

        records = self._files().interleave(_records, cycle_length=1).take(count).shard(part[1], part[0])
        examples = records.map(self._test_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(batch_size // part[1])
        return _finish(batches).apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))

    def _files(self):
        """Returns a dataset of `(file, first record, number of records)` for all files of the split."""
        import tensorflow as tf

        files = self.builder.info.splits[self.split].file_instructions
        parts = [(str(f.filename), f.skip, f.examples_in_shard if f.take == -1 else f.take) for f in files]
        names, skips, takes = zip(*parts, strict=True)
        return tf.data.Dataset.from_tensor_slices((list(names), np.int64(skips), np.int64(takes)))

    def _parse(self, record):
        import tensorflow_datasets as tfds

        example = self.builder.info.features.deserialize_example(record, decoders={"image": tfds.decode.SkipDecoding()})
        return example["image"], example["label"]

    def _train_example(self, seed, epoch, index, record):
        import tensorflow as tf

        image, label = self._parse(record)
        seeds = tf.stack([epoch * 2**20 + seed, index])
        shape = tf.cond(
            tf.io.is_jpeg(image), lambda: tf.io.extract_jpeg_shape(image), lambda: tf.shape(_decoded(image))
        )
        start, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros((1, 0, 4)),
            seeds,
            min_object_covered=0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.cond(  # For a JPEG, only the window is decoded.
            tf.io.is_jpeg(image),
            lambda: tf.image.decode_and_crop_jpeg(image, tf.concat([start[:2], size[:2]], axis=0), channels=3),
            lambda: tf.slice(_decoded(image), start, tf.concat([size[:2], [3]], axis=0)),
        )
        image = tf.image.resize(image, (self.size, self.size), antialias=True)
        return tf.image.stateless_random_flip_left_right(image, seeds + 1), label

    def _test_example(self, record):
        import tensorflow as tf

        image, label = self._parse(record)
        image = _decoded(image)
        sides = tf.cast(tf.shape(image)[:2], "float32")
        sides = tf.cast(tf.round(sides * (round(self.size * RESIZED) / tf.reduce_min(sides))), "int32")
        image = tf.image.resize(image, sides, antialias=True)
        return tf.image.resize_with_crop_or_pad(image, self.size, self.size), label


def load(dataset, splits, data_dir=None, size=224):
    """Loads the training and the test split of an image data set.

    Args:
        dataset: str, a data set that tools/export_arrays.py has written into `data_dir`, or the name of a TFDS data
            set, which is downloaded at its first use. ImageNet has to be downloaded by hand, as its page in the TFDS
            catalog explains.
        splits: two TFDS split strings.
        data_dir: folder of exported arrays, or data_dir of TFDS; None for the environment variable TFDS_DATA_DIR, or
            the default of TFDS.
        size: int; see `Stream`.

    Returns:
        List of two `Stream`, or tuple of two `common.data.Images`.
    """
    if data.is_exported(dataset, data_dir):
        return data.load(dataset, splits, data_dir, augment.ResizedCropFlip(), size)
    builder = tfds.builder(dataset, data_dir, tfds.named(splits))
    return [Stream(builder, split, size) for split in splits]


def _decoded(image):
    import tensorflow as tf

    return tf.io.decode_image(image, channels=3, expand_animations=False)


def _records(file, skip, take):
    import tensorflow as tf

    records = tf.data.TFRecordDataset(file, buffer_size=1 << 20).skip(skip).take(take)
    # Without this, a file that is truncated between two records would end without an error.
    return records.apply(tf.data.experimental.assert_cardinality(take))


def _shuffled(seed, epoch, *columns):
    """Shuffles the rows of some tensors in the same way, determined by seed and epoch."""
    import tensorflow as tf

    order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(columns[0])[0]), tf.stack([epoch, seed]))
    columns = [tf.gather(c, order) for c in columns]
    return columns[0] if len(columns) == 1 else tuple(columns)


def _finish(batches):
    import tensorflow as tf

    mean, std = (tf.constant(x, "float32") for x in data.NORMALIZATION["imagenet2012"])
    batches = batches.map(lambda x, y: ((x - mean) / std, tf.cast(y, tf.int32)), num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(4)
