"""A Keras model with optax, dense or with SET of JaxPruner: `python jax_pruner.py set lenet 100 0.98`."""

import time

import jax
import jaxpruner
import keras
import networks
import optax
import worker
from ml_collections import ConfigDict

variant, network, batch_size, sparsity = worker.parse_arguments()
model = networks.BUILD[network](keras)
config = ConfigDict(
    {
        "algorithm": {"dense": "no_prune", "set": "set"}[variant],
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


def loss(params, others, x, y):
    """Returns the mean loss of a batch, and the new statistics of batch normalization."""
    logits, others = model.stateless_call(updater.pre_forward_update(params, state), others, x, training=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), others


@jax.jit
def step(params, others, state, x, y):
    """Makes a training step, which includes the updates of JaxPruner."""
    (_, others), gradients = jax.value_and_grad(loss, has_aux=True)(params, others, x, y)
    changes, state = tx.update(gradients, state, params)
    return updater.post_gradient_update(optax.apply_updates(params, changes), state), others, state


def measure(steps):
    """See `worker.run_worker`."""
    global params, others, state
    x, y = worker.random_batches(network, batch_size, steps)
    started = time.perf_counter()
    for i in range(steps):
        rows = slice(i * batch_size, (i + 1) * batch_size)
        params, others, state = step(params, others, state, x[rows], y[rows])
    jax.block_until_ready(params)
    return (time.perf_counter() - started) / steps, []


worker.run_worker(measure, "jax", "jaxpruner")
