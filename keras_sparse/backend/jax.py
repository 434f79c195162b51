"""The functions of `keras_sparse.backend` for JAX."""

import itertools
from collections.abc import Callable

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.backend import common


def read(variable: keras.Variable) -> np.ndarray:
    """Converts a variable to a NumPy array. The array is read-only: copy it to write. See `to_numpy`."""
    return to_numpy(variable.value)


def to_numpy(value) -> np.ndarray:
    """Converts a tensor to a NumPy array.

    If the parts of the tensor are held by several processes, they are gathered, and every process has to call this.
    """
    if getattr(value, "is_fully_addressable", True) or value.is_fully_replicated:
        # `convert_to_numpy` copies all types; it is needed for bfloat16, which NumPy does not have.
        return keras.ops.convert_to_numpy(value) if value.dtype == "bfloat16" else np.asarray(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


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
    import jax

    arrays = [
        common.copy_with_elements(present[0] if present else read(variable), positions, values)
        for variable, values, *present in writes
    ]
    # One call for all variables, since a call takes longer than the copy.
    for (variable, *_), value in zip(writes, jax.device_put(arrays), strict=True):
        variable.assign(value)


def can_assign(*variables: keras.Variable) -> bool:
    """Whether variables may be assigned to now: not while a function is traced, nor while `fit` holds their values."""
    import jax
    import jax.numpy as jnp

    values = [_keras.held_value(v) for v in variables]
    # During an epoch `fit` has no value in the variables, and a compiled step may have donated the memory of its
    # arguments to its results.
    if _keras.in_stateless_scope() or any(x is None or x.is_deleted() for x in values):
        return False
    return not isinstance(jnp.zeros(()), jax.core.Tracer)


def layout_of(variable):
    """Returns the `keras.distribution.TensorLayout` of a variable, or None.

    A variable without a value has none yet: the active distribution tells which one it will get.
    """
    layout, distribution = _keras.layout_of(variable), keras.distribution.distribution()
    if layout is None and distribution is not None:
        layout = distribution.get_variable_layout(variable)
    return layout if isinstance(layout, keras.distribution.TensorLayout) else None


def copies(variable: keras.Variable) -> list[tuple]:
    """Returns the copies of a variable, or of its parts, on all devices.

    Returns:
        List of `(part, array)`, one for each device. `part` is a tuple with `(start, stop)` for each axis, or None for
        the whole variable. `array` is None if the device belongs to another process.
    """
    import jax.numpy as jnp

    # A copy on the devices first, since not every array that results from a computation can be split into shards.
    value = jnp.copy(variable.value)
    mine = {s.device: s.data for s in value.addressable_shards}  # the devices of this process
    parts = value.sharding.devices_indices_map(value.shape)
    return [
        (
            tuple(s.indices(n)[:2] for s, n in zip(parts[device], value.shape, strict=True)),
            np.asarray(mine[device]) if device in mine else None,
        )
        for device in sorted(parts, key=lambda d: d.id)  # the same order in all processes
    ]


def of_all_processes(*arrays: np.ndarray) -> list[np.ndarray]:
    """Gathers 1-D arrays from all processes of a `jax.distributed` cluster: arrays of shape `(size, processes)`."""
    import jax

    if jax.process_count() == 1:
        return [a[:, None] for a in arrays]
    from jax.experimental import multihost_utils

    return [np.asarray(a).T for a in multihost_utils.process_allgather(arrays)]


def refresh_held_state(model: keras.Model) -> None:
    """Copies the values of the variables to the state that `fit` holds.

    If the length of an epoch is unknown, `fit` reads the variables for one more step before it notices the end of the
    data. It then restores the variables from the state of the step before, and what a callback has written in between
    would be lost.
    """
    _keras.refresh_held_state(model)


def compiled(function: Callable) -> Callable:
    """Compiles a pure function of arrays."""
    import jax

    return jax.jit(function)


def with_gradient(weights, mask, gradient: Callable):
    """Returns `weights`, whose gradient is a function of the gradient of what is returned.

    Args:
        weights: float tensor.
        mask: tensor, the first argument of the function.
        gradient: function `(mask, upstream) -> tensor` of the shape of `weights`.
    """
    import jax

    # The mask is an argument, since JAX may call the functions after the trace of what surrounds them.
    @jax.custom_vjp
    def identity(x, mask):
        return x

    identity.defvjp(lambda x, mask: (x, mask), lambda mask, upstream: (gradient(mask, upstream), None))
    return identity(weights, mask)


def hook_train_step(
    model: keras.Model,
    train_step: Callable,
    action: Callable,
    variables: list[list[keras.Variable]],
    carried: list[keras.Variable],
    settings: keras.Variable,
) -> Callable:
    """Makes a `train_step` that calls a function on some variables right after the optimizer's step.

    On JAX, `train_step` gets and returns the whole state: the lists of the trainable, non-trainable, optimizer and
    metrics variables' values. All variables that `action` uses must be among these, since a compiled function keeps
    the values of all other variables as constants.

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
    if not model.jit_compile or model.run_eagerly:
        action = compiled(action)  # Otherwise JAX would compile the loops inside `action` at every call.

    def hooked(state, data):
        optimizer = model.optimizer
        # 1. Read the optimizer's step before the batch. In the scope, variables have the values of `state`.
        with keras.StatelessScope(list(zip(optimizer.variables, state[2], strict=True))):
            before = common.step_before(optimizer)
        # 2. Run the training step.
        logs, state = train_step(state, data)
        # 3. Pair all variables with their new values, in the order of `state`.
        kinds = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
            model.metrics_variables,
        )
        values = [pair for kind in zip(kinds, state, strict=True) for pair in zip(*kind, strict=True)]
        # 4. Call `action` if the batch made a step. In the scope, `assign` changes the values of the scope, not those
        #    of the variables themselves.
        with keras.StatelessScope(values) as scope:
            step, rate = common.step_and_rate(optimizer)
            given = common.tensors((settings, variables, carried))
            common.assign_all((variables, carried), common.guarded(action, before, step, rate, *given))
        # 5. Return the state with the values that `action` has assigned.
        return logs, tuple([scope.get_current_value(v) for v in kind] for kind in kinds)

    return hooked


def train_and_keep_batch(model: keras.Model, train_function: Callable, count: int, keep: Callable, state, iterator):
    """Trains on the batches of one execution, and passes the last batch to `keep`.

    Args:
        model: compiled `keras.Model`, in `fit`.
        train_function: the train function of the model.
        count: int, the number of batches in the execution.
        keep: function that gets the last batch.
        state: list of lists of arrays, which Keras passes to the train function.
        iterator: iterator over batches, which Keras passes to the train function.

    Returns:
        The result of the train function.
    """
    if _keras.SUPER_BATCHES and model.steps_per_execution > 1:
        batches = list(itertools.islice(iterator, 1))  # one item with all batches of the execution
        if batches:
            keep(_keras.last_of_super_batch(batches[0]))
    else:
        batches = list(itertools.islice(iterator, count))
        if batches:
            keep(batches[-1])
    return train_function(state, iter(batches))


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
        Function `(x, y, sample_weight) -> list of arrays` of the kernels' shapes.
    """
    import jax
    import jax.numpy as jnp

    variables = list({id(v): v for v in [*model.variables, *model.optimizer.variables]}.values())

    @jax.jit
    def gradient(state, *batch):
        # All values are arguments: those of variables that the function only refers to would be compiled as constants.
        others = list(zip(variables, state, strict=True))
        with keras.StatelessScope(others):
            values = masked_kernels()

        def loss(values):
            mapping = [*others, *common.with_all_live(kernels, masks, values)]
            return common.training_loss(model, mapping, *batch)

        if all(v.regularizer is None for v in kernels):
            return jax.grad(loss)(values)
        # JAX takes 1 for the derivative of |w| at 0, as in an L1 regularizer: take the mean of both sides.
        beside = ([v + (v == 0) * jnp.asarray(side, v.dtype) for v in values] for side in (1e-30, -1e-30))
        return [(above + below) / 2 for above, below in zip(*map(jax.grad(loss), beside), strict=True)]

    return lambda *batch: gradient([v.value for v in variables], *batch)
