"""Masked layers as they are described to what acts inside of the compiled training step."""

import dataclasses
import itertools
import math

import numpy as np
from keras import ops

from keras_sparse.backend import elements
from keras_sparse.layers.traversal import masked_layers
from keras_sparse.training.dead_weights import keep_zeros
from keras_sparse.training.layer_state import places
from keras_sparse.training.optimizer_state import momentum, slots
from keras_sparse.training.train_step import scope


@dataclasses.dataclass(frozen=True)
class Site:
    """A masked layer, as is told to what acts inside of a training step.

    Attributes:
        first: int, the position of its first weight, where the kernels of all the model's masked layers, frozen ones
            too, lie one after another.
        size: int, of the kernel.
        live: int, how many of its weights live, at every step; None if that changes.
        fresh: tuple of floats, what each of the optimizer's slots holds for a new weight.
        momentum: index of the slot that is SGD's momentum; None if there is none.
        factor: float, the momentum's.
        nesterov: bool, whether it is Nesterov's.
        zeros: bool, whether training leaves dead weights 0 and their slots fresh.
    """

    first: int
    size: int
    live: int
    fresh: tuple
    momentum: int | None
    factor: float
    nesterov: bool
    zeros: bool

    @property
    def weights(self):
        """Where its weights lie: a slice."""
        return slice(self.first, self.first + self.size)

    @classmethod
    def of(cls, first, layer, optimizer):
        """Of a masked layer."""
        kernel = layer.kernel_variable
        found = slots(optimizer, kernel)
        sgd, slot = momentum(optimizer, kernel)
        index = next((i for i, (v, _) in enumerate(found) if v is slot), None)
        return cls(
            first=first,
            size=math.prod(kernel.shape),
            live=int(np.count_nonzero(elements.view(layer.kernel_mask.value))),
            fresh=tuple(fresh for _, fresh in found),
            momentum=index,
            factor=sgd.momentum if slot is not None else 0.0,
            nesterov=slot is not None and sgd.nesterov,
            zeros=keep_zeros([layer], optimizer),
        )

    def cleared(self, weights, mask, *slots):
        """The kernel, mask and slots, as arrays: where training does not do so, dead weights made 0, slots fresh."""
        if self.zeros:
            return [weights, mask, *slots]
        held = [ops.where(mask, x, ops.full_like(x, f)) for x, f in zip(slots, self.fresh, strict=True)]
        return [ops.where(mask, weights, ops.zeros_like(weights)), mask, *held]


def placed(model):
    """`(first, layer)` of each of the `trainable_masked_layers`; `first` is as of `Site`."""
    firsts = [0, *itertools.accumulate(math.prod(x.kernel_variable.shape) for x in masked_layers(model))]
    return [(firsts[place], layer) for place, layer in places(model)]


def sites_of(model, optimizer=None):
    """A tuple of `Site`, one for each of the `trainable_masked_layers`.

    Args:
        model: built `keras.Model`.
        optimizer: the one that trains it; None for the one that it is compiled with, which is built if it is not yet.
    """
    if optimizer is None:
        optimizer = model.optimizer
        if not optimizer.built:  # TensorFlow builds it within the first step, when its slots come too late.
            with scope(model):
                optimizer.build(model.trainable_variables)
    return tuple(Site.of(first, layer, optimizer) for first, layer in placed(model))


def variables_of(layers, optimizer):
    """For each layer the list of what is changed: the kernel, the mask, the optimizer's slots."""
    kernels = [(x.kernel_variable, x.kernel_mask.value) for x in layers]
    return [[kernel, mask, *(slot for slot, _ in slots(optimizer, kernel))] for kernel, mask in kernels]
