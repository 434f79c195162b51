"""Compares the masks of two models."""

import dataclasses

import keras

from keras_sparse.layers.traversal import masked_weights
from keras_sparse.report import rendering

COLUMNS = ("layer", "weight", "live in first", "live in second", "moved", "both", "Jaccard")


@dataclasses.dataclass(frozen=True)
class LayerComparison:
    """The masks of one weight in two models.

    Attributes:
        name: str, path of the weight in the first model.
        shape: tuple of ints, shape of the weight.
        live: pair of ints, the number of live weights in each model.
        both: int, the number of weights that are live in both models.
    """

    name: str
    shape: tuple
    live: tuple
    both: int

    @property
    def jaccard(self) -> float:
        """The Jaccard index in [0, 1]: weights live in both models over weights live in at least one; 1 if none is."""
        either = sum(self.live) - self.both
        return self.both / either if either else 1.0


@dataclasses.dataclass(frozen=True)
class Comparison(rendering.Rendered):
    """The comparison of the masks of two models, layer by layer. `print` shows a table.

    Attributes:
        names: pair of str, names of the models.
        layers: tuple of `LayerComparison`.
    """

    names: tuple
    layers: tuple

    @property
    def jaccard(self) -> float:
        """The Jaccard index of all masks together, in [0, 1]."""
        whole = LayerComparison("", (), tuple(map(sum, zip(*(x.live for x in self.layers), strict=True))), self._both)
        return whole.jaccard

    @property
    def _both(self):
        return sum(x.both for x in self.layers)

    @property
    def moved(self) -> int:
        """The number of live weights that moved: the sum of the gains of those layers that gained weights."""
        return sum(max(0, x.live[1] - x.live[0]) for x in self.layers)

    def to_dict(self) -> dict:
        """Returns the comparison as a dict of plain data."""
        layers = [{**vars(x), "jaccard": x.jaccard} for x in self.layers]
        return {"names": self.names, "layers": layers, "jaccard": self.jaccard, "moved": self.moved}

    def tables(self) -> list[rendering.Table]:
        """Returns the table of the layers."""
        rows = [
            (
                x.name,
                "x".join(map(str, x.shape)),
                *(f"{n:,}" for n in x.live),
                f"{x.live[1] - x.live[0]:+,}",
                f"{x.both:,}",
                f"{x.jaccard:.4f}",
            )
            for x in self.layers
        ]
        caption = (
            f"{self.names[0]} and {self.names[1]}: Jaccard index {self.jaccard:.4f} of all masks, {self._both:,} "
            f"weights live in both; {self.moved:,} moved between layers"
        )
        return [rendering.Table(COLUMNS, rows, caption)]


def compare(model_a: keras.Model, model_b: keras.Model) -> Comparison:
    """Compares the masks of two models: how far they overlap, and how many weights moved between layers.

    The Jaccard index of two independent random masks of density d is about d / (2 - d).

    Args:
        model_a: built `keras.Model` with masked layers.
        model_b: `keras.Model` of the same architecture. Masked weights are compared in the order of the models.

    Returns:
        `Comparison`, which `print` shows as a table.

    Raises:
        ValueError: if there are no masked weights, or their shapes differ.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
    >>> compare(sparsify(model, 0.9), sparsify(model, 0.9)).jaccard
    1.0
    """
    first, second = masked_weights(model_a), masked_weights(model_b)
    shapes = [[(w.shape, tuple(w.mask.value.shape)) for w in x] for x in (first, second)]
    if not first or shapes[0] != shapes[1]:
        received = [[f"{weight} with a mask of {mask}" for weight, mask in x] for x in shapes]
        raise ValueError(
            "`compare` needs two models with masked weights of the same shapes and granularity. Received: "
            f"{received[0]} in {model_a.name!r} and {received[1]} in {model_b.name!r}."
        )
    layers = []
    for a, b in zip(first, second, strict=True):
        masks = [w.mask.numpy() for w in (a, b)]
        common = int((masks[0] & masks[1]).sum()) * a.element_size
        layers.append(LayerComparison(a.path, a.shape, (a.count_live(), b.count_live()), common))
    return Comparison((model_a.name, model_b.name), tuple(layers))
