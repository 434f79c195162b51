"""Acting inside of the compiled training step, right after the optimizer: for methods that act at every step."""

import dataclasses
import functools
import itertools
import math

import numpy as np
from keras import ops

from keras_sparse import elements
from keras_sparse.conversion import masked_layers, trainable_masked_layers
from keras_sparse.methods.base import SparseMethod
from keras_sparse.methods.inside import Inside, compiled, scope, tensors, write
from keras_sparse.methods.tensor import places
from keras_sparse.methods.zeros import finite, keep_zeros
from keras_sparse.replicas import check_replicas
from keras_sparse.slots import iterations, momentum, slots


@dataclasses.dataclass(frozen=True)
class Site:
    """A masked layer, as `InStep.act` is told of it.

    Attributes:
        first: int, the position of its first weight, where the kernels of all the model's masked layers, frozen ones
            too, lie one after another.
        size: int, of the kernel.
        live: int, how many of its weights live, at every step.
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


class InStep(SparseMethod):
    """Base of methods that act on the layers after every optimizer step, and keep the number of live weights of each.

    A subclass has `begin`, `settings` and `act`. `act` is compiled with the training step, so nothing goes to the host
    and back, and `steps_per_execution` may be any. What it remembers, such as the positions of the live weights, is
    made anew from masks and weights at each epoch, so that no checkpoint lacks it.

    That the live weights are as many as they must be is checked at the end of each epoch, and so are the replicas.

    Args:
        **kwargs: of `SparseMethod`, but for `period`.
    """

    def begin(self, sites, layers):
        """What `act` remembers.

        Args:
            sites: tuple of `Site`, one for each trainable masked layer.
            layers: list of these layers.

        Returns:
            List of arrays. The first holds the live positions, layer by layer, int32 and 1-D; the last how many
            weights died, an int32 scalar.
        """
        raise NotImplementedError

    def settings(self):
        """What `act` needs of the epoch's schedules: float32 array of one dimension."""
        raise NotImplementedError

    def act(self, sites, step, rate, settings, weights, slots, own):
        """What a step makes of the layers, in `keras.ops`: a pure function of arrays.

        Args:
            sites: tuple of `Site`, one for each trainable masked layer, as are the lists that follow.
            step: int32 scalar, the optimizer's step.
            rate: float32 scalar, its learning rate.
            settings: as `settings` makes it.
            weights: list of arrays, the kernels.
            slots: list of lists of arrays, the optimizer's.
            own: list of arrays, as `begin` makes them.

        Returns:
            `(weights, masks, slots, own)`; `masks` is a list of boolean arrays.
        """
        raise NotImplementedError

    # In `fit`.

    _inside = None

    def on_epoch_begin(self, epoch, logs=None):
        """Looks at the layers as they are, and stands behind the optimizer."""
        super().on_epoch_begin(epoch, logs)
        model = self.model
        if epoch >= self.ends():
            self._leave()
            return
        if not model.optimizer.built:  # TensorFlow builds it within the first step, when its slots come too late.
            with scope(model):
                model.optimizer.build(model.trainable_variables)
        sites, layers = _sites(model, model.optimizer), trainable_masked_layers(model)
        own = self.begin(sites, layers)
        if self._inside and self._sites == sites:
            self._inside.renew(own, self.settings())
        else:
            self._leave()
            act, variables = functools.partial(self._on_kernels, sites), _variables(layers, model.optimizer)
            self._inside, self._sites = Inside(model, act, variables, own, self.settings()), sites

    def on_train_batch_begin(self, batch, logs=None):
        """A step follows."""
        if self._inside:
            self._inside.expected = True

    def on_epoch_end(self, epoch, logs=None):
        """Checks, and adds to the logs."""
        model = self.model
        batches, per_step = iterations(model.optimizer)
        self._step = batches // per_step
        if self._inside:
            self._close(model, self._sites, self._inside.own())
            layers = trainable_masked_layers(model)
            if not finite(layers):
                self._skip(layers, model.optimizer, masked_layers(model)[0].kernel_mask)
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        """Gives the model its training function back."""
        super().on_train_end(logs)
        self._leave()

    def _leave(self):
        if self._inside:
            self._inside.release()
            self._inside = None

    # In a loop of one's own.

    _kept = None  # what `act` remembers from one call to the next

    def recall(self, memory):
        """Begins anew with another model."""
        self._kept, self._compiled = None, {}

    def update(self, model, step, epoch=0, optimizer=None):
        """Acts once, after the optimizer's step; see `SparseMethod.update`."""
        optimizer = optimizer or getattr(model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                f"{type(self).__name__} goes by the optimizer's learning rate, and {model.name!r} is not compiled with "
                "one. Pass optimizer=... of the loop."
            )
        layers, memory = trainable_masked_layers(model), masked_layers(model)[0].kernel_mask
        self._epoch, self._step = epoch, step
        if memory is not self._recalled:
            self.recall(memory)
            self._recalled = memory
            self.start(model)
        if not finite(layers):
            self._skip(layers, optimizer, memory)
            return
        sites = _sites(model, optimizer)
        own = self.begin(sites, layers)
        if self._kept and np.array_equal(np.sort(self._kept[0]), own[0]):
            own = [*self._kept[:-1], own[-1]]
        rate = np.float32(ops.convert_to_numpy(optimizer.learning_rate))
        variables = _variables(layers, optimizer)
        act = self._compiled.setdefault(sites, compiled(functools.partial(self._on_kernels, sites)))
        values, own = act(np.int32(step), rate, self.settings(), tensors(variables), own)
        write(variables, values)
        self._kept = [np.array(ops.convert_to_numpy(x)) for x in own]
        self._close(model, sites, self._kept)
        self._updates += 1

    # In both.

    def _on_kernels(self, sites, step, rate, settings, values, own):
        """`act`, and zeros where training does not leave them."""
        weights, others = [x[0] for x in values], [x[2:] for x in values]
        weights, masks, others, own = self.act(sites, step, rate, settings, weights, others, own)
        new = []
        for site, w, mask, held in zip(sites, weights, masks, others, strict=True):
            if not site.zeros:
                w = ops.where(mask, w, ops.zeros_like(w))
                held = [ops.where(mask, x, ops.full_like(x, f)) for x, f in zip(held, site.fresh, strict=True)]
            new.append([w, mask, *held])
        return new, own

    def _close(self, model, sites, own):
        """Checks what steps have left, and counts."""
        ends = itertools.accumulate(site.live for site in sites)
        for site, layer, end in zip(sites, trainable_masked_layers(model), ends, strict=True):
            live = np.sort(own[0][end - site.live : end]) - site.first
            found = np.flatnonzero(elements.view(layer.kernel_mask.value))
            if not np.array_equal(live, found):
                raise RuntimeError(
                    f"{type(self).__name__} broke an invariant: {len(live)} weights of {layer.name!r} must be live "
                    f"after step {self._step} (received {len(found)}), and the mask must say which. Start again from "
                    "the last checkpoint; if nothing else has written to the mask, please report it."
                )
        died = int(own[-1])
        self._dropped += died
        self._grown += died
        elements.assign(masked_layers(model)[0].kernel_mask.last_update, self._step)
        if self.check_replicas:
            check_replicas(model)


def placed(model):
    """`(first, layer)` of each of the `trainable_masked_layers`; `first` is as of `Site`."""
    firsts = [0, *itertools.accumulate(math.prod(x.kernel_variable.shape) for x in masked_layers(model))]
    return [(firsts[place], layer) for place, layer in places(model)]


def _sites(model, optimizer):
    return tuple(Site.of(first, layer, optimizer) for first, layer in placed(model))


def _variables(layers, optimizer):
    """For each layer the list of what is changed: the kernel, the mask, the optimizer's slots."""
    kernels = [(x.kernel_variable, x.kernel_mask.value) for x in layers]
    return [[kernel, mask, *(slot for slot, _ in slots(optimizer, kernel))] for kernel, mask in kernels]
