"""The functions of `keras_sparse.backend` for TensorFlow."""

import copy
from collections.abc import Callable

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.backend import common, default

# Attributes of a `tf.Trackable` that tracks nothing, as TensorFlow makes them at the first use.
_NOTHING_TRACKED = {
    "_self_unconditional_checkpoint_dependencies": [],
    "_self_unconditional_dependency_names": {},
    "_self_unconditional_deferred_dependencies": {},
    "_self_saveable_object_factories": {},
    "_self_name_based_restores": set(),
    "_self_update_uid": -1,
}
DEPENDENCY_ATTRIBUTES = frozenset(_NOTHING_TRACKED)


def read(variable: keras.Variable) -> np.ndarray:
    """Converts a variable to a NumPy array, without a copy if possible.

    The array may share memory with the variable. It is valid until the variable is next written, and must not be
    written to: copy it to keep or change it.
    """
    resource = _resource(variable)
    if resource is None:
        return keras.ops.convert_to_numpy(variable)
    import tensorflow as tf

    return np.asarray(tf.raw_ops.ReadVariableOp(resource=resource.handle, dtype=resource.dtype))


def write_elements(positions: np.ndarray, *writes: tuple) -> None:
    """Writes the same elements of some variables.

    Args:
        positions: 1-D int array of distinct flat positions.
        *writes: tuples `(variable, values)` or `(variable, values, present)`: `keras.Variable`s of one shape; a scalar
            or an array of the shape of `positions`; and the present values, as `read` returns them, if the caller has
            them already.
    """
    if not len(positions):
        return
    for variable, values, *present in writes:
        # The scatter operations of TensorFlow would write in place. But from then on TensorFlow copies the variable
        # whenever it is read, which makes each training step of LeNet slower by 6% with XLA and by 17% without.
        array = present[0] if present else read(variable)
        assign(variable, common.copy_with_elements(array, positions, values))


def assign(variable: keras.Variable, value: np.ndarray) -> None:
    """Assigns an array to a variable."""
    resource = _resource(variable)
    if resource is None:
        variable.assign(value)
        return
    import tensorflow as tf

    new = np.asarray(value, resource.dtype.as_numpy_dtype)
    tf.raw_ops.AssignVariableOp(resource=resource.handle, value=new, validate_shape=True)


def _resource(variable):
    """Returns the `tf.Variable` of a Keras variable if it is on a single device, else None.

    Raw operations on it are used because the overhead of Keras's `assign` exceeds the time of the operations.
    """
    import tensorflow as tf

    value = variable.value
    one = isinstance(value, tf.Variable) and not isinstance(value, tf.distribute.DistributedValues)
    return value if one else None


def can_assign(*variables: keras.Variable) -> bool:
    """Whether variables may be assigned to now: not while a function is traced, nor within a single replica."""
    import tensorflow as tf

    outside = tf.executing_eagerly() and (not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context())
    return outside and not _keras.in_stateless_scope()


def copy_native(value, copied: dict, copy_of: Callable):
    """Copies a `tf.Variable`, or a `tf.function` of something that is copied. Returns any other object unchanged.

    Args:
        value: any object.
        copied: dict from ids to copies.
        copy_of: function from an object to its copy.
    """
    import tensorflow as tf

    if isinstance(value, tf.types.experimental.PolymorphicFunction):
        function = copy_of(value.python_function)
        return value if function is value.python_function else value._clone(function)
    if not isinstance(value, tf.Variable):
        return value
    return tf.Variable(value, trainable=value.trainable, name=value.name.split(":")[0])


def where(condition, x, fill: float):
    """Returns the values of `x` where a condition is true, and a number elsewhere; see `default.where`."""
    import tensorflow as tf

    if condition.shape != x.shape:
        return default.where(condition, x, fill)
    # This operation does not broadcast. Unless XLA compiles the step, it and its gradient take half the time of
    # `tf.where`, which does.
    other = tf.fill(x.shape, tf.cast(fill, x.dtype))
    return tf.raw_ops.Select(condition=tf.cast(condition, "bool"), x=x, y=other)


def with_gradient(weights, mask, gradient: Callable):
    """Returns `weights` with another gradient; see `jax.with_gradient`."""
    import tensorflow as tf

    @tf.custom_gradient
    def identity(x):
        def masked(upstream):
            # The gradient of an embedding is `tf.IndexedSlices`, and that of some products has no static shape.
            return gradient(mask, tf.ensure_shape(tf.convert_to_tensor(upstream), x.shape))

        return tf.identity(x), masked

    mask = tf.convert_to_tensor(mask)
    return identity(tf.convert_to_tensor(weights))  # `ops.convert_to_tensor` returns Keras variables as they are.


def copy_dependencies(layer: keras.Layer, new: keras.Layer, names_left_out: set[str]) -> None:
    """Makes TensorFlow track the attributes of a copied layer that it tracks in the original.

    `tf.train.Checkpoint` and SavedModels contain what is tracked: attributes that were set by `setattr`.

    Args:
        layer: `keras.Layer`.
        new: its copy, whose attributes are copied already.
        names_left_out: set of the names of attributes that the copy does not have.
    """
    import tensorflow as tf

    for name, empty in _NOTHING_TRACKED.items():
        object.__setattr__(new, name, copy.copy(empty))
    # TensorFlow adds the list with the first attribute that it tracks.
    for name in [x.name for x in getattr(layer, "_self_unconditional_checkpoint_dependencies", ())]:
        if name in vars(new) and name not in names_left_out:
            value = vars(new).pop(name)
            tf.__internal__.tracking.AutoTrackable.__setattr__(new, name, value)


def copies(variable: keras.Variable) -> list[tuple]:
    """Returns the copies of a variable, or of its parts, on all devices.

    Returns:
        List of `(part, array)`, one for each device. `part` is a tuple with `(start, stop)` for each axis, or None for
        the whole variable. `array` is None if the device belongs to another process.
    """
    value = variable.value
    if hasattr(value, "values") and not callable(value.values):
        return [(None, v.numpy()) for v in value.values]
    return [(None, read(variable))]


def compiled(function: Callable) -> Callable:
    """Compiles a pure function of arrays."""
    import tensorflow as tf

    return tf.function(function, autograph=False)


def hook_train_step(
    model: keras.Model,
    train_step: Callable,
    action: Callable,
    variables: list[list[keras.Variable]],
    carried: list[keras.Variable],
    settings: keras.Variable,
) -> Callable:
    """Makes a `train_step` that calls a function on some variables right after the optimizer's step.

    Args:
        model: compiled `keras.Model`.
        train_step: bound method, the `train_step` of the model.
        action: pure function `(step, rate, settings, values, carried) -> (values, carried)`.
        variables: list of lists of `keras.Variable`s, whose values `action` gets and returns as `values`.
        carried: list of `keras.Variable`s, the state of `action` from step to step, which it gets and returns, too.
        settings: `keras.Variable`, whose value `action` gets.

    Returns:
        Function with the arguments and results of `train_step`.
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
        # Mirrored variables must change on all replicas in the same way: `merge_call` makes one call for all of them.
        tf.distribute.get_replica_context().merge_call(on_all_replicas, args=(before,))
        return logs

    return hooked


def train_and_keep_batch(model: keras.Model, train_function: Callable, count: int, keep: Callable, iterator):
    """Trains on the batches of one execution, and passes the last batch to `keep`.

    Args:
        model: compiled `keras.Model`, in `fit`.
        train_function: the train function of the model.
        count: int, the number of batches in the execution.
        keep: function that gets the last batch.
        iterator: iterator over batches, which Keras passes to the train function.

    Returns:
        The result of the train function.
    """
    outputs = None
    if count > 1:
        outputs = _train_on(model, count - 1, iterator)
    try:
        last = next(iterator)
    except StopIteration:
        if outputs is None:
            raise
        return outputs  # The data ended before the last batch of the execution.
    keep(keras.tree.map_structure(_of_all_replicas, last))
    return train_function(iter([last]))


def _train_on(model, steps, iterator):
    """Trains on fewer batches than an execution has, in one compiled loop.

    The loop is cached on the train function, since Keras compiles a loop for a fixed number of steps.
    """
    usual_function, usual_steps = model.train_function, model.steps_per_execution
    made = usual_function.__dict__.setdefault("shorter", {})
    model.steps_per_execution = steps  # Keras reads it when it traces the train function.
    try:
        if steps not in made:
            model.make_train_function(force=True)
            made[steps], model.train_function = model.train_function, usual_function
        return made[steps](iterator)
    finally:
        model.steps_per_execution = usual_steps


def _of_all_replicas(x):
    """Concatenates the parts of a batch that are distributed over replicas. Returns None for an Optional.

    Keras encodes None from a generator so, and decodes it in the training step.
    """
    import tensorflow as tf

    if isinstance(x, tf.experimental.Optional):
        return None
    return tf.concat(x.values, axis=0) if isinstance(x, tf.distribute.DistributedValues) else x


def dense_gradients(
    model: keras.Model, kernels: list[keras.Variable], masks: list[keras.Variable], masked_kernels: Callable
) -> Callable:
    """Makes a function that computes the gradient of the training loss with respect to the dense kernels.

    The gradient is taken at the masked kernels, with all masks set to live: so dead weights are 0, and have a gradient.

    Args:
        model: compiled `keras.Model`.
        kernels: list of `keras.Variable`s.
        masks: list of `keras.Variable`s, the masks of the kernels.
        masked_kernels: function without arguments that returns the kernels with dead weights 0.

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
