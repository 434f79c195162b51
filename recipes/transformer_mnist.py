"""A two-layer Transformer that reads MNIST digits row by row, sparse from the first step.

Not an experiment of the paper: it shows what its methods do to a network of today.

    python recipes/transformer_mnist.py --method dynamic_sparse --sparsity 0.9
    python recipes/transformer_mnist.py --method rigl
    python recipes/transformer_mnist.py --method dense

recipes/RESULTS.md has the accuracy of the methods, with seeds and commands.
"""

from absl import app

from common import options, train
from common.sequence_experiments import TRANSFORMER_MNIST
from common.sequence_models import transformer

options.define_flags(TRANSFORMER_MNIST)


def main(arguments):
    """Runs what the flags say."""
    options.refuse(arguments[1:])
    train.run(TRANSFORMER_MNIST, transformer)


if __name__ == "__main__":
    app.run(main)
