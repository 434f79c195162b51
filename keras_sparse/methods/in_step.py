"""Acting inside of the compiled training step, right after the optimizer: for methods that act at every step."""

import dataclasses
import functools
import math

import numpy as np
from keras import ops

from keras_sparse import elements
from keras_sparse.conversion import masked_layers, trainable_masked_layers
from keras_sparse.methods.base import SparseMethod
from keras_sparse.methods.inside import Inside, compiled, scope
from keras_sparse.methods.tensor import places
from keras_sparse.methods.zeros import finite, keep_zeros
from keras_sparse.replicas import check_replicas
from keras_sparse.slots import iterations, momentum, slots


@dataclasses.dataclass(frozen=True)
class Site:
    """A masked layer, as `InStep.act` is told of it.

    Attributes:
        place: int, which of the model's masked layers.
        size: int, of the kernel.
        fresh: tuple of floats, what each of the optimizer's slots holds for a new weight.
        momentum: index of the slot that is SGD's momentum; None if there is none.
        factor: float, the momentum's.
        nesterov: bool, whether it is Nesterov's.
        zeros: bool, whether training leaves dead weights 0 and their slots fresh.
    """

    place: int
    size: int
    fresh: tuple
    momentum: int | None
    factor: float
    nesterov: bool
    zeros: bool

    @classmethod
    def of(cls, place, layer, optimizer):
        """Of a masked layer."""
        kernel = layer.kernel_variable
        found = slots(optimizer, kernel)
        sgd, slot = momentum(optimizer, kernel)
        index = next((i for i, (v, _) in enumerate(found) if v is slot), None)
        return cls(
            place=place,
            size=math.prod(kernel.shape),
            fresh=tuple(fresh for _, fresh in found),
            momentum=index,
            factor=sgd.momentum if slot is not None else 0.0,
            nesterov=slot is not None and sgd.nesterov,
            zeros=keep_zeros([layer], optimizer),
        )


class InStep(SparseMethod):
    """Base of methods that act on each layer after every optimizer step, and keep its number of live weights.

    A subclass has `begin`, `settings` and `act`. `act` is compiled with the training step, so nothing goes to the host
    and back, and `steps_per_execution` may be any. What it remembers of a layer, such as the positions of the live
    weights, is made anew from mask and weights at each epoch, so that no checkpoint lacks it.

    That the live weights are as many as they must be is checked at the end of each epoch, and so are the replicas.

    Args:
        **kwargs: of `SparseMethod`, but for `period`.
    """

    def begin(self, place, layer):
        """What `act` remembers of a masked layer.

        Returns:
            List of arrays. The first holds the live positions, int32 and 1-D; the last how many died, an int32 scalar.
        """
        raise NotImplementedError

    def settings(self):
        """What `act` needs of the epoch's schedules: float32 array of one dimension."""
        raise NotImplementedError

    def act(self, site, step, rate, settings, weights, mask, slots, own):
        """What a step makes of a layer, in `keras.ops`: a pure function of flat arrays.

        Args:
            site: `Site`.
            step: int32 scalar, the optimizer's step.
            rate: float32 scalar, its learning rate.
            settings: as `settings` makes it.
            weights: array, the kernel.
            mask: boolean array.
            slots: list of arrays, the optimizer's.
            own: list of arrays, as `begin` makes them.

        Returns:
            `(weights, mask, slots, own)`.
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
        layers = places(model)
        own = [self.begin(place, layer) for place, layer in layers]
        if not (self._inside and self._inside.renew(own, self.settings())):
            self._leave()
            acts = [self._act(place, layer, model.optimizer) for place, layer in layers]
            variables = [_variables(layer, model.optimizer) for _, layer in layers]
            self._inside = Inside(model, acts, variables, own, self.settings())

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
            self._close(model, self._inside.own())
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

    _kept = None  # for each layer what `act` remembers from one call to the next

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
        layers, memory = places(model), masked_layers(model)[0].kernel_mask
        self._epoch, self._step = epoch, step
        if memory is not self._recalled:
            self.recall(memory)
            self._recalled = memory
            self.start(model)
        if not finite([layer for _, layer in layers]):
            self._skip([layer for _, layer in layers], optimizer, memory)
            return
        own = [self.begin(place, layer) for place, layer in layers]
        if self._kept and all(map(_same_live, self._kept, own)):
            own = [[*kept[:-1], new[-1]] for kept, new in zip(self._kept, own, strict=True)]
        rate = np.float32(ops.convert_to_numpy(optimizer.learning_rate))
        clock = (np.int32(step), rate, self.settings())
        self._kept = []
        for (place, layer), mine in zip(layers, own, strict=True):
            act, variables = self._act(place, layer, optimizer), _variables(layer, optimizer)
            act = self._compiled.setdefault(act.args, compiled(act))
            values, mine = act(*clock, [ops.convert_to_tensor(v) for v in variables], mine)
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            self._kept.append([np.array(ops.convert_to_numpy(x)) for x in mine])
        self._close(model, self._kept)
        self._updates += 1

    # In both.

    def _act(self, place, layer, optimizer):
        return functools.partial(self._on_kernel, Site.of(place, layer, optimizer))

    def _on_kernel(self, site, step, rate, settings, values, own):
        """`act` on arrays of the kernel's shape."""
        weights, mask, *others = (ops.reshape(x, (-1,)) for x in values)
        weights, mask, others, own = self.act(site, step, rate, settings, weights, mask, others, own)
        if not site.zeros:
            weights = ops.where(mask, weights, ops.zeros_like(weights))
            others = [ops.where(mask, x, ops.full_like(x, f)) for x, f in zip(others, site.fresh, strict=True)]
        return [ops.reshape(x, v.shape) for x, v in zip((weights, mask, *others), values, strict=True)], own

    def _close(self, model, own):
        """Checks what steps have left, and counts."""
        for (_, layer), (live, *_) in zip(places(model), own, strict=True):
            found = np.flatnonzero(elements.view(layer.kernel_mask.value))
            if not np.array_equal(np.sort(live), found):
                raise RuntimeError(
                    f"{type(self).__name__} broke an invariant: {len(live)} weights of {layer.name!r} must be live "
                    f"after step {self._step} (received {len(found)}), and the mask must say which. Start again from "
                    "the last checkpoint; if nothing else has written to the mask, please report it."
                )
        died = sum(int(x[-1]) for x in own)
        self._dropped += died
        self._grown += died
        elements.assign(masked_layers(model)[0].kernel_mask.last_update, self._step)
        if self.check_replicas:
            check_replicas(model)


def _variables(layer, optimizer):
    kernel = layer.kernel_variable
    return [kernel, layer.kernel_mask.value, *(slot for slot, _ in slots(optimizer, kernel))]


def _same_live(one, other):
    return np.array_equal(np.sort(one[0]), np.sort(other[0]))
