"""Prunes a small Keras 2 net with TF-MOT and writes its masks; run by test_gradual_pruning.py."""

import json
import sys

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

settings = {
    "learning_rate": 0.01,
    "epochs": 3,
    "schedule": {
        "initial_sparsity": 0.2,
        "final_sparsity": 0.8,
        "begin_step": 3,
        "end_step": 28,
        "power": 3,
        "frequency": 5,
    },
}
rng = np.random.default_rng(0)
labels = np.arange(96) % 3
x = ((rng.normal(size=(3, 8)) * 3)[labels] + rng.normal(size=(96, 8))).astype("float32")
y = labels.astype("int32")
layers = [tf_keras.layers.Dense(n, a) for n, a in ((16, "relu"), (12, "relu"), (3, None))]
model = tf_keras.Sequential([tf_keras.Input((8,)), *layers])
kernels = [rng.normal(0, 0.4, layer.kernel.shape).astype("float32") for layer in layers]
for layer, kernel in zip(layers, kernels, strict=True):
    layer.kernel.assign(kernel)
schedule = tfmot.sparsity.keras.PolynomialDecay(**settings["schedule"])
model = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
model.compile(
    tf_keras.optimizers.legacy.SGD(settings["learning_rate"]),
    tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
masks = {}


class Watch(tf_keras.callbacks.Callback):
    """Records the masks after each pruning, which TF-MOT makes inside the training step."""

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        if bool(schedule(tf.constant(step, tf.int64))[0]):
            wrappers = [layer for layer in self.model.layers if hasattr(layer, "pruning_vars")]
            for i, wrapper in enumerate(wrappers):
                masks[f"masks{i}_{step}"] = wrapper.pruning_vars[0][1].numpy()


model.fit(
    x,
    y,
    batch_size=8,
    epochs=settings["epochs"],
    shuffle=False,
    verbose=0,
    callbacks=[tfmot.sparsity.keras.UpdatePruningStep(), Watch()],
)
np.savez(
    sys.argv[1], x=x, y=y, settings=json.dumps(settings), **{f"kernel{i}": k for i, k in enumerate(kernels)}, **masks
)
