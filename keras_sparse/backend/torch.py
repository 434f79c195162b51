"""PyTorch."""

import copy

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras
from keras_sparse.backend import common


def read(variable):
    """A variable as an array for reading; copy what has to last or be written to."""
    return ops.convert_to_numpy(variable)


def to_numpy(value):
    """A tensor as an array."""
    return ops.convert_to_numpy(value)


def write_elements(positions, *pairs):
    """Writes the same elements of some variables, in place.

    Args:
        positions: 1-D int array, flat, without repetitions.
        *pairs: `(variable, values)`: `keras.Variable`s of one shape, and for each a scalar or an array of the shape of
            `positions`.
    """
    if not len(positions):
        return
    for variable, values in pairs:
        new = ops.convert_to_tensor(np.broadcast_to(values, positions.shape).copy(), dtype=variable.dtype)
        flat = variable.value.data.reshape(-1)
        flat[ops.convert_to_tensor(positions)] = new
        if not variable.value.data.is_contiguous():  # `reshape` has made a copy.
            variable.value.data.copy_(flat.reshape(variable.value.shape))


def assign(variable, value):
    """Sets a whole variable to an array."""
    variable.assign(value)


def can_assign(*variables):
    """Whether variables may be assigned to here and now: not while a function is compiled."""
    import torch

    return not torch.compiler.is_compiling() and not _keras.in_stateless_scope()


def copy_native(value):
    """A copy of an object of PyTorch that has a state which training changes, else the object itself."""
    import torch

    return copy.deepcopy(value) if isinstance(value, (torch.nn.Module, torch.nn.Parameter)) else value


def layout_of(variable):
    """None: there is no `keras.distribution` here."""


def copies(variable):
    """What each device holds of a variable.

    Returns:
        List of `(part, array)`. The part is a tuple with `(start, stop)` for each axis; None for all of the variable.
        The array is None where another process has it.
    """
    return [(None, read(variable))]


def of_all_processes(*arrays):
    """Some 1-D arrays with those of the other processes, of which there are none: shape `(size, 1)`."""
    return [a[:, None] for a in arrays]


def refresh_held_state(model):
    """Nothing: `fit` holds no copy of the variables."""


def is_native_optimizer(optimizer):
    """Whether an object is a `torch.optim.Optimizer`."""
    import torch

    return isinstance(optimizer, torch.optim.Optimizer)


def native_slots(optimizer, variable):
    """The per-weight state that a `torch.optim.Optimizer` keeps of one variable: `keras.Variable`s over its memory."""
    import torch

    state = optimizer.state.get(variable.value, {}).values()
    slots = [x for x in state if isinstance(x, torch.Tensor) and x.shape == variable.value.shape]
    return [keras.Variable(torch.nn.Parameter(x, requires_grad=False), trainable=False) for x in slots]


def compiled(function):
    """The function, as it is: torch.compile needs a C++ compiler where it runs."""
    return lambda *arguments: function(*common.tensors(arguments))


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
    import torch

    def hooked(data):
        before = common.step_before(model.optimizer)
        logs = train_step(data)
        with torch.no_grad():
            step, rate = common.step_and_rate(model.optimizer)
            given = common.tensors((settings, variables, carried))
            common.assign_all((variables, carried), common.guarded(action, before, step, rate, *given))
        return logs

    return hooked


def train_and_keep_batch(model, train_function, count, keep, batches):
    """Trains on the batches of one execution, and hands the last one to `keep`.

    Args:
        model: compiled `keras.Model`, in `fit`.
        train_function: the model's.
        count: int, how many batches the execution has.
        keep: function of a batch.
        batches: list of them, which Keras gives to the train function.

    Returns:
        What the train function returns.
    """
    keep(batches[-1])
    return train_function(batches)


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
    import torch

    def compute(*batch):
        values = [v.detach().clone().requires_grad_() for v in masked_kernels()]
        mapping = [*common.current_values(model), *common.with_all_live(kernels, masks, values)]
        total = common.training_loss(model, mapping, *batch)
        return torch.autograd.grad(total, values, allow_unused=True, materialize_grads=True)

    return compute
