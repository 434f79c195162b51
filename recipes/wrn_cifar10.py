"""Trains a sparse WRN-28-2 on CIFAR-10: Mostafa & Wang (ICML 2019), Table 4, second column.

    python recipes/wrn_cifar10.py --method dynamic_sparse --sparsity 0.9
    python recipes/wrn_cifar10.py --method deepr
    python recipes/wrn_cifar10.py --granularity kernel_slice
    python recipes/wrn_cifar10.py --depth 10 --widen_factor 0.5 --train_split "train[:2000]" --epochs 5 --period 5

Published test accuracies at sparsity .9: dynamic sparse 93.59, SET 93.28, DeepR 91.41, compressed 93.75, static 92.04;
dense 94.70. One run of dynamic sparse with this recipe had 93.22 after the last epoch and 93.43 at the best one. It
took 11 minutes on an NVIDIA H200, with JAX. On two cores of an AMD EPYC, 200 epochs would take 16 to 46 hours.
recipes/RESULTS.md has the results of all methods on a part of the data with a small network.

Reference:
    Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
    reparameterization", ICML 2019.
"""

import functools

from absl import app

from common import options, train
from common.augment import PadCropFlip
from common.data import load
from common.experiment import WRN_CIFAR10
from common.models import wide_resnet

options.define_flags(WRN_CIFAR10)


def main(arguments):
    """Runs the recipe with the flags of the command line."""
    options.refuse(arguments[1:])
    train.run(WRN_CIFAR10, wide_resnet, functools.partial(load, augmentation=PadCropFlip(4)))


if __name__ == "__main__":
    app.run(main)
