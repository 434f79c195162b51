"""Replaces the compiled training step of a model for one `fit`, or one of its batches."""

import functools
import weakref

import numpy as np
from keras import Variable

from keras_sparse import _keras, backend
from keras_sparse.layers.gradient_masking import masking_only_gradients
from keras_sparse.layers.traversal import masked_weights, trainable_masked_weights
from keras_sparse.training.dead_weights import clear
from keras_sparse.training.layer_state import variables_of
from keras_sparse.training.optimizer_state import batches_and_steps
from keras_sparse.training.step_conditions import may_be_written_at_epoch_begin, may_mask_gradients_only


class ReplacedTrainStep:
    """Replaces `train_step` of a model for one `fit`.

    It also replaces `make_train_function`, to detect the next `fit`. If a `fit` is interrupted, nothing calls
    `release`. But each `fit` calls `make_train_function` first, and then the replacement removes itself.

    Args:
        model: compiled `keras.Model`, in `fit`.
    """

    of_one_fit = True  # Copies of the model do not get its methods.

    def __init__(self, model):
        self._model = model
        self._usual = model.train_step
        self._make = model.make_train_function
        # Replace the methods on the object, not on its class.
        self._originals = {name: vars(model).get(name) for name in ("train_step", "make_train_function")}
        model.train_step = self.train_step
        model.make_train_function = self.make_train_function

    def train_step(self, *arguments):
        """Makes a training step, with the arguments and results of `train_step` of Keras on the backend."""
        raise NotImplementedError

    def make_train_function(self, force: bool = False):
        """Calls `make_train_function` of Keras. Without `force`, another `fit` begins, so this is released first."""
        if not force:
            self.release()
            return self._model.make_train_function()
        return self._make(force=True)

    def release(self) -> None:
        """Restores the methods of the model."""
        model = self._model
        if getattr(vars(model).get("make_train_function"), "__self__", None) is not self:
            return  # released already, or replaced by another one
        for name, value in self._originals.items():
            if getattr(vars(model).get(name), "__self__", None) is not self:
                continue  # replaced since, by the user
            if value is None:
                delattr(model, name)
            else:
                setattr(model, name, value)
        self.on_release()

    def on_release(self) -> None:
        """Makes the model forget the train function of the replaced step."""
        self._model.train_function = None


class TrainStepHook(ReplacedTrainStep):
    """Makes a pure function act on variables after each optimizer step of one `fit`.

    Args:
        model: compiled `keras.Model`, in `fit`.
        action: pure function `(step, rate, settings, values, carried) -> (values, carried)` of arrays.
        variables: list of lists of `keras.Variable`, whose values are passed as `values` and set to those returned.
        carried: list of arrays, the initial `carried`. It is carried from step to step, and not saved.
        settings: array, passed as it is.
    """

    def __init__(self, model, action, variables, carried, settings):
        self._holder = masked_weights(model)[0].mask
        with backend.scope(model):
            self._carried = [_variable(x) for x in carried]
            self._steps = _variable(np.zeros((), "int32"))
            self._settings = _variable(settings)
        # On JAX a compiled step gets and returns the variables that the model lists, and no others. So a mask of the
        # model lists the variables of the hook among its own.
        self._all = [*self._carried, self._steps, self._settings]
        self._holder.carry(self._all)

        # The count of the steps is carried as the last variable. `StepsOfFit.end` compares it with the optimizer's.
        def counted(step, rate, settings, values, carried):
            *carried, steps = carried
            values, carried = action(step, rate, settings, values, carried)
            return values, [*carried, steps + 1]

        self._hooked = backend.hook_train_step(
            model, model.train_step, counted, variables, [*self._carried, self._steps], self._settings
        )
        super().__init__(model)
        self._make(force=True)

    def train_step(self, *arguments):
        """Makes a training step, followed by the action."""
        return self._hooked(*arguments)

    def renew(self, carried: list, settings: np.ndarray) -> None:
        """Sets `carried` and `settings` to other arrays of the same shapes, and the count of steps to 0."""
        arrays = [*carried, np.zeros((), "int32"), settings]
        for variable, array in zip(self._all, arrays, strict=True):
            backend.assign(variable, array)

    def carried(self) -> list[np.ndarray]:
        """Returns the present values of `carried`."""
        return [np.array(backend.read(x)) for x in self._carried]

    def steps(self) -> int:
        """Returns how often the function has acted since the hook was made or renewed."""
        return int(backend.read(self._steps))

    def on_release(self) -> None:
        """Makes the model forget the hook's variables and the train function that has them."""
        self._holder.carry([])
        super().on_release()


class GradientMaskingSteps(ReplacedTrainStep):
    """Makes the steps of one `fit` read masked weights as they are, and mask their gradients only.

    Otherwise each step writes a masked copy of each weight, which takes a tenth of a step of LeNet. The copy equals the
    weight if dead weights are 0 at the beginning of each step.

    Args:
        model: compiled `keras.Model`, in `fit`.
        variables: list of the `keras.Variable`s of masked weights, whose dead entries nothing changes in this `fit`.
    """

    def __init__(self, model, variables):
        super().__init__(model)
        self._variables, self._optimizer = variables, model.optimizer
        owner = getattr(model.train_function, "__self__", None)
        # An interrupted `fit` may have left its `NextBatch`.
        self._train_function = owner.usual if isinstance(owner, NextBatch) else model.train_function
        # Steps are compiled when they are first called. Keep the train function in the usual one, so that a loop of
        # many `fit` compiles it once. It keeps the variables, so that their ids stay unique.
        made = vars(self._train_function).setdefault("masking_gradients", {})
        key = tuple(map(id, variables))
        if key not in made:
            self._make(force=True)
            made[key] = model.train_function
        self._masking = model.train_function = made[key]

    def train_step(self, *arguments):
        """Makes a training step."""
        # A callback may compile the model anew in the middle of a `fit`.
        is_same = self._model.optimizer is self._optimizer
        with masking_only_gradients(self._variables if is_same else []):
            return self._usual(*arguments)

    def on_release(self) -> None:
        """Restores the usual train function, unless the model was compiled anew since."""
        is_mine = self._model.train_function is self._masking
        self._model.train_function = self._train_function if is_mine else None


class NextBatch:
    """Passes the last batch of the next execution of a model's train function to `keep`, and trains on it as usual.

    Keras passes an iterator to the train function, and shows callbacks no batch.

    Args:
        model: compiled `keras.Model`, in `fit`.
        count: int, the number of batches of the execution.
        keep: function of the batch.

    Attributes:
        usual: the usual train function of the model.
    """

    of_one_fit = True

    def __init__(self, model, count, keep):
        self._model, self._count, self._keep = model, count, keep
        self.usual = model.train_function
        model.train_function = self.train

    def train(self, *arguments):
        """Runs the usual train function once, and restores it on the model."""
        self._model.train_function = self.usual
        return backend.train_and_keep_batch(self._model, self.usual, self._count, self._keep, *arguments)


_masks_of_last_fit = weakref.WeakKeyDictionary()  # model -> list of its mask variables


def trace_if_masks_are_new(model) -> None:
    """Makes a model trace its steps anew if its masks are others than in the last `fit` with a method.

    Masking a part of a compiled model in place leaves the traced functions of the whole model, which do not have the
    masks. Call it at the beginning of `fit`.

    Args:
        model: compiled `keras.Model`, in `fit`.
    """
    masks, known = [x.mask.value for x in masked_weights(model)], _masks_of_last_fit.get(model, ())
    _masks_of_last_fit[model] = masks
    is_same = len(known) == len(masks) and all(a is b for a, b in zip(known, masks, strict=True))
    if not is_same and _keras.is_code_of_keras(model.train_function):
        _keras.forget_compiled_functions(model)
        model.make_train_function()


class StepsOfFit:
    """Holds what replaces the training step of a model through the epochs of a `fit`.

    With an action, that is `TrainStepHook`; `end` checks that it acted in each step. Without, it is
    `GradientMaskingSteps` where that computes the same as the usual step.

    Args:
        name: str, name of the method, for messages.
    """

    def __init__(self, name):
        self._name = name
        self._replacement = self._shape = self._since = None

    def renew(self, model, step_action, action):
        """Prepares the steps of an epoch, at whose beginning dead weights are 0.

        Args:
            model: compiled `keras.Model`, in `fit`.
            step_action: `(specs, carried, settings)`, or None if the steps need no action.
            action: pure function `(specs, step, rate, settings, values, carried) -> (values, carried)`.
        """
        # The specs are constants of the compiled step: with other ones it must be compiled anew.
        shape = step_action and (step_action[0], len(step_action[1]))
        if self._replacement and shape != self._shape:
            self.release()
            model.make_train_function()
        self._shape = shape
        if step_action is None:
            weights = trainable_masked_weights(model)
            if not self._replacement and may_mask_gradients_only(model, weights):
                self._replacement = GradientMaskingSteps(model, [x.variable for x in weights])
            return
        specs, carried, settings = step_action
        if self._replacement:
            self._replacement.renew(carried, settings)
        else:
            variables = variables_of(trainable_masked_weights(model), model.optimizer)
            self._replacement = TrainStepHook(model, functools.partial(action, specs), variables, carried, settings)
        self._since = batches_and_steps(model.optimizer)[0]

    def begin(self, model):
        """Clears dead weights again before the first step of an epoch, if callbacks may have written to them since."""
        if isinstance(self._replacement, GradientMaskingSteps) and may_be_written_at_epoch_begin():
            clear(trainable_masked_weights(model), model.optimizer)

    def end(self, model):
        """Returns `(specs, carried)` after the steps of an epoch, `carried` a list of arrays; None without an action.

        Raises:
            RuntimeError: if the action was not called in each of the optimizer's steps.
        """
        if self._shape is None:
            return None
        now, per_step = batches_and_steps(model.optimizer)
        expected, made = now // per_step - self._since // per_step, self._replacement.steps()
        if made != expected:
            raise RuntimeError(
                f"{self._name} acts inside of each training step, and was called in {made} of {expected} steps of this "
                f"epoch. The `train_step` of {model.name!r} must call the optimizer once for each batch; while `fit` "
                "runs, do not set it, or call `make_train_function` or `train_on_batch`."
            )
        return self._shape[0], self._replacement.carried()

    def release(self) -> None:
        """Restores the training step of the model."""
        if self._replacement:
            self._replacement.release()
        self._replacement = None

    def __getstate__(self):
        """Returns the state without the replacement, which belongs to one `fit` of one model."""
        return {**vars(self), "_replacement": None, "_shape": None}


def _variable(array):
    return Variable(array, dtype=array.dtype.name, trainable=False)
