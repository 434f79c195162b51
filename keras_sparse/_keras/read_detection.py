"""Detects that Keras reads the values of a model."""

import os
import sys

import keras

# Functions of Keras that read the values of a model.
READERS = {"get_weights", "get_state_tree", "export", "export_saved_model", "save_weights_to_hdf5_group"}

_FOLDER = os.path.dirname(keras.__file__) + os.sep


def is_reading_out() -> bool:
    """Returns whether one of `READERS` of Keras is on the call stack. Their names are those of 3.15.

    There is no public hook: Keras uses the same lists of variables for reading and for writing. A function that writes
    them may have set the weights and not the masks yet, so that clearing dead weights then would destroy weights.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in READERS and frame.f_code.co_filename.startswith(_FOLDER):
            return True
        frame = frame.f_back
    return False
