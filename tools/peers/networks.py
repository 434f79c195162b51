"""LeNet-300-100 and WRN-28-2 for Keras 3 and Keras 2. The argument `keras` is the module."""


def lenet(keras):
    """Returns LeNet-300-100 with batch normalization."""
    x = images = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(x)
    for units in (300, 100):
        x = keras.layers.BatchNormalization()(keras.layers.Dense(units, use_bias=False)(x))
        x = keras.layers.ReLU()(x)
    return keras.Model(images, keras.layers.BatchNormalization()(keras.layers.Dense(10, use_bias=False)(x)))


def wrn(keras):
    """Returns WRN-28-2."""

    def normalize_and_activate(x):
        return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))

    def convolution(x, filters, size=3, strides=1):
        return keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)

    images = keras.Input((32, 32, 3))
    x = convolution(images, 16)
    for group, filters in enumerate((32, 64, 128)):
        for block in range(4):
            strides = 2 if group and not block else 1
            y = normalize_and_activate(x)
            shortcut = x if block else convolution(y, filters, 1, strides)
            y = convolution(normalize_and_activate(convolution(y, filters, 3, strides)), filters)
            x = keras.layers.Add()([shortcut, y])
    return keras.Model(images, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(normalize_and_activate(x))))


BUILD = {"lenet": lenet, "wrn": wrn}
