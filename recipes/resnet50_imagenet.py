"""Trains a sparse ResNet-50 on ImageNet: Mostafa & Wang (ICML 2019), Table 4, third column.

    python recipes/resnet50_imagenet.py --method dynamic_sparse --sparsity 0.8 --strategy mirrored
    KERAS_BACKEND=jax python recipes/resnet50_imagenet.py --strategy data_parallel --precision mixed_bfloat16
    python recipes/resnet50_imagenet.py --dataset imagenette/320px --test_split validation --batch_size 64

ImageNet has to be downloaded by hand, as its page in the catalog of TensorFlow Datasets explains. Published top-1 /
top-5 accuracies: dynamic sparse 73.3 / 92.4 at sparsity .8 and 71.6 / 90.5 at .9, compressed 73.2 / 91.5 and
70.3 / 90.0, static 70.4 / 89.8 and 66.4 / 87.4, thin dense 71.6 / 90.3 and 69.4 / 89.2; dense 74.9.

The recipe needs GPUs, and has not been run at full scale: on two cores of an AMD EPYC a step of 16 images takes 3 to
6 s, and 100 epochs would take a year. Three epochs on 1,200 photos of ten classes took 20 to 40 minutes there
(recipes/RESULTS.md).

Reference:
    Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
    reparameterization", ICML 2019.
"""

from absl import app

from common import options, train
from common.experiment import RESNET50_IMAGENET
from common.models import resnet
from common.stream import load

options.define_flags(RESNET50_IMAGENET)


def main(arguments):
    """Runs the recipe with the flags of the command line."""
    options.refuse(arguments[1:])
    train.run(RESNET50_IMAGENET, resnet, load)


if __name__ == "__main__":
    app.run(main)
