"""Keras layers with masked weights."""

from keras_sparse.layers.masked import (
    MASKED,
    MaskedConv1D,
    MaskedConv2D,
    MaskedConv2DTranspose,
    MaskedConv3D,
    MaskedDense,
    MaskedDepthwiseConv2D,
    MaskedEinsumDense,
)
from keras_sparse.layers.traversal import masked_layers, masked_weights

__all__ = [
    "MASKED",
    "MaskedConv1D",
    "MaskedConv2D",
    "MaskedConv2DTranspose",
    "MaskedConv3D",
    "MaskedDense",
    "MaskedDepthwiseConv2D",
    "MaskedEinsumDense",
    "masked_layers",
    "masked_weights",
]
