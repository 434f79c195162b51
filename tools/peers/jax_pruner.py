"""JaxPruner's SET over optax, with Keras's network: `python jax_pruner.py lenet 100 0.98`."""

import time

import jax
import jaxpruner
import keras
import networks
import optax
import serving
from ml_collections import ConfigDict

_, network, batch_size, sparsity = serving.arguments()
model = networks.BUILD[network](keras)
config = ConfigDict(
    {
        "algorithm": "set",
        "dist_type": "uniform",
        "sparsity": sparsity,
        "update_freq": 50,
        "update_end_step": 10**9,
        "update_start_step": 1,
        "drop_fraction": 0.1,
    }
)
updater = jaxpruner.create_updater_from_config(config)
tx = updater.wrap_optax(optax.sgd(0.01, momentum=0.9, nesterov=True))
params = [v.value for v in model.trainable_variables]
others = [v.value for v in model.non_trainable_variables]
state = tx.init(params)


def losses(params, others, x, y):
    """Mean loss of a batch, and the new statistics of batch norm."""
    logits, others = model.stateless_call(updater.pre_forward_update(params, state), others, x, training=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), others


@jax.jit
def step(params, others, state, x, y):
    """A training step; JaxPruner's updates are inside of it."""
    (_, others), gradients = jax.value_and_grad(losses, has_aux=True)(params, others, x, y)
    changes, state = tx.update(gradients, state, params)
    return updater.post_gradient_update(optax.apply_updates(params, changes), state), others, state


def turn(steps):
    """See `serving.serve`."""
    global params, others, state
    x, y = serving.batches(network, batch_size, steps)
    started = time.perf_counter()
    for i in range(steps):
        rows = slice(i * batch_size, (i + 1) * batch_size)
        params, others, state = step(params, others, state, x[rows], y[rows])
    jax.block_until_ready(params)
    return (time.perf_counter() - started) / steps, []


serving.serve(turn, "jax", "jaxpruner")
