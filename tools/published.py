"""Published test accuracies in percent, to compare ours with."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

from common.experiment import LENET_MNIST, RESNET50_IMAGENET, WRN_CIFAR10

# (data set, method, sparsity): mean, and standard deviation over five runs if it is known. MNIST and CIFAR-10: the
# authors' data. ImageNet: the table of the paper.
PUBLISHED = {
    ("mnist", "dynamic_sparse", 0.90): "98.44 ± .10",
    ("mnist", "dynamic_sparse", 0.95): "98.32 ± .08",
    ("mnist", "dynamic_sparse", 0.96): "98.23 ± .05",
    ("mnist", "dynamic_sparse", 0.97): "98.20 ± .05",
    ("mnist", "dynamic_sparse", 0.98): "98.14 ± .14",
    ("mnist", "dynamic_sparse", 0.99): "97.75 ± .04",
    ("mnist", "compressed", 0.90): "98.55 ± .03",
    ("mnist", "compressed", 0.95): "98.47 ± .06",
    ("mnist", "compressed", 0.96): "98.42 ± .04",
    ("mnist", "compressed", 0.97): "98.34 ± .10",
    ("mnist", "compressed", 0.98): "98.12 ± .10",
    ("mnist", "compressed", 0.99): "97.47 ± .21",
    ("mnist", "static", 0.90): "97.94 ± .09",
    ("mnist", "static", 0.95): "96.68 ± .03",
    ("mnist", "static", 0.96): "94.13 ± 4.3",
    ("mnist", "static", 0.97): "94.35 ± .30",
    ("mnist", "static", 0.98): "82.8 ± 6.5",
    ("mnist", "static", 0.99): "49.5 ± 5.9",
    ("cifar10", "dense", None): "94.70",
    ("imagenet2012", "dense", None): "74.9",
    ("imagenet2012", "dynamic_sparse", 0.8): "73.3",
    ("imagenet2012", "compressed", 0.8): "73.2",
    ("imagenet2012", "static", 0.8): "70.4",
    ("imagenet2012", "thin_dense", 0.8): "71.6",
    ("imagenet2012", "dynamic_sparse", 0.9): "71.6",
    ("imagenet2012", "compressed", 0.9): "70.3",
    ("imagenet2012", "static", 0.9): "66.4",
    ("imagenet2012", "thin_dense", 0.9): "69.4",
}
_WRN = {  # WRN-28-2 at sparsity .5, .6, .7, .8, .9
    "dynamic_sparse": ("94.73 ± .10", "94.66 ± .12", "94.57 ± .12", "94.40 ± .11", "93.59 ± .18"),
    "set": ("94.76", "94.55", "94.40", "94.25", "93.28"),
    "deepr": ("92.92", "92.80", "92.50", "92.36", "91.41"),
    "compressed": ("94.59", "94.54", "94.53", "94.13", "93.75"),
    "static": ("94.28", "94.26", "93.87", "93.48", "92.04"),
}
for _method, _accuracies in _WRN.items():
    PUBLISHED |= {("cifar10", _method, (5 + i) / 10): text for i, text in enumerate(_accuracies)}
_EXPERIMENTS = {x.dataset: x for x in (LENET_MNIST, WRN_CIFAR10, RESNET50_IMAGENET)}


def published_accuracy(config) -> str:
    """Returns the published accuracy for the settings of a run, or "" if there is none for these settings.

    Args:
        config: dict, the recipe's name and the flags of the run, of which those that are missing are not compared.
    """
    method, experiment = config.get("method"), _EXPERIMENTS.get(config.get("dataset"))
    # The dense network does not use the flag `sparsity`.
    sparsity = None if method == "dense" else config.get("sparsity")
    found = experiment and PUBLISHED.get((experiment.dataset, method, sparsity))
    return found if found and _has_settings_of_paper(config, experiment) else ""


def _has_settings_of_paper(config, experiment):
    """Returns whether the flags of a run are those of an experiment of the paper."""
    training = experiment.training
    required = {
        **{"recipe": experiment.name, "train_split": "train", "test_split": experiment.test_split},
        **{"epochs": training.epochs, "batch_size": training.batch_size, "l1": training.l1, "l2": training.l2},
        **{name: getattr(experiment, name) for name in ("depth", "widen_factor", "image_size")},
        **{"settings": "paper", "learning_rates": "code", "scope": "layer", "granularity": "weight"},
        **{"precision": "float32", "prune_count": None, "period": None, "distribution": None},
    }
    # Grown weights are 0 in the paper. Those of the default here, 1e-4, are too small to change the outputs.
    small = config.get("regrow_scale", 0.0) <= 1e-4
    return small and all(config.get(name, value) == value for name, value in required.items())
