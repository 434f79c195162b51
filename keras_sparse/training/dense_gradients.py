"""The dense gradient: what the loss would gain from each weight of a masked kernel, dead ones included."""

import keras
from keras import ops


def dense_gradients(model, layers):
    """Makes a function from a batch to the gradient of the training loss.

    The network is the sparse one; only the gradient is taken as if every mask were all True. It is 0 for a layer on
    which the loss does not depend, such as an output without one. State that a training step would change, such as the
    averages of batch norm, stays as it is.

    Args:
        model: compiled `keras.Model`.
        layers: masked layers of it.

    Returns:
        Function `(x, y, sample_weight) -> list of NumPy arrays`, of the kernels' shapes.
    """
    kernels = [x.kernel_variable for x in layers]
    masks = [x.kernel_mask.value for x in layers]

    def loss(values, others, x, y, sample_weight):
        ones = [ops.ones(m.shape, "bool") for m in masks]
        with keras.StatelessScope([*others, *zip(kernels, values, strict=True), *zip(masks, ones, strict=True)]):
            outputs = model(x, training=True)
            total = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True)
            return model.optimizer.scale_loss(total)

    def masked():
        return [x.kernel for x in layers]

    compute = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()](model, loss, masked)
    return lambda *batch: [ops.convert_to_numpy(g) for g in compute(*batch)]


def _as_they_are(model):
    """What is trained, with its values: in a StatelessScope Keras's regularizers see only what is given to it."""
    return [(v, v.value) for v in model.trainable_variables]


def _tensorflow(model, loss, masked):
    import tensorflow as tf

    @tf.function(jit_compile=model.jit_compile, reduce_retracing=True)
    def compute(*batch):
        values = masked()
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = loss(values, _as_they_are(model), *batch)
        return tape.gradient(total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return compute


def _jax(model, loss, masked):
    import jax

    variables = list({id(v): v for v in [*model.variables, *model.optimizer.variables]}.values())

    @jax.jit
    def gradient(state, *batch):
        # As arguments: what a compiled function closes over stays what it was.
        others = list(zip(variables, state, strict=True))
        with keras.StatelessScope(others):
            values = masked()
        return jax.grad(loss)(values, others, *batch)

    return lambda *batch: gradient([v.value for v in variables], *batch)


def _torch(model, loss, masked):
    import torch

    def compute(*batch):
        values = [v.detach().clone().requires_grad_() for v in masked()]
        total = loss(values, _as_they_are(model), *batch)
        return torch.autograd.grad(total, values, allow_unused=True, materialize_grads=True)

    return compute
