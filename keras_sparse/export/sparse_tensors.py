"""Stores the constants of a LiteRT model that are mostly zeros as values and indices.

LiteRT reads such a tensor in two ways. A `DENSIFY` in front of the operator makes it dense when the model is loaded:
the file is smaller, inference is as fast as dense. `FULLY_CONNECTED` of version 8 computes with it as it is; older
versions of the operator, which the same bytes may name, take the values for a dense tensor and answer nonsense.
"""

import dataclasses

import numpy as np

from keras_sparse.export.flatbuffer import schema
from keras_sparse.export.what_pays import sparse_dense_pays

_READS_SPARSE = 8  # the first version of FULLY_CONNECTED that does
_OVERHEAD = 400  # bytes that a sparse tensor and its DENSIFY take beside values and indices


@dataclasses.dataclass(frozen=True)
class Stored:
    """How the tensors of a model are stored: names of those that are computed with sparse, or are only stored so.

    Attributes:
        computed: tuple of str.
        densified: tuple of str.
        dense: tuple of str, of those with zeros that stay dense.
    """

    computed: tuple
    densified: tuple
    dense: tuple


def store_sparsely(model) -> Stored:
    """Changes a `ModelT`: what is smaller as values and indices is stored so.

    Integer weights of a dense layer stay as they are: LiteRT cannot load them behind a `DENSIFY`.
    """
    s = schema()
    computed, densified, dense = [], [], []
    for graph in model.subgraphs:
        uses = _uses(model, graph)
        first = []
        for index in sorted(uses):
            tensor = graph.tensors[index]
            array = _constant(model, tensor)
            if array is None or not (array == 0).any():
                continue
            name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
            sparsity, values, size = _sparse(s, array)
            if size + _OVERHEAD >= array.nbytes or not _allowed(s, tensor, uses[index]):
                dense.append(name)
                continue
            buffer = s.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            model.buffers.append(buffer)
            if _pays(s, graph, array, uses[index]):
                tensor.buffer, tensor.sparsity = len(model.buffers) - 1, sparsity
                for _, operator in uses[index]:
                    operator.opcodeIndex = _code(s, model, s.BuiltinOperator.FULLY_CONNECTED, _READS_SPARSE)
                computed.append(name)
            else:
                first.append(_densify(s, model, graph, index, sparsity))
                densified.append(name)
        graph.operators = [*first, *graph.operators]
    _drop_unused(model)
    return Stored(tuple(computed), tuple(densified), tuple(dense))


def _uses(model, graph):
    """Index of a tensor that no operator makes -> list of `(which input, operator)` that use it."""
    made = {int(i) for operator in graph.operators for i in operator.outputs} | {int(i) for i in graph.inputs}
    uses = {}
    for operator in graph.operators:
        for place, index in enumerate(operator.inputs):
            if index >= 0 and int(index) not in made:
                uses.setdefault(int(index), []).append((place, operator))
    for operator in graph.operators:
        operator.kind = _kind(model, operator)
    return uses


def _kind(model, operator):
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _constant(model, tensor):
    """The values of a constant that may be stored sparsely, or None."""
    s = schema()
    kinds = {s.TensorType.FLOAT32: np.float32, s.TensorType.FLOAT16: np.float16, s.TensorType.INT8: np.int8}
    data = model.buffers[tensor.buffer].data
    if tensor.type not in kinds or tensor.sparsity is not None or data is None or tensor.shape is None:
        return None
    if len(tensor.shape) not in (2, 4) or not len(data):
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), kinds[tensor.type]).reshape(tensor.shape)


def _allowed(s, tensor, uses):
    """Whether all operators that use a tensor as weights can read it through a DENSIFY."""
    k = s.BuiltinOperator
    places = {k.FULLY_CONNECTED: 1, k.CONV_2D: 1, k.DEPTHWISE_CONV_2D: 1, k.DEQUANTIZE: 0}
    if tensor.type == s.TensorType.INT8:
        places = {k.CONV_2D: 1, k.DEPTHWISE_CONV_2D: 1}
        zero = tensor.quantization.zeroPoint if tensor.quantization else None
        if zero is not None and np.any(zero):
            return False
    return all(places.get(operator.kind) == place for place, operator in uses)


def _pays(s, graph, array, uses):
    """Whether it is faster to compute with a sparse tensor: only float32 dense layers of few rows can."""
    if array.dtype != np.float32 or any(op.kind != s.BuiltinOperator.FULLY_CONNECTED for _, op in uses):
        return False
    rows = max(_rows(graph.tensors[op.outputs[0]]) for _, op in uses)
    units, inputs = array.shape
    return sparse_dense_pays(inputs, units, np.mean(array == 0), rows)


def _rows(tensor):
    """How many rows a dense layer gives; very many if that is not known before it runs."""
    signature = tensor.shapeSignature
    if signature is not None and -1 in signature:
        return 1 << 30
    return int(np.prod(tensor.shape[:-1]))


def _sparse(s, array):
    """`(SparsityParametersT, values, bytes)`: rows of the last axis as compressed sparse rows."""
    rows = array.reshape(-1, array.shape[-1])
    live = rows != 0
    segments, indices = np.concatenate([[0], np.cumsum(live.sum(1))]), np.nonzero(live)[1]
    result = s.SparsityParametersT()
    result.traversalOrder, result.blockMap, result.dimMetadata = list(range(array.ndim)), [], []
    for size in array.shape[:-1]:
        axis = s.DimensionMetadataT()
        axis.format, axis.denseSize = s.DimensionType.DENSE, int(size)
        result.dimMetadata.append(axis)
    axis = s.DimensionMetadataT()
    axis.format = s.DimensionType.SPARSE_CSR
    axis.arraySegmentsType, axis.arraySegments = _integers(s, segments)
    axis.arrayIndicesType, axis.arrayIndices = _integers(s, indices)
    result.dimMetadata.append(axis)
    values = rows[live]
    return result, values, values.nbytes + axis.arraySegments.values.nbytes + axis.arrayIndices.values.nbytes


def _integers(s, values):
    """The smallest of the format's three kinds of integers that holds all values."""
    kinds = {"Uint8Vector": np.uint8, "Uint16Vector": np.uint16, "Int32Vector": np.int32}
    name, dtype = next(x for x in kinds.items() if values.max(initial=0) <= np.iinfo(x[1]).max)
    vector = getattr(s, f"{name}T")()
    vector.values = values.astype(dtype)
    return getattr(s.SparseIndexVector, name), vector


def _densify(s, model, graph, index, sparsity):
    """The operator that makes a tensor dense; the tensor itself becomes what it makes."""
    dense, sparse = graph.tensors[index], s.TensorT()
    sparse.shape, sparse.type, sparse.hasRank, sparse.name = dense.shape, dense.type, dense.hasRank, dense.name
    sparse.quantization, sparse.sparsity, sparse.buffer = dense.quantization, sparsity, len(model.buffers) - 1
    dense.buffer = 0  # of nothing
    dense.name = (dense.name if isinstance(dense.name, bytes) else dense.name.encode()) + b"/dense"
    graph.tensors.append(sparse)
    operator = s.OperatorT()
    operator.opcodeIndex = _code(s, model, s.BuiltinOperator.DENSIFY, 1)
    operator.inputs, operator.outputs = np.array([len(graph.tensors) - 1], np.int32), np.array([index], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = s.BuiltinOptions.DensifyOptions, s.DensifyOptionsT()
    return operator


def _code(s, model, kind, version):
    """The index of an operator of a version in the model's list, to which it is added if need be."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == kind and code.version == version:
            return index
    code = s.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, kind, version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _drop_unused(model):
    used = {t.buffer for graph in model.subgraphs for t in graph.tensors} | {m.buffer for m in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
