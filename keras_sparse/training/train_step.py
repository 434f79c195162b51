"""Hooks a function into a model's compiled training step, right after the optimizer."""

import functools

import numpy as np
from keras import Variable

from keras_sparse import backend
from keras_sparse.layers.traversal import masked_weights, trainable_masked_weights
from keras_sparse.training.layer_state import variables_of
from keras_sparse.training.optimizer_state import batches_and_steps


class TrainStepHook:
    """Lets a pure function change variables after each optimizer step of one `fit`.

    It overrides `train_step`, and `make_train_function` to notice the next `fit`, if this one is cut off and nobody
    calls `release`: each `fit` asks for its train function first, and then Keras's own comes back.

    Args:
        model: compiled `keras.Model`, in `fit`.
        action: pure function `(step, rate, settings, values, carried) -> (values, carried)`.
        variables: list of lists of the `keras.Variable`s whose values it gets and changes.
        carried: list of arrays that it gets and changes; they belong to nothing else, and go into no file.
        settings: array that it gets.
    """

    of_one_fit = True  # A copy of the model goes without.

    def __init__(self, model, action, variables, carried, settings):
        self._model = model
        self._holder = masked_weights(model)[0].mask
        with backend.scope(model):
            self._carried = [_variable(x) for x in carried]
            self._steps = _variable(np.zeros((), "int32"))
            self._settings = _variable(settings)
        # On JAX a step sees the variables of the model only.
        self._all = [*self._carried, self._steps, self._settings]
        self._holder.carry(self._all)

        def counted(step, rate, settings, values, carried):
            *carried, steps = carried
            values, carried = action(step, rate, settings, values, carried)
            return values, [*carried, steps + 1]

        self._replaced = {name: vars(model).get(name) for name in ("train_step", "make_train_function")}
        self._make = model.make_train_function
        hooked = backend.hook_train_step(
            model, model.train_step, counted, variables, [*self._carried, self._steps], self._settings
        )
        model.train_step = hooked
        model.make_train_function = self.make_train_function
        self._make(force=True)

    def renew(self, carried, settings):
        """Sets `carried` and `settings` anew, to arrays of the same shapes, and the count of steps to 0."""
        arrays = [*carried, np.zeros((), "int32"), settings]
        for variable, array in zip(self._all, arrays, strict=True):
            backend.assign(variable, array)

    def carried(self):
        """What `carried` has become: list of NumPy arrays."""
        return [np.array(backend.read(x)) for x in self._carried]

    def steps(self):
        """How often the function has acted since it was made or renewed."""
        return int(backend.read(self._steps))

    def make_train_function(self, force=False):
        """Keras's; without `force` it is the beginning of another `fit`, to which the hook does not belong."""
        if not force:
            self.release()
            return self._model.make_train_function()
        return self._make(force=True)

    def release(self):
        """Gives the model its own training step back."""
        model = self._model
        if getattr(vars(model).get("make_train_function"), "__self__", None) is not self:
            return
        for name, value in self._replaced.items():
            if value is None:
                delattr(model, name)
            else:
                setattr(model, name, value)
        self._holder.carry([])
        model.train_function = None


class NextBatch:
    """Keeps the last batch of the next execution of a model's train function, and trains on it all the same.

    Args:
        model: compiled `keras.Model`, in `fit`.
        count: int, how many batches the execution has.
        keep: function of the batch.
    """

    of_one_fit = True

    def __init__(self, model, count, keep):
        self._model, self._count, self._keep = model, count, keep
        self._usual = model.train_function
        model.train_function = self.train

    def train(self, *arguments):
        """Trains once in place of the train function."""
        self._model.train_function = self._usual
        return backend.train_and_keep_batch(self._model, self._usual, self._count, self._keep, *arguments)


class HookedSteps:
    """The hook of a method, renewed at each epoch, and the count of its steps.

    Args:
        name: str, of the method, for messages.
    """

    def __init__(self, name):
        self._name = name
        self._hook = self._shape = self._since = None

    def renew(self, model, work, action):
        """Prepares the steps of an epoch.

        Args:
            model: compiled `keras.Model`, in `fit`.
            work: None if there is nothing to do, or `(specs, carried, settings)`.
            action: function `(specs, step, rate, settings, values, carried) -> (values, carried)`.
        """
        shape = work and (work[0], len(work[1]))
        if self._hook and shape != self._shape:
            self.release()
            model.make_train_function()
        self._shape = shape
        if work is None:
            return
        specs, carried, settings = work
        if self._hook:
            self._hook.renew(carried, settings)
        else:
            variables = variables_of(trainable_masked_weights(model), model.optimizer)
            self._hook = TrainStepHook(model, functools.partial(action, specs), variables, carried, settings)
        self._since = batches_and_steps(model.optimizer)[0]

    def end(self, model):
        """What the steps of an epoch have left: `(specs, carried)`, the latter a list of arrays; None if nothing.

        Raises:
            RuntimeError: if a training step was made without the action that belongs to it.
        """
        if not self._hook:
            return None
        now, per_step = batches_and_steps(model.optimizer)
        expected, made = now // per_step - self._since // per_step, self._hook.steps()
        if made != expected:
            raise RuntimeError(
                f"{self._name} acts inside of each training step, and was called in {made} of {expected} steps of this "
                "epoch. Do not set `train_step` or call `make_train_function` or `train_on_batch` of "
                f"{model.name!r} while `fit` runs."
            )
        return self._shape[0], self._hook.carried()

    def release(self):
        """Gives the model its own training step back."""
        if self._hook:
            self._hook.release()
        self._hook = None

    def __getstate__(self):
        """None of it: a copy belongs to no `fit`."""
        return {**vars(self), "_hook": None, "_shape": None}


def _variable(array):
    return Variable(array, dtype=array.dtype.name, trainable=False)
