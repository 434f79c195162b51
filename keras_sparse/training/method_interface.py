"""The methods that a sparse training method may override, with their defaults."""

import dataclasses

import keras
import numpy as np

from keras_sparse.layers.traversal import trainable_masked_weights
from keras_sparse.training.dead_weights import leaves_zeros
from keras_sparse.training.layer_state import LayerSpec, LayerState, layer_specs, live_weights


class MethodInterface:
    """The methods that a subclass of `keras_sparse.SparseMethod` may override. It must override `drop`.

    An update calls, in this order: `drop`, `redistribute`, `grow`, `budget` and `initial_values`. For layers with an
    N:M pattern, it calls `preferences` of the growth strategy instead of `grow`.
    """

    grows = True  # Whether weights grow, which needs dead positions: `fit` warns if all masks are dense.
    owes_updates = True  # Whether a resumed run makes an update that was due when its checkpoint was written.

    def budget(self, layers: list[LayerState]) -> int:
        """Returns the number of weights that must be live after the update. By default it does not change."""
        return live_weights(layers)

    def drop(self, layers: list[LayerState]) -> list[np.ndarray]:
        """Returns, for each layer, a boolean array of the shape of `layer.live`, True for the elements to drop."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what to drop: give it a method `drop`. drop(self, layers) returns for "
            "each layer a boolean array as long as `layer.live`, such as criteria.weakest(layer.scores, count)."
        )

    def redistribute(self, layers: list[LayerState], dropped: list[np.ndarray]) -> list[int]:
        """Returns the number of mask elements that each layer grows. By default, as many as it dropped."""
        return [np.count_nonzero(d) for d in dropped]

    def grow(self, layer: LayerState, count: int, rng: np.random.Generator) -> np.ndarray:
        """Returns `count` positions of mask elements to grow, all dead before the update."""
        return self.growth_strategy.positions(layer, count, rng)

    def initial_values(self, shape: tuple, rng: np.random.Generator) -> np.ndarray:
        """Returns the initial values of grown weights: float array of `shape`, `(weights per element, elements)`."""
        return self.growth_strategy.initial_values(shape, rng)

    def get_state(self) -> dict:
        """Returns the state to save with the model: dict of str to numbers, strings and small arrays."""
        return {}

    def set_state(self, state: dict) -> None:
        """Restores a dict that `get_state` returned; {} for a model that the method has not trained."""

    def logs(self) -> dict:
        """Returns entries of the method for the logs of the epoch."""
        return {}

    def check(self, model: keras.Model, layers: list) -> None:
        """Raises an error if the method cannot train these weights. Called at the beginning of `fit`."""

    def start(self, model: keras.Model, optimizer: keras.Optimizer) -> None:
        """Prepares the model and the state of its optimizer.

        Called before the first step of `fit`, after callbacks have restored a checkpoint.
        """

    def may_be_idle(self) -> bool:
        """Whether it is normal that no update of this fit dropped anything. If not, `fit` warns."""
        return False

    # Inside of the training step.

    def step_action(self, epoch: int) -> tuple | None:
        """Returns the arguments of `act_on_layers` for the steps of an epoch, or None if steps need no action.

        By default they need none if neither the optimizer nor a penalty in the user's code changes dead weights.

        Args:
            epoch: int from 0, the epoch that begins.

        Returns:
            None, or `(specs, carried, settings)`. `carried` is a list of arrays, `settings` an array.
        """
        model = self.model
        if leaves_zeros(model, trainable_masked_weights(model), model.optimizer):
            return None
        # The number of live weights changes during training, and clearing does not need it. Without it, the specs stay
        # equal, and the step is not compiled anew.
        specs = tuple(dataclasses.replace(spec, live=None) for spec in layer_specs(model, zeros=False))
        return specs, [], np.zeros(1, "float32")

    def act_on_layers(self, specs: tuple[LayerSpec, ...], step, rate, settings, values: list, carried: list) -> tuple:
        """Acts right after the optimizer of each step. By default, sets dead weights to 0 and resets their slots.

        It is compiled with the training step, so it must be a pure function of arrays that uses `keras.ops`.

        Args:
            specs: tuple of `keras_sparse.training.layer_state.LayerSpec`, one for each trainable masked weight.
            step: int32 scalar, the optimizer's step.
            rate: float32 scalar, the learning rate.
            settings: array, as `step_action` returned it.
            values: list with, for each weight, the list `[weight, mask, *optimizer slots]`.
            carried: list of arrays that are carried from step to step.

        Returns:
            The new `(values, carried)`.
        """
        return [spec.cleared(*x) for spec, x in zip(specs, values, strict=True)], carried

    def end_steps(self, model: keras.Model, specs: tuple[LayerSpec, ...], carried: list) -> None:
        """Gets the final `carried` at the end of an epoch, if `step_action` did not return None."""
