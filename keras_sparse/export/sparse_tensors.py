"""Stores constants of a LiteRT model that are mostly zeros in the compressed sparse row format.

LiteRT can read a sparse tensor in two ways:

- The operator `DENSIFY` makes the tensor dense when the model is loaded. The file is smaller, inference takes as long
  as with a dense tensor.
- `FULLY_CONNECTED` of version 8 and later computes with the sparse tensor. Older versions of this operator would read
  its values as a dense tensor and return wrong numbers without an error, so that the version must be set.
"""

import dataclasses

import numpy as np

from keras_sparse.export.flatbuffer import schema
from keras_sparse.export.sparse_benefit import sparse_is_faster, sparse_is_smaller

_SPARSE_FULLY_CONNECTED_VERSION = 8  # the first version of FULLY_CONNECTED that reads sparse weights


@dataclasses.dataclass(frozen=True)
class TensorStorage:
    """The names of the constants with zeros, by how they are stored.

    Attributes:
        computed_sparse: tuple of str, stored sparse; operators compute with the live weights only.
        densified: tuple of str, stored sparse, and made dense when the model is loaded.
        dense: tuple of str, stored dense.
    """

    computed_sparse: tuple
    densified: tuple
    dense: tuple


def store_sparse(model) -> TensorStorage:
    """Stores those constants of a model sparse that are smaller in this way.

    Integer weights of dense layers stay dense, since LiteRT cannot load them through `DENSIFY`.

    Args:
        model: `ModelT`, which is changed.

    Returns:
        `TensorStorage`.
    """
    s = schema()
    computed_sparse, densified, dense = [], [], []
    for operator in (operator for graph in model.subgraphs for operator in graph.operators):
        operator.kind = _operator_kind(model, operator)  # an attribute of ours, which is not written to the file
    for graph in model.subgraphs:
        consumers, computed = _consumers(graph)
        densify_operators = []
        for index in sorted(consumers):
            tensor = graph.tensors[index]
            array = _constant_values(model, tensor)
            if array is None or not (array == 0).any():
                continue
            name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
            rows, row_length = array.size // array.shape[-1], array.shape[-1]
            smaller = sparse_is_smaller(np.count_nonzero(array), rows, row_length, array.itemsize)
            if not smaller or not _can_be_densified(s, tensor, consumers[index], computed):
                dense.append(name)
                continue
            sparsity, values = _compressed_sparse_rows(s, array)
            buffer = s.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            model.buffers.append(buffer)
            if _is_faster_sparse(s, graph, array, consumers[index]):
                tensor.buffer, tensor.sparsity = len(model.buffers) - 1, sparsity
                for _, operator in consumers[index]:
                    operator.opcodeIndex = _opcode_index(
                        s, model, s.BuiltinOperator.FULLY_CONNECTED, _SPARSE_FULLY_CONNECTED_VERSION
                    )
                computed_sparse.append(name)
            else:
                densify_operators.append(_densify_operator(s, model, graph, index, sparsity))
                densified.append(name)
        # Operators run in the order of the list.
        graph.operators = [*densify_operators, *graph.operators]
    _clear_unused_buffers(model)
    return TensorStorage(tuple(computed_sparse), tuple(densified), tuple(dense))


def _consumers(graph):
    """Returns the operators that use each constant and each computed tensor.

    Returns:
        Two dicts from the index of a tensor to a list of `(input number, operator)`.
    """
    made = {int(i) for operator in graph.operators for i in operator.outputs} | {int(i) for i in graph.inputs}
    constants, computed = {}, {}
    for operator in graph.operators:
        for place, index in enumerate(operator.inputs):
            if index >= 0:  # -1 stands for an optional input that is left out.
                uses = computed if int(index) in made else constants
                uses.setdefault(int(index), []).append((place, operator))
    return constants, computed


def _operator_kind(model, operator):
    """Returns the `BuiltinOperator` of an operator.

    Old files store it as `deprecatedBuiltinCode`, one byte, and leave `builtinCode` at 0.
    """
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _constant_values(model, tensor):
    """Returns the values of a constant as an array, or None if it cannot be stored sparse."""
    s = schema()
    dtypes = {s.TensorType.FLOAT32: np.float32, s.TensorType.FLOAT16: np.float16, s.TensorType.INT8: np.int8}
    data = model.buffers[tensor.buffer].data
    if tensor.type not in dtypes or tensor.sparsity is not None or data is None or tensor.shape is None:
        return None
    if len(tensor.shape) not in (2, 4) or not len(data):
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtypes[tensor.type]).reshape(tensor.shape)


def _can_be_densified(s, tensor, consumers, computed):
    """Returns whether all operators that use a tensor use it as weights, and can read it through `DENSIFY`."""
    k = s.BuiltinOperator
    weight_inputs = {k.FULLY_CONNECTED: 1, k.CONV_2D: 1, k.DEPTHWISE_CONV_2D: 1}
    if tensor.type == s.TensorType.FLOAT16:
        # DEQUANTIZE converts it to float32. Other operators than these, such as GATHER, get wrong numbers after both.
        if any(operator.kind != k.DEQUANTIZE for _, operator in consumers):
            return False
        consumers = [use for _, operator in consumers for use in computed.get(int(operator.outputs[0]), [])]
    if tensor.type == s.TensorType.INT8:
        weight_inputs = {k.CONV_2D: 1, k.DEPTHWISE_CONV_2D: 1}
        zero_point = tensor.quantization.zeroPoint if tensor.quantization else None
        # DENSIFY fills in the integer 0, which stands for 0.0 only if the zero point is 0.
        if zero_point is not None and np.any(zero_point):
            return False
    return all(weight_inputs.get(operator.kind) == place for place, operator in consumers)


def _is_faster_sparse(s, graph, array, consumers):
    """Returns whether computing with a sparse tensor is faster: only in float32 dense layers with few rows."""
    if array.dtype != np.float32 or any(op.kind != s.BuiltinOperator.FULLY_CONNECTED for _, op in consumers):
        return False
    rows = max(_row_count(graph.tensors[op.outputs[0]]) for _, op in consumers)
    units, inputs = array.shape
    return sparse_is_faster(inputs, units, np.mean(array == 0), rows)


def _row_count(tensor):
    """Returns the number of rows of a dense layer's output, and a very large one if a size is not fixed."""
    signature = tensor.shapeSignature
    if signature is not None and -1 in signature:
        return 1 << 30
    return int(np.prod(tensor.shape[:-1]))


def _compressed_sparse_rows(s, array):
    """Encodes an array in the compressed sparse row format.

    All axes but the last are stored dense. Along the last axis, only nonzero values are stored: the index of each one
    (`arrayIndices`), and the number of values before each row (`arraySegments`).

    Returns:
        `(SparsityParametersT, values)`.
    """
    rows = array.reshape(-1, array.shape[-1])
    live = rows != 0
    segments, indices = np.concatenate([[0], np.cumsum(live.sum(1))]), np.nonzero(live)[1]
    sparsity = s.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap, sparsity.dimMetadata = list(range(array.ndim)), [], []
    for size in array.shape[:-1]:
        axis = s.DimensionMetadataT()
        axis.format, axis.denseSize = s.DimensionType.DENSE, int(size)
        sparsity.dimMetadata.append(axis)
    axis = s.DimensionMetadataT()
    axis.format = s.DimensionType.SPARSE_CSR
    axis.arraySegmentsType, axis.arraySegments = _index_vector(s, segments)
    axis.arrayIndicesType, axis.arrayIndices = _index_vector(s, indices)
    sparsity.dimMetadata.append(axis)
    return sparsity, rows[live]


def _index_vector(s, values):
    """Returns `(type, vector)` of integers, with the smallest of the format's three integer types that fits."""
    dtypes = {"Uint8Vector": np.uint8, "Uint16Vector": np.uint16, "Int32Vector": np.int32}
    name, dtype = next(x for x in dtypes.items() if values.max(initial=0) <= np.iinfo(x[1]).max)
    vector = getattr(s, f"{name}T")()
    vector.values = values.astype(dtype)
    return getattr(s.SparseIndexVector, name), vector


def _densify_operator(s, model, graph, index, sparsity):
    """Returns the operator that makes a tensor dense.

    Its input is a new, sparse tensor, whose values are in the last buffer of the model. Its output is the tensor with
    the given index, which is not a constant any more: the operators that use it need not change.
    """
    dense, sparse = graph.tensors[index], s.TensorT()
    sparse.shape, sparse.type, sparse.hasRank, sparse.name = dense.shape, dense.type, dense.hasRank, dense.name
    sparse.quantization, sparse.sparsity, sparse.buffer = dense.quantization, sparsity, len(model.buffers) - 1
    dense.buffer = 0  # Buffer 0 is always empty: that of tensors that are computed.
    dense.name = (dense.name if isinstance(dense.name, bytes) else dense.name.encode()) + b"/dense"
    graph.tensors.append(sparse)
    operator = s.OperatorT()
    operator.opcodeIndex = _opcode_index(s, model, s.BuiltinOperator.DENSIFY, 1)
    operator.inputs, operator.outputs = np.array([len(graph.tensors) - 1], np.int32), np.array([index], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = s.BuiltinOptions.DensifyOptions, s.DensifyOptionsT()
    return operator


def _opcode_index(s, model, kind, version):
    """Returns the index of a kind and version of operator in the model's list, and adds it there if it is missing."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == kind and code.version == version:
            return index
    code = s.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, kind, version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _clear_unused_buffers(model):
    """Clears the buffers of dense values that no tensor uses now. They stay in the list, whose indices are used."""
    used = {t.buffer for graph in model.subgraphs for t in graph.tensors} | {m.buffer for m in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
