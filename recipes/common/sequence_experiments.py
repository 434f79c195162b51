"""Experiments with sequences, which are not the paper's: ten epochs of Adam, the methods' settings as for LeNet."""

import dataclasses

from common.experiment import LENET_MNIST, CompressedSettings, Training

_PERIOD = {0: 100, 5: 200}
_TRAINING = Training(
    epochs=10,
    batch_size=100,
    learning_rates={0: 2e-3, 5: 1e-3, 8: 2e-4},
    learning_rates_as_printed={0: 2e-3, 5: 1e-3, 8: 2e-4},
    momentum=0.0,
    l1=0.0,
    l2=0.0,
    optimizer="adam",
)

TRANSFORMER_MNIST = dataclasses.replace(
    LENET_MNIST,
    name="transformer_mnist",
    sparsity=0.9,
    sparse_weights=98_304,
    kernel_slices=98_304,
    keep_dense=("embed", "logits"),
    training=_TRAINING,
    # A tenth of the live weights of a network that is 90% sparse.
    dynamic_sparse=dataclasses.replace(LENET_MNIST.dynamic_sparse, prune_count=983, period=_PERIOD, until=7),
    set=dataclasses.replace(LENET_MNIST.set, prune_count=983, period=_PERIOD, until=7),
    compressed=CompressedSettings(prunings=10, epochs_between=1, epochs=15, learning_rates={0: 1e-3, 12: 2e-4}),
    deepr=dataclasses.replace(LENET_MNIST.deepr, temperature={0: 1e-5, 3: 1e-8, 5: 1e-12, 8: 1e-15}),
    rigl=dataclasses.replace(LENET_MNIST.rigl, period=_PERIOD),
    ours=None,
)

LSTM_MNIST = dataclasses.replace(
    TRANSFORMER_MNIST,
    name="lstm_mnist",
    sparse_weights=79_872,
    kernel_slices=79_872,
    keep_dense=("logits",),
    dynamic_sparse=dataclasses.replace(TRANSFORMER_MNIST.dynamic_sparse, prune_count=799),
    set=dataclasses.replace(TRANSFORMER_MNIST.set, prune_count=799),
)
