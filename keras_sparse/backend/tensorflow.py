"""TensorFlow."""

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.backend import common


def read(variable):
    """A variable as an array for reading, of TensorFlow's own memory where it lends it.

    Good until the variable is next written; copy what has to last, and never write to it.
    """
    resource = _resource(variable)
    if resource is None:
        return keras.ops.convert_to_numpy(variable)
    import tensorflow as tf

    return np.asarray(tf.raw_ops.ReadVariableOp(resource=resource.handle, dtype=resource.dtype))


def to_numpy(value):
    """A tensor as an array."""
    return keras.ops.convert_to_numpy(value)


def write_elements(positions, *pairs):
    """Writes the same elements of some variables, in place where possible.

    Args:
        positions: 1-D int array, flat, without repetitions.
        *pairs: `(variable, values)`: `keras.Variable`s of one shape, and for each a scalar or an array of the shape of
            `positions`.
    """
    if not len(positions):
        return
    import tensorflow as tf

    indices = None
    for variable, values in pairs:
        resource = _resource(variable)
        # There is no scatter of bytes on a GPU.
        if resource is None or (variable.dtype == "uint8" and "GPU" in resource.device):
            array = read(variable).copy()
            array.flat[positions] = values
            assign(variable, array)
            continue
        if indices is None:
            indices = np.stack(np.unravel_index(positions, variable.shape), axis=1)
        new = np.full(len(positions), values, resource.dtype.as_numpy_dtype)
        tf.raw_ops.ResourceScatterNdUpdate(ref=resource.handle, indices=indices, updates=new)


def assign(variable, value):
    """Sets a whole variable to an array."""
    resource = _resource(variable)
    if resource is None:
        variable.assign(value)
        return
    import tensorflow as tf

    new = np.asarray(value, resource.dtype.as_numpy_dtype)
    tf.raw_ops.AssignVariableOp(resource=resource.handle, value=new, validate_shape=True)


def _resource(variable):
    """TensorFlow's variable, if it is one on one device: what its raw operations take.

    The way to them through Keras takes longer than they do.
    """
    import tensorflow as tf

    value = variable.value
    one = isinstance(value, tf.Variable) and not isinstance(value, tf.distribute.DistributedValues)
    return value if one else None


def can_assign(*variables):
    """Whether variables may be assigned to here and now: not while a function is traced, nor on one replica only."""
    import tensorflow as tf

    outside = tf.executing_eagerly() and (not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context())
    return outside and not _keras.in_stateless_scope()


def copy_native(value):
    """A copy of an object of TensorFlow that has a state which training changes, else the object itself."""
    import tensorflow as tf

    if not isinstance(value, tf.Variable):
        return value
    return tf.Variable(value, trainable=value.trainable, name=value.name.split(":")[0])


def layout_of(variable):
    """None: there is no `keras.distribution` here."""


def copies(variable):
    """What each device holds of a variable.

    Returns:
        List of `(part, array)`. The part is a tuple with `(start, stop)` for each axis; None for all of the variable.
        The array is None where another process has it.
    """
    value = variable.value
    if hasattr(value, "values") and not callable(value.values):
        return [(None, v.numpy()) for v in value.values]
    return [(None, read(variable))]


def of_all_processes(*arrays):
    """Some 1-D arrays with those of the other processes, of which there are none: shape `(size, 1)`."""
    return [a[:, None] for a in arrays]


def refresh_held_state(model):
    """Nothing: `fit` holds no copy of the variables."""


def is_native_optimizer(optimizer):
    """Whether an object is an optimizer of the backend that trains Keras's variables without Keras: none is."""
    return False


def native_slots(optimizer, variable):
    """The state that such an optimizer keeps of one variable: none."""
    return []


def compiled(function):
    """A pure function of arrays, compiled."""
    import tensorflow as tf

    return tf.function(function, autograph=False)


def hook_train_step(model, train_step, action, variables, carried, settings):
    """A `train_step` that lets a function act on variables right after the optimizer's step.

    Args:
        model: compiled `keras.Model`.
        train_step: the model's, bound.
        action: pure function `(step, rate, settings, values, carried) -> (values, carried)`.
        variables: list of lists of the `keras.Variable`s whose values it gets and changes.
        carried: list of `keras.Variable`s, likewise.
        settings: `keras.Variable` whose value it gets.
    """
    import tensorflow as tf

    def on_replica(settings, step, rate, before, variables, carried):
        values = common.tensors((settings, variables, carried))
        common.assign_all((variables, carried), common.guarded(action, before, step, rate, *values))

    def on_all_replicas(strategy, before):
        before = before if before is None else strategy.experimental_local_results(before)[0]
        step, rate = common.step_and_rate(model.optimizer)
        native = keras.tree.map_structure(lambda v: v.value, (variables, carried))
        strategy.extended.update(settings.value, on_replica, args=(step, rate, before, *native), group=False)

    def hooked(data):
        before = common.step_before(model.optimizer)
        logs = train_step(data)
        # Mirrored variables must change alike: by one call for all replicas.
        tf.distribute.get_replica_context().merge_call(on_all_replicas, args=(before,))
        return logs

    return hooked


def train_and_keep_batch(model, train_function, count, keep, iterator):
    """Trains on the batches of one execution, and hands the last one to `keep`.

    Args:
        model: compiled `keras.Model`, in `fit`.
        train_function: the model's.
        count: int, how many batches the execution has.
        keep: function of a batch.
        iterator: what Keras gives to the train function.

    Returns:
        What the train function returns.
    """
    outputs = None
    if count > 1:
        outputs = _train_on(model, count - 1, iterator)
    try:
        last = next(iterator)
    except StopIteration:
        if outputs is None:
            raise
        return outputs  # The epoch was shorter than Keras knew.
    keep(keras.tree.map_structure(_of_all_replicas, last))
    return train_function(iter([last]))


def _train_on(model, steps, iterator):
    """Trains on fewer batches than an execution has, in one compiled loop, made once for a train function."""
    usual_function, usual_steps = model.train_function, model.steps_per_execution
    made = usual_function.__dict__.setdefault("shorter", {})
    model.steps_per_execution = steps  # Keras reads it when it traces.
    try:
        if steps not in made:
            model.make_train_function(force=True)
            made[steps], model.train_function = model.train_function, usual_function
        return made[steps](iterator)
    finally:
        model.steps_per_execution = usual_steps


def _of_all_replicas(x):
    import tensorflow as tf

    return tf.concat(x.values, axis=0) if isinstance(x, tf.distribute.DistributedValues) else x


def dense_gradients(model, kernels, masks, masked_kernels):
    """Makes a function from a batch to the gradient of the training loss by kernels whose masks are all live.

    Args:
        model: compiled `keras.Model`.
        kernels: list of `keras.Variable`s.
        masks: list of their masks' `keras.Variable`s.
        masked_kernels: function that returns the list of kernels, dead weights 0.

    Returns:
        Function `(x, y, sample_weight) -> list of tensors` of the kernels' shapes.
    """
    import tensorflow as tf

    @tf.function(jit_compile=model.jit_compile, reduce_retracing=True)
    def compute(*batch):
        values = masked_kernels()
        with tf.GradientTape() as tape:
            tape.watch(values)
            mapping = [*common.current_values(model), *common.with_all_live(kernels, masks, values)]
            total = common.training_loss(model, mapping, *batch)
        return tape.gradient(total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return compute
