"""The paper's networks, dense, as plain functions."""

import keras
from keras import layers


def lenet_300_100(widen_factor=1.0, input_shape=(28, 28, 1), classes=10, l1=0.0, l2=0.0):
    """LeNet-300-100: three dense layers without bias, each followed by batch norm.

    Args:
        widen_factor: positive number, hidden units over 300 and 100.
        input_shape: shape of an image.
        classes: number of classes; the output is their logits.
        l1: multiplier of sum |w| over the kernels in the loss.
        l2: multiplier of w in the gradient, on every parameter, as PyTorch's weight decay.

    Returns:
        `keras.Model`; for MNIST 267,020 trainable parameters, of which 266,200 are in the kernels `fc1`, `fc2`, `fc3`.
    """
    decay = keras.regularizers.L2(l2 / 2) if l2 else None
    kernel_regularizer = keras.regularizers.L1L2(l1, l2 / 2) if l1 or l2 else None
    images = keras.Input(input_shape, name="images")
    x = layers.Flatten()(images)
    widths = [max(1, round(n * widen_factor)) for n in (300, 100)]
    for i, units in enumerate((*widths, classes), start=1):
        x = layers.Dense(
            units,
            use_bias=False,
            # Uniform in +- 1 / sqrt(inputs), PyTorch's default.
            kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
            kernel_regularizer=kernel_regularizer,
            name=f"fc{i}",
        )(x)
        x = layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            beta_regularizer=decay,
            gamma_regularizer=decay,
            name=f"bn{i}",
        )(x)
        if i <= len(widths):
            x = layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(images, x, name="lenet_300_100")


def wide_resnet(depth=28, widen_factor=2, input_shape=(32, 32, 3), classes=10, l1=0.0, l2=0.0):
    """Wide residual network for small images, pre-activation: WRN-depth-widen_factor.

    The 3x3 convolutions of the blocks, named `groupI_blockJ_convK`, are those the paper makes sparse. Padding is
    symmetric, as in PyTorch.

    Args:
        depth: int, 6 n + 4: three groups of n blocks of two convolutions.
        widen_factor: number, channels of the groups over 16, 32, 64.
        input_shape: shape of an image.
        classes: number of classes; the output is their logits.
        l1: multiplier of sum |w| over the kernels in the loss.
        l2: multiplier of w in the gradient, on every parameter, as PyTorch's weight decay.

    Returns:
        `keras.Model`; WRN-28-2 has 1,467,610 trainable parameters, of which 1,451,520 are in the blocks' 3x3
        convolutions.

    Raises:
        ValueError: if `depth` is not 6 n + 4 with n of at least 1.

    Reference:
        Zagoruyko & Komodakis, "Wide residual networks", 2016.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"`depth` must be 6 n + 4: 10, 16, 22, 28, ... Received: depth={depth}.")
    decay = keras.regularizers.L2(l2 / 2) if l2 else None
    kernel_regularizer = keras.regularizers.L1L2(l1, l2 / 2) if l1 or l2 else None

    def convolution(x, filters, size, strides, name):
        if size > 1:
            x = layers.ZeroPadding2D(size // 2)(x)
        return layers.Conv2D(
            filters,
            size,
            strides,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            kernel_regularizer=kernel_regularizer,
            name=name,
        )(x)

    def activation(x):
        norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, beta_regularizer=decay, gamma_regularizer=decay)
        return layers.ReLU()(norm(x))

    images = keras.Input(input_shape, name="images")
    x = convolution(images, 16, 3, 1, "stem")
    for group in range(3):
        filters = round(16 * 2**group * widen_factor)
        for block in range(blocks):
            name = f"group{group + 1}_block{block + 1}"
            strides = 2 if group and not block else 1
            active = activation(x)
            if not block:
                x = convolution(active, filters, 1, strides, f"group{group + 1}_shortcut")
            y = convolution(active, filters, 3, strides, f"{name}_conv1")
            x = layers.add([x, convolution(activation(y), filters, 3, 1, f"{name}_conv2")])
    x = layers.GlobalAveragePooling2D()(activation(x))
    logits = layers.Dense(
        classes,
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        kernel_regularizer=kernel_regularizer,
        bias_regularizer=decay,
        name="logits",
    )(x)
    return keras.Model(images, logits, name=f"wrn_{depth}_{widen_factor:g}")
