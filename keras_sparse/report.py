"""What a sparse model is made of: per layer density, parameters, multiply-accumulates, bytes, dead units."""

import dataclasses
import math

import keras
from keras import ops

from keras_sparse.layers.traversal import built_masked_layers
from keras_sparse.layers.units import units_of


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One masked layer.

    Attributes:
        name: path of the layer.
        shape: shape of the kernel.
        weights: number of weights of the kernel.
        live: how many of them are live.
        macs: multiply-accumulates of the live weights for one input of one call; None where an output axis has no
            fixed size.
        dense_macs: the same for all weights.
        dead_inputs: input units (channels) without a live weight into the layer.
        dead_units: output units (channels) without a live weight.
    """

    name: str
    shape: tuple
    weights: int
    live: int
    macs: int | None
    dense_macs: int | None
    dead_inputs: int
    dead_units: int

    @property
    def density(self):
        """Fraction of the weights that is live."""
        return self.live / self.weights


@dataclasses.dataclass(frozen=True)
class Report:
    """All masked layers of a model, and the model's sums; printing it gives a table.

    Attributes:
        name: of the model.
        layers: tuple of `LayerReport`.
        dense_parameters: trainable parameters that are not in a masked kernel.
        bytes: of all parameters, masked kernels stored as their live values and a bit a weight for the mask.
        dense_bytes: of all parameters, masked kernels stored dense.
    """

    name: str
    layers: tuple
    dense_parameters: int
    bytes: int
    dense_bytes: int

    @property
    def sparse_weights(self):
        """Weights in masked kernels, live or dead."""
        return sum(x.weights for x in self.layers)

    @property
    def live_weights(self):
        """Live weights in masked kernels."""
        return sum(x.live for x in self.layers)

    @property
    def parameters(self):
        """Trainable parameters that count: the live weights and all that is not masked."""
        return self.live_weights + self.dense_parameters

    @property
    def sparsity(self):
        """Removed fraction of the masked kernels; 0 without any."""
        return 1 - self.live_weights / self.sparse_weights if self.layers else 0.0

    def to_dict(self):
        """The report as plain data."""
        sums = ("sparse_weights", "live_weights", "parameters", "sparsity")
        layers = [{**vars(x), "density": x.density} for x in self.layers]
        return {**vars(self), "layers": layers, **{k: getattr(self, k) for k in sums}}

    def __str__(self):
        head = ("layer", "kernel", "weights", "live", "density", "MACs", "dead in", "dead out")
        rows = [
            (
                x.name,
                "x".join(map(str, x.shape)),
                f"{x.weights:,}",
                f"{x.live:,}",
                f"{x.density:.4f}",
                "?" if x.macs is None else f"{x.macs:,}",
                f"{x.dead_inputs:,}",
                f"{x.dead_units:,}",
            )
            for x in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in (head, *rows)
        ]
        return "\n".join(
            [
                *lines,
                f"{self.name}: {self.live_weights:,} of {self.sparse_weights:,} weights live, sparsity "
                f"{self.sparsity:.4f}; {self.parameters:,} parameters with the dense ones; "
                f"{self.bytes / 1024:,.1f} KiB stored sparse, {self.dense_bytes / 1024:,.1f} KiB dense",
            ]
        )


def report(model):
    """What the masked layers of a model are made of, and what they cost.

    Args:
        model: a built `keras.Model` of any kind. Without masked layers the report has only sums.

    Returns:
        `Report`.

    Raises:
        ValueError: if it is no model, or not built.
    """
    layers = built_masked_layers(model)
    kernels = {id(x.kernel_variable) for x in layers}
    others = [v for v in model.trainable_variables if id(v) not in kernels]
    dense_parameters = sum(math.prod(v.shape) for v in others)
    rows = tuple(_layer(x) for x in layers)
    other_bytes = sum(math.prod(v.shape) * _itemsize(v) for v in others)
    sparse = dense = other_bytes
    for row, layer in zip(rows, layers, strict=True):
        size = _itemsize(layer.kernel_variable)
        sparse += row.live * size + math.ceil(math.prod(layer.kernel_mask.value.shape) / 8)
        dense += row.weights * size
    return Report(model.name, rows, dense_parameters, sparse, dense)


def _layer(layer):
    kernel = tuple(layer.kernel_variable.shape)
    mask = layer.kernel_mask.numpy()
    unit = math.prod(kernel) // mask.size
    live = int(mask.sum()) * unit
    positions = _positions(layer)
    dead_inputs, dead_units = units_of(layer, kernel).dead(mask)
    return LayerReport(
        name=layer.path,
        shape=kernel,
        weights=math.prod(kernel),
        live=live,
        macs=None if positions is None else live * positions,
        dense_macs=None if positions is None else math.prod(kernel) * positions,
        dead_inputs=dead_inputs,
        dead_units=dead_units,
    )


def _positions(layer):
    """How often a call uses each weight for one input: once a position of the output (of the input if transposed)."""
    shape = layer.get_build_config()["input_shape"]
    if isinstance(layer, keras.layers.EinsumDense):
        letters, kernel = layer.equation.split("->")[0].split(",")
        ellipsis = "." * (len(shape) - len(letters.replace("...", "")))  # a dot an axis
        letters = letters.replace("...", ellipsis)
        axes = [n for n, letter in zip(shape, letters, strict=True) if letter not in kernel][1:]
    else:
        if not isinstance(layer, keras.layers.Conv2DTranspose):
            shape = layer.compute_output_shape(shape)
        axes = shape[2:] if getattr(layer, "data_format", None) == "channels_first" else shape[1:-1]
    return None if None in axes else math.prod(axes)


def _itemsize(variable):
    return ops.convert_to_numpy(ops.zeros((), variable.dtype)).dtype.itemsize
