"""LeNet-300-100 and WRN-28-2 by the layers of Keras 3 or Keras 2, which have the same names."""


def lenet(keras):
    """LeNet-300-100 with batch norm."""
    x = images = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(x)
    for units in (300, 100):
        x = keras.layers.BatchNormalization()(keras.layers.Dense(units, use_bias=False)(x))
        x = keras.layers.ReLU()(x)
    return keras.Model(images, keras.layers.BatchNormalization()(keras.layers.Dense(10, use_bias=False)(x)))


def wrn(keras):
    """WRN-28-2."""

    def active(x):
        return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))

    def convolution(x, filters, size=3, strides=1):
        return keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)

    images = keras.Input((32, 32, 3))
    x = convolution(images, 16)
    for group, filters in enumerate((32, 64, 128)):
        for block in range(4):
            strides = 2 if group and not block else 1
            y = active(x)
            shortcut = x if block else convolution(y, filters, 1, strides)
            y = convolution(active(convolution(y, filters, 3, strides)), filters)
            x = keras.layers.Add()([shortcut, y])
    return keras.Model(images, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(active(x))))


BUILD = {"lenet": lenet, "wrn": wrn}
