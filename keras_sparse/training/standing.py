"""Standing in for a model's training function in a fit: for methods that work within a step, or look at its batch."""


class Standing:
    """Stands in for a model's training function, and hands on to it.

    A subclass has `train`, which is called in its stead. After a fit that was cut off nobody has called `release`: the
    next method does so by `clear_away`.

    Args:
        model: compiled `keras.Model`, in `fit`.
    """

    def __init__(self, model):
        self.model, self.usual = model, model.train_function
        model.train_function = self.train

    def train(self, *arguments):
        """What Keras calls for an execution of steps."""
        raise NotImplementedError

    def made(self):
        """A training function that does as this one, for the `steps_per_execution` that the model has now."""
        raise NotImplementedError

    def release(self):
        """Gives the model its training function back."""
        if self.model.train_function == self.train:
            self.model.train_function = self.usual


def clear_away(model):
    """Releases whatever stands in for a model's training function."""
    while isinstance(standing := getattr(model.train_function, "__self__", None), Standing):
        standing.release()
