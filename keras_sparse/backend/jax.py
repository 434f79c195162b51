"""JAX."""

import itertools

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.backend import common


def read(variable):
    """A variable as an array for reading; copy what has to be written to. See `to_numpy`."""
    return to_numpy(variable.value)


def to_numpy(value):
    """A tensor as an array. Each process gets all of one whose parts lie in several: so all have to call this."""
    if getattr(value, "is_fully_addressable", True) or value.is_fully_replicated:
        return keras.ops.convert_to_numpy(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def write_elements(positions, *pairs):
    """Writes the same elements of some variables.

    Args:
        positions: 1-D int array, flat, without repetitions.
        *pairs: `(variable, values)`: `keras.Variable`s of one shape, and for each a scalar or an array of the shape of
            `positions`.
    """
    if not len(positions):
        return
    for variable, values in pairs:
        array = read(variable).copy()  # JAX's arrays do not change.
        array.flat[positions] = values
        assign(variable, array)


def assign(variable, value):
    """Sets a whole variable to an array."""
    variable.assign(value)


def can_assign(*variables):
    """Whether variables may be assigned to here and now: not while a function is traced, nor while `fit` holds them."""
    import jax
    import jax.numpy as jnp

    values = [_keras.held_value(v) for v in variables]
    # A step of Keras or of one's own gives the memory of the values that it gets to those that it returns.
    if _keras.in_stateless_scope() or any(x is None or x.is_deleted() for x in values):
        return False
    return not isinstance(jnp.zeros(()), jax.core.Tracer)


def copy_native(value):
    """The object itself: those of JAX do not change."""
    return value


def layout_of(variable):
    """The `keras.distribution.TensorLayout` that a variable has, or will have once it has a value; None without one."""
    layout, distribution = _keras.layout_of(variable), keras.distribution.distribution()
    if layout is None and distribution is not None:
        layout = distribution.get_variable_layout(variable)
    return layout if isinstance(layout, keras.distribution.TensorLayout) else None


def copies(variable):
    """What each device holds of a variable.

    Returns:
        List of `(part, array)`. The part is a tuple with `(start, stop)` for each axis; None for all of the variable.
        The array is None where another process has it.
    """
    import jax.numpy as jnp

    # Each device copies what it has: JAX cannot take every array apart that it computes with.
    value = jnp.copy(variable.value)
    mine = {s.device: s.data for s in value.addressable_shards}
    parts = value.sharding.devices_indices_map(value.shape)
    return [
        (
            tuple(s.indices(n)[:2] for s, n in zip(parts[device], value.shape, strict=True)),
            np.asarray(mine[device]) if device in mine else None,
        )
        for device in sorted(parts, key=lambda d: d.id)  # an order that is the same in all processes
    ]


def of_all_processes(*arrays):
    """Some 1-D arrays with those of the other processes of a `jax.distributed` cluster: shape `(size, processes)`."""
    import jax

    if jax.process_count() == 1:
        return [a[:, None] for a in arrays]
    from jax.experimental import multihost_utils

    return [np.asarray(a).T for a in multihost_utils.process_allgather(arrays)]


def refresh_held_state(model):
    """Makes the state that `fit` holds that of the variables.

    Where an epoch's length is unknown, `fit` finds out that it is over when it has taken the variables' values for one
    more step. Then it writes back what it held before that: what a callback wrote after the last step would be lost.
    """
    _keras.refresh_held_state(model)


def is_native_optimizer(optimizer):
    """Whether an object is an optimizer of the backend that trains Keras's variables without Keras: none is."""
    return False


def native_slots(optimizer, variable):
    """The state that such an optimizer keeps of one variable: none."""
    return []


def compiled(function):
    """A pure function of arrays, compiled."""
    import jax

    return jax.jit(function)


def hook_train_step(model, train_step, action, variables, carried, settings):
    """A `train_step` that lets a function act on variables right after the optimizer's step.

    All variables must be among those of the model and its optimizer: what a compiled function closes over stays what it
    was when it was compiled.

    Args:
        model: compiled `keras.Model`.
        train_step: the model's, bound.
        action: pure function `(step, rate, settings, values, carried) -> (values, carried)`.
        variables: list of lists of the `keras.Variable`s whose values it gets and changes.
        carried: list of `keras.Variable`s, likewise.
        settings: `keras.Variable` whose value it gets.
    """
    if not model.jit_compile or model.run_eagerly:
        action = compiled(action)  # else its loops would be compiled at each call

    def hooked(state, data):
        optimizer = model.optimizer
        with keras.StatelessScope(list(zip(optimizer.variables, state[2], strict=True))):
            before = common.step_before(optimizer)
        logs, state = train_step(state, data)
        kinds = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
            model.metrics_variables,
        )
        values = [pair for kind in zip(kinds, state, strict=True) for pair in zip(*kind, strict=True)]
        with keras.StatelessScope(values) as scope:
            step, rate = common.step_and_rate(optimizer)
            given = common.tensors((settings, variables, carried))
            common.assign_all((variables, carried), common.guarded(action, before, step, rate, *given))
        return logs, tuple([scope.get_current_value(v) for v in kind] for kind in kinds)

    return hooked


def train_and_keep_batch(model, train_function, count, keep, state, iterator):
    """Trains on the batches of one execution, and hands the last one to `keep`.

    Args:
        model: compiled `keras.Model`, in `fit`.
        train_function: the model's.
        count: int, how many batches the execution has.
        keep: function of a batch.
        state: what Keras gives to the train function.
        iterator: likewise.

    Returns:
        What the train function returns.
    """
    if _keras.SUPER_BATCHES and model.steps_per_execution > 1:
        batches = list(itertools.islice(iterator, 1))  # all of the execution in one
        if batches:
            keep(_keras.last_of_super_batch(batches[0]))
    else:
        batches = list(itertools.islice(iterator, count))
        if batches:
            keep(batches[-1])
    return train_function(state, iter(batches))


def dense_gradients(model, kernels, masks, masked_kernels):
    """Makes a function from a batch to the gradient of the training loss by kernels whose masks are all live.

    Args:
        model: compiled `keras.Model`.
        kernels: list of `keras.Variable`s.
        masks: list of their masks' `keras.Variable`s.
        masked_kernels: function that returns the list of kernels, dead weights 0.

    Returns:
        Function `(x, y, sample_weight) -> list of arrays` of the kernels' shapes.
    """
    import jax

    variables = list({id(v): v for v in [*model.variables, *model.optimizer.variables]}.values())

    @jax.jit
    def gradient(state, *batch):
        # As arguments: what a compiled function closes over stays what it was.
        others = list(zip(variables, state, strict=True))
        with keras.StatelessScope(others):
            values = masked_kernels()

        def loss(values):
            mapping = [*others, *common.with_all_live(kernels, masks, values)]
            return common.training_loss(model, mapping, *batch)

        return jax.grad(loss)(values)

    return lambda *batch: gradient([v.value for v in variables], *batch)
