"""Keras layers with a mask over their kernel."""

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
from keras_sparse.layers.traversal import masked_layers

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
]
