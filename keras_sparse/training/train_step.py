"""The place in Keras's compiled training step right after the optimizer, on each backend."""

import contextlib

import keras
from keras import ops

from keras_sparse.backend import elements
from keras_sparse.training.standing import Standing


class Inside(Standing):
    """Lets a function change variables after each optimizer step, while it stands in a model's training function.

    Args:
        model: compiled `keras.Model`, in `fit`.
        act: pure function `(step, rate, settings, values, own) -> (values, own)`.
        variables: list of lists of the `keras.Variable`s whose values it gets and changes.
        own: list of arrays that it gets and changes; they belong to nothing else, and go into no file.
        settings: array that it gets.

    Attributes:
        expected: bool, whether a training step has been announced. One that has not belongs to a later `fit`, when this
            one was cut off and nobody called `release`: it is made as Keras makes it.
    """

    expected = False

    def __init__(self, model, act, variables, own, settings):
        super().__init__(model)
        self._act, self._variables = act, variables
        with scope(model):
            self._own = [_variable(x) for x in own]
            self._settings = _variable(settings)
        self._values = None
        self._function = self.made()

    def renew(self, own, settings):
        """Sets `own` and `settings` anew, to arrays of the same shapes."""
        self._values = None
        for variable, array in zip([*self._own, self._settings], [*own, settings], strict=True):
            elements.assign(variable, array)

    def own(self):
        """What `own` has become: list of NumPy arrays."""
        return [ops.convert_to_numpy(x) for x in self._values or self._own]

    def made(self):
        """Keras's training function, with what acts in it."""
        make = {"tensorflow": self._tensorflow, "jax": self._jax, "torch": self._torch}
        return make[keras.backend.backend()](self.model)

    def train(self, *arguments):
        """Trains, and lets the function act if that was announced."""
        if not self.expected:
            self.release()
            return self.usual(*arguments)
        self.expected = False
        return self._function(*arguments)

    def _tensorflow(self, model):
        import tensorflow as tf

        def on_replica(settings, step, rate, go, variables, own):
            values = tensors((settings, variables, own))
            write((variables, own), _guarded(self._act, go, step, rate, *values))

        def on_all(strategy, before):
            before = before if before is None else strategy.experimental_local_results(before)[0]
            step, rate = _clock(model.optimizer)
            variables = keras.tree.map_structure(lambda v: v.value, (self._variables, self._own))
            arguments = (step, rate, _go(before, step), *variables)
            strategy.extended.update(self._settings.value, on_replica, args=arguments, group=False)

        def train_step(data):
            before = _before(model.optimizer)
            logs = model.train_step(data)
            tf.distribute.get_replica_context().merge_call(on_all, args=(before,))
            return logs

        return model._make_function(train_step)

    def _jax(self, model):
        import jax

        self._act = compiled(self._act)  # Where the model is not compiled, its loops would be, at each call.

        def train_step(state, own, settings, data):
            optimizer = model.optimizer
            with keras.StatelessScope(list(zip(optimizer.variables, state[2], strict=True))):
                before = _before(optimizer)
            logs, state = model.train_step(state, data)
            kinds = (
                model.trainable_variables,
                model.non_trainable_variables,
                optimizer.variables,
                model.metrics_variables,
            )
            values = [pair for kind in zip(kinds, state, strict=True) for pair in zip(*kind, strict=True)]
            with keras.StatelessScope(values) as after:
                own = self._assign(before, settings, own)
            return logs, tuple([after.get_current_value(v) for v in kind] for kind in kinds), own

        if model.jit_compile and not model.run_eagerly:
            sharding = None
            if keras.distribution.distribution() is not None:
                sharding = (None, model._get_state_sharding_spec(), None)
            train_step = jax.jit(train_step, donate_argnums=(0, 1), out_shardings=sharding)

        def step(state, data):
            # What a compiled function closes over stays what it was, so it gets all that it changes.
            own = self._values or [ops.copy(v) for v in self._own]
            logs, state, self._values = train_step(state, own, self._settings.value, data)
            return logs, state

        return model._make_function(step)

    def _torch(self, model):
        import torch

        def train_function(data):
            before = _before(model.optimizer)
            logs = model.train_step(data[0])
            with torch.no_grad():
                own = self._values or tensors(self._own)
                self._values = self._assign(before, ops.convert_to_tensor(self._settings), own)
            return logs

        return train_function

    def _assign(self, before, settings, own):
        """Lets it act; returns what `own` becomes."""
        step, rate = _clock(self.model.optimizer)
        values = tensors(self._variables)
        values, own = _guarded(self._act, _go(before, step), step, rate, settings, values, own)
        write(self._variables, values)
        return own


def compiled(act):
    """The function that acts, compiled on its own."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(act)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(act, autograph=False)
    return lambda *arguments: act(*tensors(arguments))


# The optimizer makes no step where it accumulates gradients, nor where loss scaling finds infinities.


def _before(optimizer):
    """The step before a batch, if it is not sure that the batch makes one."""
    scaled = hasattr(optimizer, "inner_optimizer")
    return _clock(optimizer)[0] if scaled or optimizer.gradient_accumulation_steps else None


def _clock(optimizer):
    """The optimizer's step and learning rate."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    batches = ops.cast(ops.convert_to_tensor(inner._iterations), "int32")
    return batches // (inner.gradient_accumulation_steps or 1), ops.cast(optimizer.learning_rate, "float32")


def _go(before, step):
    return None if before is None else step > before


def _guarded(act, go, step, rate, settings, values, own):
    if go is None:
        return act(step, rate, settings, values, own)
    return ops.cond(go, lambda: act(step, rate, settings, values, own), lambda: (values, own))


def scope(model):
    """The scope of the strategy that a model is distributed by, if it is."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy else contextlib.nullcontext()


def tensors(values):
    """The values of nested lists of variables or arrays."""
    return keras.tree.map_structure(ops.convert_to_tensor, values)


def write(variables, values):
    """Assigns to nested lists of variables."""
    keras.tree.map_structure(lambda variable, value: variable.assign(value), variables, values)


def _variable(array):
    return keras.Variable(array, dtype=array.dtype.name, trainable=False)
