"""Detects that Keras reads the values of a model."""

import sys

# Functions of Keras that read the values of a model.
READERS = {"get_weights", "get_state_tree", "export", "export_saved_model", "save_weights_to_hdf5_group"}


def is_reading_out() -> bool:
    """Returns whether one of `READERS` is on the call stack.

    There is no public hook: Keras uses the same lists of variables for reading and for writing. A function that writes
    them may have set the weights and not the masks yet, so that clearing dead weights then would destroy weights.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in READERS and "/keras/" in frame.f_code.co_filename.replace("\\", "/"):
            return True
        frame = frame.f_back
    return False
