"""Train Keras 3 networks that are sparse from the first step."""

from keras_sparse import criteria, distributions, layers, schedules
from keras_sparse.callbacks import BackupAndRestore, EarlyStopping, ModelCheckpoint, SparsityTensorBoard
from keras_sparse.conversion import densify, sparsify
from keras_sparse.export import deployment_report, export, load_litert, save_model, shrink
from keras_sparse.layers import masked_layers, masked_weights
from keras_sparse.methods import SET, DeepR, DynamicSparse, GradualPruning, RigL, Static
from keras_sparse.replicas import check_replicas
from keras_sparse.report import compare, report
from keras_sparse.training.growth import LargestGradient, RandomGrowth
from keras_sparse.training.layer_state import LayerState
from keras_sparse.training.per_step_method import PerStepMethod
from keras_sparse.training.sparse_method import SparseMethod

__all__ = [
    "SET",
    "BackupAndRestore",
    "DeepR",
    "DynamicSparse",
    "EarlyStopping",
    "GradualPruning",
    "LargestGradient",
    "LayerState",
    "ModelCheckpoint",
    "PerStepMethod",
    "RandomGrowth",
    "RigL",
    "SparseMethod",
    "SparsityTensorBoard",
    "Static",
    "check_replicas",
    "compare",
    "criteria",
    "densify",
    "deployment_report",
    "distributions",
    "export",
    "layers",
    "load_litert",
    "masked_layers",
    "masked_weights",
    "report",
    "save_model",
    "schedules",
    "shrink",
    "sparsify",
]
__version__ = "0.1.0"
