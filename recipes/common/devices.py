"""Sets up the devices and the precision of a recipe."""

import contextlib
import dataclasses
import os
import platform
import tempfile
from pathlib import Path

import keras
from absl import app

STRATEGIES = ("none", "mirrored", "data_parallel", "multiworker")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        replicas: int, the number of devices among which each batch is divided.
        part: tuple `(i, n)`, the index of this process and the number of processes.
        strategy: `tf.distribute.Strategy`, or None.
    """

    replicas: int = 1
    part: tuple = (0, 1)
    strategy: object = None

    def scope(self):
        """Returns the context manager in which the model is made."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @property
    def leads(self):
        """Whether this process is the first, which writes files and prints."""
        return self.part[0] == 0

    def save(self, model, path):
        """Saves a model to `path`; every process has to call it.

        Keras makes variables while it saves, which on JAX all processes have to do together.
        """
        if self.leads:
            new = path.with_name("new.keras")  # An interrupted write must not leave an incomplete model.keras.
            model.save(new)
            new.replace(path)
        else:
            with tempfile.TemporaryDirectory() as folder:
                model.save(Path(folder) / "model.keras")

    def describe(self):
        """Describes the machine, for `result.json`."""
        backend = keras.backend.backend()
        names = {_processor(): f"{os.cpu_count()} cores"}
        if backend == "jax":
            import jax

            kinds = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
            names.update(dict.fromkeys(kinds, f"{self.replicas} used"))
        elif backend == "tensorflow":
            import tensorflow as tf

            details = tf.config.experimental.get_device_details
            gpus = [details(d)["device_name"] for d in tf.config.list_physical_devices("GPU")]
            names.update(dict.fromkeys(gpus, f"{self.replicas} used"))
        return ", ".join(f"{name}, {count}" for name, count in names.items())


def prepare(options):
    """Sets up the devices that the flags ask for. Call it before anything is computed.

    Args:
        options: parsed flags `strategy`, `devices`, `coordinator`, `processes`, `process`, `precision`,
            `steps_per_execution`, `jit_compile`.

    Returns:
        `Devices`.
    """
    keras.config.set_dtype_policy(options.precision)
    alone = options.processes == 1 and not options.process and not options.coordinator
    if not alone and options.strategy != "data_parallel":
        raise app.UsageError(
            f"--processes={options.processes}, --process={options.process} and --coordinator={options.coordinator} "
            "have no meaning without --strategy=data_parallel, on the JAX backend."
        )
    if options.strategy == "mirrored":
        if options.jit_compile or (options.steps_per_execution or 1) > 1:
            raise app.UsageError(
                "Under a MirroredStrategy Keras can neither compile with XLA nor execute several steps at once: omit "
                f"--jit_compile={options.jit_compile} and --steps_per_execution={options.steps_per_execution}."
            )
        return _mirrored(options.devices)
    if options.strategy == "data_parallel":
        return _data_parallel(options)
    if options.strategy == "multiworker":
        raise app.UsageError(
            "--strategy=multiworker is refused: TensorFlow's MultiWorkerMirroredStrategy fails inside Keras 3. For "
            "several hosts use the JAX backend: KERAS_BACKEND=jax and --strategy=data_parallel with --coordinator, "
            "--processes and --process."
        )
    if options.devices:
        raise app.UsageError(
            f"--devices={options.devices} has no meaning without a strategy: add --strategy=mirrored or data_parallel."
        )
    return Devices()


def check_batch_size(devices, batch_size):
    """Raises `app.UsageError` if a batch cannot be divided equally."""
    if batch_size % devices.replicas:
        raise app.UsageError(
            f"The batch of {batch_size} images cannot be divided among {devices.replicas} devices. Choose a number "
            "of --devices that divides it, or another --batch_size."
        )


def _mirrored(count):
    _need("tensorflow", "mirrored")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if count and count > len(gpus):
            raise app.UsageError(f"--devices={count}, but this machine has {len(gpus)} GPUs.")
        strategy = tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(count or len(gpus))])
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = tf.config.get_logical_device_configuration(cpu) or []
        if len(logical) != (count or 1):
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * (count or 1))
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count or 1)])
    return Devices(strategy.num_replicas_in_sync, strategy=strategy)


def _data_parallel(options):
    _need("jax", "data_parallel")
    if options.process >= options.processes:
        raise app.UsageError(
            f"--process={options.process} must be below --processes={options.processes}: they count from 0."
        )
    import jax

    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.processes > 1:
        if not options.coordinator:
            raise app.UsageError(
                f"--processes={options.processes} needs --coordinator=HOST:PORT, where process 0 listens."
            )
        keras.distribution.initialize(options.coordinator, options.processes, options.process)
    devices = keras.distribution.list_devices()
    if options.devices and len(devices) != options.devices * options.processes:
        if options.processes > 1 or options.devices > len(devices):
            raise app.UsageError(
                f"--devices={options.devices} for each of {options.processes} processes, but they have {len(devices)} "
                "devices together. Leave the flag out to use all of them."
            )
        devices = devices[: options.devices]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
    return Devices(len(devices), (jax.process_index(), jax.process_count()))


def _need(backend, strategy):
    if keras.backend.backend() != backend:
        raise app.UsageError(
            f"--strategy={strategy} needs the {backend} backend, and this is {keras.backend.backend()}: set "
            f"KERAS_BACKEND={backend}."
        )


def _processor():
    """Returns the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(": ")[1] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
