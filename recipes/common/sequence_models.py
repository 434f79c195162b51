"""Networks that read an image as a sequence of rows, dense, as plain functions."""

import keras
from keras import layers


def transformer(widen_factor=1.0, input_shape=(28, 28, 1), classes=10, l1=0.0, l2=0.0, synchronized=False):
    """Transformer encoder of two pre-norm blocks over the rows of an image.

    Args:
        widen_factor: positive number, width over 64.
        input_shape: shape of an image: its first axis is time.
        classes: number of classes; the output is their logits.
        l1: multiplier of sum |w| over the kernels in the loss.
        l2: multiplier of w in the gradient of the kernels, as PyTorch's weight decay.
        synchronized: not used, for there is no batch norm.

    Returns:
        `keras.Model`; for MNIST 104,394 trainable parameters, of which 98,304 are in the attention and dense layers of
        the blocks.

    Reference:
        Vaswani et al., "Attention is all you need", 2017; Xiong et al., "On layer normalization in the transformer
        architecture", 2020.
    """
    heads, width = 4, 4 * max(1, round(16 * widen_factor))
    penalty = keras.regularizers.L1L2(l1, l2 / 2) if l1 or l2 else None
    images = keras.Input(input_shape, name="images")
    rows = layers.Reshape((input_shape[0], -1), name="rows")(images)
    x = layers.Dense(width, kernel_regularizer=penalty, name="embed")(rows)
    x = Positions(name="positions")(x)
    for block in (1, 2):
        y = layers.LayerNormalization(name=f"block{block}_norm1")(x)
        attention = layers.MultiHeadAttention(
            heads, width // heads, kernel_regularizer=penalty, name=f"block{block}_attention"
        )
        x = layers.add([x, attention(y, y)])
        y = layers.LayerNormalization(name=f"block{block}_norm2")(x)
        y = layers.Dense(4 * width, "gelu", kernel_regularizer=penalty, name=f"block{block}_expand")(y)
        y = layers.Dense(width, kernel_regularizer=penalty, name=f"block{block}_contract")(y)
        x = layers.add([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(name="norm")(x))
    logits = layers.Dense(classes, kernel_regularizer=penalty, name="logits")(x)
    return keras.Model(images, logits, name="transformer")


def lstm(widen_factor=1.0, input_shape=(28, 28, 1), classes=10, l1=0.0, l2=0.0, synchronized=False):
    """An LSTM over the rows of an image, and a dense layer on its last output.

    Args:
        widen_factor: positive number, units over 128.
        input_shape: shape of an image: its first axis is time.
        classes: number of classes; the output is their logits.
        l1: multiplier of sum |w| over the kernels in the loss.
        l2: multiplier of w in the gradient of the kernels, as PyTorch's weight decay.
        synchronized: not used, for there is no batch norm.

    Returns:
        `keras.Model`; for MNIST 81,674 trainable parameters, of which 79,872 are in the kernels of the LSTM.

    Reference:
        Hochreiter & Schmidhuber, "Long short-term memory", 1997.
    """
    penalty = keras.regularizers.L1L2(l1, l2 / 2) if l1 or l2 else None
    images = keras.Input(input_shape, name="images")
    rows = layers.Reshape((input_shape[0], -1), name="rows")(images)
    units = max(1, round(128 * widen_factor))
    x = layers.LSTM(units, kernel_regularizer=penalty, recurrent_regularizer=penalty, name="lstm")(rows)
    logits = layers.Dense(classes, kernel_regularizer=penalty, name="logits")(x)
    return keras.Model(images, logits, name="lstm")


@keras.saving.register_keras_serializable(package="keras_sparse_recipes")
class Positions(layers.Layer):
    """Adds a trained vector to each position of a sequence."""

    def build(self, input_shape):
        """Makes the vectors, of the shape of an input."""
        self.vectors = self.add_weight(shape=input_shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, inputs):
        """Returns inputs and positions, added."""
        return inputs + self.vectors
