"""Data sets too large for memory, such as ImageNet: decoded while the network trains, by tf.data."""

import dataclasses
import functools

import numpy as np

from common import augment, data, tfds

RESIZED = 256 / 224  # shorter side in evaluation, over the crop


@dataclasses.dataclass(frozen=True)
class Stream:
    """A split of a TFDS image set. Reads and decodes in parallel; needs no cache.

    Training images are cropped at random (8 to 100% of the area, sides 3:4 to 4:3), resized and mirrored every other
    time; test images resized to a shorter side 256/224 of the size, and cropped centrally.

    Attributes:
        builder: `tfds.core.DatasetBuilder`, prepared.
        split: TFDS split string.
        size: int, pixels of a side of what the network gets.
        block: int, how many encoded images, of many files, are shuffled among each other after the files are.
    """

    builder: object
    split: str
    size: int = 224
    block: int = 8_192

    def __len__(self):
        return self.builder.info.splits[self.split].num_examples

    @property
    def shape(self):
        """Of an image that the network gets."""
        return (self.size, self.size, 3)

    @property
    def classes(self):
        """Number of classes."""
        return self.builder.info.features["label"].num_classes

    def batches(self, batch_size, seed, first_step=0, part=(0, 1)):
        """Training batches from a step on, without end: a new order and new crops each epoch.

        Args:
            batch_size: int, of all processes together.
            seed: int of at least 0.
            first_step: int, steps since the training began.
            part: `(i, n)`, the i-th of n equal parts of each batch.

        Returns:
            `tf.data.Dataset` of float32 images and int32 labels.
        """
        import tensorflow as tf

        steps = len(self) // batch_size
        first_epoch, skip = divmod(first_step, steps)

        def epoch(number):
            # `Dataset.shuffle` takes no computed seed, and draws by how often it was iterated: no way to resume.
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
        """The first images, each once, in order: what `validation_data` takes.

        Args:
            count: int, how many.
            batch_size: int, of all processes together; must divide `count` if there are several.
            part: `(i, n)`, the i-th of n equal parts of each batch.
        """
        import tensorflow as tf

        records = self._files().interleave(_records, cycle_length=1).take(count).shard(part[1], part[0])
        examples = records.map(self._test_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(batch_size // part[1])
        return _finish(batches).apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))

    def _files(self):
        """(file, first record, number of records) of every file that the split is in."""
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
        image = tf.cond(  # Of a JPEG nothing but the window is decoded.
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
    """The splits of an image set to train and to test on.

    Args:
        dataset: a set that tools/export_arrays.py has written into `data_dir`, or a TFDS name. What TFDS can download
            it prepares at the first use; ImageNet has to be fetched by hand, as its page in the TFDS catalogue says.
        splits: two TFDS split strings.
        data_dir: folder of exported arrays, or TFDS data_dir; None for the environment's TFDS_DATA_DIR, or TFDS's own
            default.
        size: int, as for `Stream`.

    Returns:
        Two `Stream`, or two `common.data.Images`.
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
    return records.apply(tf.data.experimental.assert_cardinality(take))  # A file cut off between two is no error else.


def _shuffled(seed, epoch, *columns):
    """The rows of some tensors in an order that seed and epoch determine."""
    import tensorflow as tf

    order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(columns[0])[0]), tf.stack([epoch, seed]))
    columns = [tf.gather(c, order) for c in columns]
    return columns[0] if len(columns) == 1 else tuple(columns)


def _finish(batches):
    import tensorflow as tf

    mean, std = (tf.constant(x, "float32") for x in data.NORMALIZATION["imagenet2012"])
    batches = batches.map(lambda x, y: ((x - mean) / std, tf.cast(y, tf.int32)), num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(4)
