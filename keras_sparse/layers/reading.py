"""Whether Keras is taking the values of a model out of it."""

import sys

# Functions of Keras that take the values of a model out of it.
READERS = {"get_weights", "get_state_tree", "export", "export_saved_model", "save_weights_to_hdf5_group"}


def is_reading_out():
    """Whether one of `READERS` is at work, by the call stack.

    No public hook tells: Keras asks a layer for the same lists of variables to read them and to write to them, and
    whoever writes may have set the kernels and not yet the masks.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in READERS and "/keras/" in frame.f_code.co_filename.replace("\\", "/"):
            return True
        frame = frame.f_back
    return False
