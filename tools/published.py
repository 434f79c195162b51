"""Published test accuracies in percent, to compare ours with."""

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
EPOCHS = {"mnist": 100, "cifar10": 200, "imagenet2012": 100}


def published_accuracy(config) -> str:
    """Returns the published accuracy for the settings of a run, or "" if there is none for these settings.

    Args:
        config: dict, the flags of the run.
    """
    dataset, method = config.get("dataset"), config.get("method")
    test_split = "validation" if dataset == "imagenet2012" else "test"
    required = {
        **{"epochs": EPOCHS.get(dataset), "train_split": "train", "test_split": test_split},
        **{"settings": "paper", "scope": "layer", "granularity": "weight", "precision": "float32"},
    }
    # The dense network does not use the flag `sparsity`.
    sparsity = None if method == "dense" else config.get("sparsity")
    same = all(config.get(name, value) == value for name, value in required.items())
    return PUBLISHED.get((dataset, method, sparsity), "") if same else ""
