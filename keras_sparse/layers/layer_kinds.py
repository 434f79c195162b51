"""Kinds of Keras's layers: tuples of classes, for `isinstance`, and properties of these layers."""

import keras

from keras_sparse import _keras

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED_CONVOLUTIONS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
DEPTHWISE_CONVOLUTIONS = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE_CONVOLUTIONS = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
CONVOLUTIONAL_CELLS = (_keras.conv_lstm_cell(),)
CELLS = (keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell)  # of RNNs, with dense kernels

ELEMENTWISE = (  # whose weights scale single numbers, and may have several axes
    *(keras.layers.BatchNormalization, keras.layers.GroupNormalization, keras.layers.LayerNormalization),
    *(keras.layers.RMSNormalization, keras.layers.PReLU),
)


def spatial_rank(layer: keras.Layer) -> int:
    """Returns the number of leading spatial axes of a layer's weights: the rank of a convolution, otherwise 0."""
    convolutions = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, *DEPTHWISE_CONVOLUTIONS, *SEPARABLE_CONVOLUTIONS)
    return layer.rank if isinstance(layer, (*convolutions, *CONVOLUTIONAL_CELLS)) else 0


def is_modified(layer) -> bool:
    """Returns whether LoRA or quantization changes what a layer computes with its kernel."""
    return bool(getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None))
