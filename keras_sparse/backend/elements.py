"""Reads variables as NumPy, and writes single elements of them: what the host does between two training steps."""

import keras
import numpy as np
from keras import ops


def view(variable):
    """A variable as an array for reading, of the backend's own memory where it lends it.

    Good until the variable is next written; copy what has to last, and never write to it.
    """
    resource = _resource(variable)
    if resource is not None:
        import tensorflow as tf

        return np.asarray(tf.raw_ops.ReadVariableOp(resource=resource.handle, dtype=resource.dtype))
    return ops.convert_to_numpy(variable)


def write(positions, *pairs):
    """Writes the same elements of some variables, in place where the backend can.

    Args:
        positions: 1-D int array, flat, without repetitions.
        *pairs: `(variable, values)`: `keras.Variable`s of one shape, and for each a scalar or an array of the shape of
            `positions`.
    """
    if not len(positions):
        return
    indices = None
    for variable, values in pairs:
        resource = _resource(variable)
        # TensorFlow has no scatter of booleans on a GPU.
        if resource is not None and (variable.dtype != "bool" or "GPU" not in resource.device):
            import tensorflow as tf

            if indices is None:
                indices = np.stack(np.unravel_index(positions, variable.shape), axis=1)
            new = np.full(len(positions), values, resource.dtype.as_numpy_dtype)
            tf.raw_ops.ResourceScatterNdUpdate(ref=resource.handle, indices=indices, updates=new)
        elif keras.backend.backend() == "torch":
            new = ops.convert_to_tensor(np.broadcast_to(values, positions.shape).copy(), dtype=variable.dtype)
            variable.value.data.view(-1)[ops.convert_to_tensor(positions)] = new
        else:  # JAX, whose arrays do not change; a variable over several devices
            array = view(variable).copy()
            array.flat[positions] = values
            assign(variable, array)


def assign(variable, value):
    """Sets a whole variable."""
    resource = _resource(variable)
    if resource is None:
        variable.assign(value)
    else:
        import tensorflow as tf

        tf.raw_ops.AssignVariableOp(
            resource=resource.handle, value=np.asarray(value, resource.dtype.as_numpy_dtype), validate_shape=True
        )


def _resource(variable):
    """TensorFlow's variable, if it is one on one device: what its raw operations take.

    The way to them through Keras takes longer than they do.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    value = variable.value
    one = isinstance(value, tf.Variable) and not isinstance(value, tf.distribute.DistributedValues)
    return value if one else None
