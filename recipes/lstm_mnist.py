"""LSTM that reads MNIST digits row by row, sparse from the first step.

Not an experiment of the paper: it shows what its methods do to a network of today.

    python recipes/lstm_mnist.py --method dynamic_sparse --sparsity 0.9
    python recipes/lstm_mnist.py --method rigl
    python recipes/lstm_mnist.py --method dense

recipes/RESULTS.md has the accuracy of the methods, with seeds and commands.
"""

from absl import app

from common import options, train
from common.sequence_experiments import LSTM_MNIST
from common.sequence_models import lstm

options.define_flags(LSTM_MNIST)


def main(arguments):
    """Runs what the flags say."""
    options.refuse(arguments[1:])
    train.run(LSTM_MNIST, lstm)


if __name__ == "__main__":
    app.run(main)
