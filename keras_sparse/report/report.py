"""Statistics of a masked model: density, parameters, multiply-accumulates, bytes and dead units of each weight."""

import dataclasses
import math

import keras
from keras import ops

from keras_sparse.conversion.trainable_weights import trainable_weights
from keras_sparse.layers.layer_kinds import ELEMENTWISE
from keras_sparse.layers.multiply_accumulates import uses_per_input
from keras_sparse.layers.traversal import check_model, masked_weights
from keras_sparse.report import rendering


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """Statistics of one masked weight. Most masked layers have one.

    Attributes:
        name: str, path of the layer, followed by the name of the weight if the layer has several masked weights.
        shape: tuple of ints, shape of the weight.
        weights: int, the number of entries.
        live: int, the number of live entries.
        macs: int, multiply-accumulates of the live entries for one input; None if they are unknown.
        dense_macs: int, multiply-accumulates of all entries for one input; None if they are unknown.
        dead_inputs: int, the number of input units (channels) without a live weight.
        dead_outputs: int, the number of output units (channels) without a live weight.
        bytes: int, the size of the live weights and of one bit for each mask element.
    """

    name: str
    shape: tuple
    weights: int
    live: int
    macs: int | None
    dense_macs: int | None
    dead_inputs: int
    dead_outputs: int
    bytes: int

    @property
    def density(self) -> float:
        """The live fraction of the weight, in [0, 1]."""
        return self.live / self.weights


@dataclasses.dataclass(frozen=True)
class DenseWeightReport:
    """A trainable weight that is not masked.

    Attributes:
        name: str, path of the layer and name of the weight.
        shape: tuple of ints.
        weights: int, the number of entries.
        macs: int, multiply-accumulates for one input; None if they are unknown.
        reason: str, why the weight is not masked.
    """

    name: str
    shape: tuple
    weights: int
    macs: int | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Report(rendering.Rendered):
    """Statistics of a model: all weights, masked or not, and their totals.

    `print`, `rich.print` and notebooks show tables. `show` uses rich if the output is a terminal. `to_markdown`,
    `to_html`, `to_json` and `to_dict` return other formats.

    Attributes:
        name: str, name of the model.
        layers: tuple of `LayerReport`, the masked weights.
        dense: tuple of `DenseWeightReport`, the trainable weights that are not masked.
        dense_parameters: int, the number of trainable parameters that are not masked, without those of frozen layers.
        bytes: int, size of all trainable parameters, with masked weights stored as in `LayerReport.bytes`.
        dense_bytes: int, size of all trainable parameters, with masked weights stored dense.
    """

    name: str
    layers: tuple
    dense: tuple
    dense_parameters: int
    bytes: int
    dense_bytes: int

    @property
    def sparse_weights(self) -> int:
        """The number of masked weights, live or dead."""
        return sum(x.weights for x in self.layers)

    @property
    def live_weights(self) -> int:
        """The number of live masked weights."""
        return sum(x.live for x in self.layers)

    @property
    def parameters(self) -> int:
        """The number of live masked weights and of trainable parameters that are not masked."""
        return self.live_weights + self.dense_parameters

    @property
    def sparsity(self) -> float:
        """The removed fraction of the masked weights, in [0, 1]; 0 if there are none."""
        return 1 - self.live_weights / self.sparse_weights if self.layers else 0.0

    @property
    def network_sparsity(self) -> float:
        """The removed fraction of all trainable parameters, in [0, 1]."""
        total = self.sparse_weights + self.dense_parameters
        return (self.sparse_weights - self.live_weights) / total if total else 0.0

    @property
    def macs(self) -> int | None:
        """The multiply-accumulates of live and unmasked weights for one input; None if any is unknown."""
        return _sum(x.macs for x in (*self.layers, *self.dense))

    @property
    def dense_macs(self) -> int | None:
        """The multiply-accumulates of all weights, live or dead, for one input; None if any is unknown."""
        return _sum([*(x.dense_macs for x in self.layers), *(x.macs for x in self.dense)])

    def to_dict(self) -> dict:
        """Returns the report as a dict of plain data."""
        sums = ("sparse_weights", "live_weights", "parameters", "sparsity", "network_sparsity", "macs", "dense_macs")
        layers = [{**vars(x), "density": x.density} for x in self.layers]
        dense = [dict(vars(x)) for x in self.dense]
        return {**vars(self), "layers": layers, "dense": dense, **{k: getattr(self, k) for k in sums}}

    def tables(self) -> list[rendering.Table]:
        """Returns the tables of masked and dense weights."""
        return rendering.report_tables(self)


def report(model: keras.Model) -> Report:
    """Returns statistics of a model: density, parameters, multiply-accumulates, bytes and dead units of its weights.

    Args:
        model: built `keras.Model` of any kind, with or without masked layers.

    Returns:
        `Report`, which `print` shows as tables.

    Raises:
        ValueError: if `model` is not a Keras layer or model, or not built.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
    >>> report(sparsify(model, sparsity=0.9)).live_weights
    23820
    """
    check_model(model, "A keras.Model is expected.")
    masked = masked_weights(model)
    if not model.built and not model.weights:
        raise ValueError(
            f"The model {model.name!r} is not built, and has no weights to report. Call it on a batch, or start a "
            "Sequential model with keras.Input(shape)."
        )
    uses = uses_per_input(model)
    known = {id(x.variable) for x in masked}
    others = [w for w in trainable_weights(model) if id(w.variable) not in known]
    rows = tuple(_masked_row(x, uses(x.layer)) for x in masked)
    dense = tuple(DenseWeightReport(w.path, w.shape, w.size, _dense_macs(w, uses), w.dense_reason()) for w in others)
    trained = [v for v in model.trainable_variables if id(v) not in known]
    other_bytes = sum(math.prod(v.shape) * _itemsize(v) for v in trained)
    return Report(
        name=model.name,
        layers=rows,
        dense=dense,
        dense_parameters=sum(math.prod(v.shape) for v in trained),
        bytes=other_bytes + sum(row.bytes for row in rows),
        dense_bytes=other_bytes + sum(r.weights * _itemsize(x.variable) for r, x in zip(rows, masked, strict=True)),
    )


def _masked_row(weight, uses):
    """Returns the `LayerReport` of a masked weight. `uses` is the number of multiply-accumulates of each entry."""
    mask, size, live = weight.mask.numpy(), weight.size, weight.count_live()
    dead_inputs, dead_outputs = weight.units.dead(mask)
    return LayerReport(
        name=weight.path,
        shape=weight.shape,
        weights=size,
        live=live,
        macs=None if uses is None else live * uses,
        dense_macs=None if uses is None else size * uses,
        dead_inputs=dead_inputs,
        dead_outputs=dead_outputs,
        bytes=live * _itemsize(weight.variable) + math.ceil(mask.size / 8),
    )


def _dense_macs(weight, uses):
    """Returns the multiply-accumulates of a weight that is not masked.

    They are 0 for vectors, biases, embeddings, and scales of single numbers, as in normalization.
    """
    if len(weight.shape) < 2 or weight.attribute == "bias":  # Biases of attention have two axes.
        return 0
    if isinstance(weight.layer, ELEMENTWISE):
        return 0
    count = uses(weight.layer)
    return None if count is None else weight.size * count


def _sum(numbers):
    """Returns the sum of numbers, or None if one of them is None."""
    numbers = list(numbers)
    return None if None in numbers else sum(numbers)


def _itemsize(variable):
    """Returns the bytes of one entry of a variable."""
    return ops.convert_to_numpy(ops.zeros((), variable.dtype)).dtype.itemsize
