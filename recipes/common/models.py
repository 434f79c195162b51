"""The networks of the paper as dense Keras models, with initialization, normalization, padding and decay of PyTorch."""

import keras
from keras import layers

BLOCKS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def lenet_300_100(widen_factor=1.0, input_shape=(28, 28, 1), classes=10, l1=0.0, l2=0.0, synchronized=False):
    """Makes LeNet-300-100: three dense layers without bias, each followed by batch normalization.

    Args:
        widen_factor: positive number, the factor of the numbers of hidden units, 300 and 100.
        input_shape: tuple of ints, the shape of an image.
        classes: int, number of classes.
        l1: float, coefficient of sum |w| over the kernels in the loss.
        l2: float, coefficient of w in the gradient of every parameter, as weight decay of PyTorch.
        synchronized: bool, whether batch normalization is over all replicas of a `tf.distribute` strategy.

    Returns:
        `keras.Model` whose output are logits. For MNIST it has 267,020 trainable parameters, of which 266,200 are in
        the kernels of `fc1`, `fc2` and `fc3`.
    """
    parts = _Parts(l1, l2, synchronized)
    images = keras.Input(input_shape, name="images")
    x = layers.Flatten()(images)
    widths = [max(1, round(n * widen_factor)) for n in (300, 100)]
    for i, units in enumerate((*widths, classes), start=1):
        x = parts.norm(parts.dense(x, units, f"fc{i}", use_bias=False), f"bn{i}")
        if i <= len(widths):
            x = layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(images, x, name="lenet_300_100")


def wide_resnet(depth=28, widen_factor=2, input_shape=(32, 32, 3), classes=10, l1=0.0, l2=0.0, synchronized=False):
    """Makes a wide residual network for small images, with pre-activation: WRN-depth-widen_factor.

    The paper makes the 3x3 convolutions of the blocks sparse, which are named `groupI_blockJ_convK`. `stem`,
    `groupI_shortcut` and `logits` stay dense.

    Args:
        depth: int, 6 n + 4, for three groups of n blocks with two convolutions.
        widen_factor: positive number, the factor of the numbers of channels, 16, 32 and 64.
        input_shape: tuple of ints, the shape of an image.
        classes: int, number of classes.
        l1: float, coefficient of sum |w| over the kernels in the loss.
        l2: float, coefficient of w in the gradient of every parameter, as weight decay of PyTorch.
        synchronized: bool, whether batch normalization is over all replicas of a `tf.distribute` strategy.

    Returns:
        `keras.Model` whose output are logits. WRN-28-2 has 1,467,610 trainable parameters, of which 1,451,520 are in
        the 3x3 convolutions of the blocks.

    Raises:
        ValueError: if `depth` is not 6 n + 4 with n of at least 1.

    Reference:
        Zagoruyko & Komodakis, "Wide residual networks", 2016.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"`depth` must be 6 n + 4: 10, 16, 22, 28, ... Received: depth={depth}.")
    parts = _Parts(l1, l2, synchronized)
    images = keras.Input(input_shape, name="images")
    x = parts.convolution(images, 16, 3, 1, "stem")
    for group in range(1, 4):
        filters = max(1, round(8 * 2**group * widen_factor))
        for block in range(1, blocks + 1):
            name = f"group{group}_block{block}"
            strides = 2 if group > 1 and block == 1 else 1
            active = parts.active(x, f"{name}_bn1")
            if block == 1:
                x = parts.convolution(active, filters, 1, strides, f"group{group}_shortcut")
            y = parts.convolution(active, filters, 3, strides, f"{name}_conv1")
            y = parts.convolution(parts.active(y, f"{name}_bn2"), filters, 3, 1, f"{name}_conv2")
            x = layers.add([x, y])
    x = layers.GlobalAveragePooling2D()(parts.active(x, "bn"))
    return keras.Model(images, parts.dense(x, classes, "logits"), name=f"wrn_{depth}_{widen_factor:g}")


def resnet(depth=50, widen_factor=1.0, input_shape=(224, 224, 3), classes=1000, l1=0.0, l2=0.0, synchronized=False):
    """Makes a residual network of bottlenecks, with post-activation and the stride in the 3x3 convolution.

    The paper makes the convolutions of the bottlenecks, named `groupI_blockJ_convK`, and `logits` sparse. `stem` and
    `groupI_shortcut` stay dense.

    Args:
        depth: int, one of `BLOCKS`: 14, 26, 50, 101, 152.
        widen_factor: positive number, the factor of the numbers of channels.
        input_shape: tuple of ints, the shape of an image.
        classes: int, number of classes.
        l1: float, coefficient of sum |w| over the kernels in the loss.
        l2: float, coefficient of w in the gradient of every parameter, as weight decay of PyTorch.
        synchronized: bool, whether batch normalization is over all replicas of a `tf.distribute` strategy.

    Returns:
        `keras.Model` whose output are logits. ResNet-50 for ImageNet has 25,557,032 trainable parameters, of which
        22,724,608 are in the kernels that the paper makes sparse.

    Raises:
        ValueError: if `depth` is not in `BLOCKS`.

    Reference:
        He et al., "Deep residual learning for image recognition", CVPR 2016.
    """
    if depth not in BLOCKS:
        raise ValueError(f"`depth` must be one of {list(BLOCKS)}. Received: depth={depth}.")
    parts = _Parts(l1, l2, synchronized)
    images = keras.Input(input_shape, name="images")
    x = parts.convolution(images, max(1, round(64 * widen_factor)), 7, 2, "stem")
    x = layers.ZeroPadding2D(1)(parts.active(x, "bn"))  # after ReLU the same as PyTorch's padding by -inf
    x = layers.MaxPooling2D(3, 2)(x)
    for group, blocks in enumerate(BLOCKS[depth], start=1):
        filters = max(1, round(32 * 2**group * widen_factor))
        for block in range(1, blocks + 1):
            name = f"group{group}_block{block}"
            strides = 2 if group > 1 and block == 1 else 1
            y = parts.active(parts.convolution(x, filters, 1, 1, f"{name}_conv1"), f"{name}_bn1")
            y = parts.active(parts.convolution(y, filters, 3, strides, f"{name}_conv2"), f"{name}_bn2")
            y = parts.norm(parts.convolution(y, 4 * filters, 1, 1, f"{name}_conv3"), f"{name}_bn3")
            if block == 1:
                shortcut = parts.convolution(x, 4 * filters, 1, strides, f"group{group}_shortcut")
                x = parts.norm(shortcut, f"group{group}_shortcut_bn")
            x = layers.ReLU()(layers.add([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, parts.dense(x, classes, "logits"), name=f"resnet_{depth}")


def resnet50(**kwargs):
    """Makes a `resnet` of depth 50."""
    return resnet(50, **kwargs)


class _Parts:
    """Makes the layers of a network, with its regularization."""

    def __init__(self, l1, l2, synchronized):
        self.decay = keras.regularizers.L2(l2 / 2) if l2 else None
        self.of_kernels = keras.regularizers.L1L2(l1, l2 / 2) if l1 or l2 else None
        self.synchronized = {"synchronized": True} if synchronized else {}

    def convolution(self, x, filters, size, strides, name):
        """Adds a convolution without bias, with padding of half the kernel size on both sides."""
        same = strides == 1 or size == 1  # With strides, padding "same" of Keras is asymmetric.
        return layers.Conv2D(
            filters,
            size,
            strides,
            padding="same" if same else "valid",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            kernel_regularizer=self.of_kernels,
            name=name,
        )(x if same else layers.ZeroPadding2D(size // 2)(x))

    def dense(self, x, units, name, use_bias=True):
        """Adds a dense layer with an initial distribution uniform in +- 1 / sqrt(inputs)."""
        return layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
            kernel_regularizer=self.of_kernels,
            bias_regularizer=self.decay if use_bias else None,
            name=name,
        )(x)

    def norm(self, x, name):
        """Adds batch normalization."""
        return layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            beta_regularizer=self.decay,
            gamma_regularizer=self.decay,
            name=name,
            **self.synchronized,
        )(x)

    def active(self, x, name):
        """Adds batch normalization and ReLU."""
        return layers.ReLU()(self.norm(x, name))
