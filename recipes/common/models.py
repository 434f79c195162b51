"""The paper's networks, dense, as plain functions."""

import keras
from keras import layers


def lenet_300_100(input_shape=(28, 28, 1), classes=10, l1=0.0, l2=0.0):
    """LeNet-300-100: three dense layers without bias, each followed by batch norm.

    Args:
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
    for i, units in enumerate((300, 100, classes), start=1):
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
        if units != classes:
            x = layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(images, x, name="lenet_300_100")
