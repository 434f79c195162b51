"""The functions of `keras_sparse.backend` for PyTorch."""

import copy
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras
from keras_sparse.backend import common


def write_elements(positions: np.ndarray, *writes: tuple) -> None:
    """Writes the same elements of some variables, in place.

    Args:
        positions: 1-D int array of distinct flat positions.
        *writes: tuples `(variable, values)` or `(variable, values, present)`: `keras.Variable`s of one shape; a scalar
            or an array of the shape of `positions`; and the present values, as `read` returns them, if the caller has
            them already.
    """
    if not len(positions):
        return
    for variable, values, *_ in writes:
        new = ops.convert_to_tensor(np.broadcast_to(values, positions.shape).copy(), dtype=variable.dtype)
        flat = variable.value.data.reshape(-1)
        flat[ops.convert_to_tensor(positions)] = new
        if not variable.value.data.is_contiguous():  # Then `reshape` has made a copy, not a view.
            variable.value.data.copy_(flat.reshape(variable.value.shape))


def can_assign(*variables: keras.Variable) -> bool:
    """Whether variables may be assigned to now: not while a function is compiled."""
    import torch

    return not torch.compiler.is_compiling() and not _keras.in_stateless_scope()


def copy_native(value, copied: dict, copy_of: Callable):
    """Copies a PyTorch module or parameter; any other object is returned unchanged.

    Args:
        value: any object.
        copied: dict from ids to copies. Parameters of a module that are in it are not copied again; others are added.
        copy_of: not used.
    """
    import torch

    if isinstance(value, torch.nn.Parameter):
        return copy.deepcopy(value)
    if not isinstance(value, torch.nn.Module):
        return value
    held = [*value.parameters(), *value.buffers()]
    new = copy.deepcopy(value, {id(x): copied[id(x)] for x in held if id(x) in copied})
    copied.update((id(x), y) for x, y in zip(held, [*new.parameters(), *new.buffers()], strict=True))
    return new


def link_native(variable: keras.Variable, new: keras.Variable, copied: dict) -> None:
    """Makes the copy of a variable and that of a module have one parameter, if the originals have.

    Args:
        variable: `keras.Variable`.
        new: its copy.
        copied: dict from ids to copies, to which the parameter is added if it is not in it.
    """
    if id(variable.value) in copied:
        _keras.set_value(new, copied[id(variable.value)])
    copied[id(variable.value)] = new.value


def copy_dependencies(layer: keras.Layer, new: keras.Layer, names_left_out: set[str]) -> None:
    """Makes PyTorch's list of the parameters of a copied layer, which an export to ONNX needs."""
    new.named_parameters()


def is_native_optimizer(optimizer) -> bool:
    """Whether an object is a `torch.optim.Optimizer`."""
    import torch

    return isinstance(optimizer, torch.optim.Optimizer)


def native_slots(optimizer, variable: keras.Variable) -> list[keras.Variable]:
    """Returns the slots that a `torch.optim.Optimizer` keeps for a variable, as `keras.Variable`s that share memory."""
    import torch

    state = optimizer.state.get(variable.value, {}).values()
    slots = [x for x in state if isinstance(x, torch.Tensor) and x.shape == variable.value.shape]
    return [keras.Variable(torch.nn.Parameter(x, requires_grad=False), trainable=False) for x in slots]


def with_gradient(weights, mask, gradient: Callable):
    """Returns `weights` with another gradient; see `jax.with_gradient`."""
    view = weights.view_as(weights)
    if view.requires_grad:
        view.register_hook(lambda upstream: gradient(mask, upstream))
    return view


def compiled(function: Callable) -> Callable:
    """Returns the function without compiling it: `torch.compile` needs a C++ compiler at run time."""
    return lambda *arguments: function(*common.tensors(arguments))


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
    import torch

    def hooked(data):
        before = common.step_before(model.optimizer)
        before = before if before is None else before.clone()  # It may share memory with the counter of the steps.
        logs = train_step(data)
        with torch.no_grad():
            step, rate = common.step_and_rate(model.optimizer)
            given = common.tensors((settings, variables, carried))
            common.assign_all((variables, carried), common.guarded(action, before, step, rate, *given))
        return logs

    return hooked


def train_and_keep_batch(model: keras.Model, train_function: Callable, count: int, keep: Callable, batches):
    """Trains on the batches of one execution, and passes the last batch to `keep`.

    Args:
        model: compiled `keras.Model`, in `fit`.
        train_function: the train function of the model.
        count: int, the number of batches in the execution.
        keep: function that gets the last batch.
        batches: list of batches, which Keras passes to the train function.

    Returns:
        The result of the train function.
    """
    keep(batches[-1])
    return train_function(batches)


def track_parameters(model: keras.Model) -> None:
    """Lists the variables of a model anew as parameters of its `torch.nn.Module`s, as `state_dict` returns them."""
    _keras.track_torch_parameters(model)


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
    import torch

    def compute(*batch):
        values = [v.detach().clone().requires_grad_() for v in masked_kernels()]
        mapping = [*common.current_values(model), *common.with_all_live(kernels, masks, values)]
        total = common.training_loss(model, mapping, *batch)
        return torch.autograd.grad(total, values, allow_unused=True, materialize_grads=True)

    return compute
