"""PyTorch dense, pruned, or with SparseLab: `python pytorch.py dense|prune|sparselab lenet 100 0.98`."""

import time

import torch
import worker
from torch import nn
from torch.nn.utils import prune

variant, network, batch_size, sparsity = worker.parse_arguments()


def linear(inputs, units, bias=False):
    """Returns a dense layer, or a sparse one for SparseLab."""
    if variant == "sparselab":
        import sparselab

        return sparselab.SparseLinear(inputs, units, sparsity=sparsity, bias=bias)
    return nn.Linear(inputs, units, bias=bias)


def lenet():
    """Returns LeNet-300-100 with batch normalization."""
    parts = [nn.Flatten()]
    for inputs, units in ((784, 300), (300, 100), (100, 10)):
        parts += [linear(inputs, units), nn.BatchNorm1d(units), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Block(nn.Module):
    """A residual block: two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(filters)
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, filters, 1, stride, bias=False) if inputs != filters else None

    def forward(self, x):
        """Returns the output of the block."""
        y = torch.relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(torch.relu(self.norm2(self.conv1(y))))


def wrn():
    """Returns WRN-28-2."""
    if variant == "sparselab":
        raise SystemExit("SparseLab has no convolutions.")
    parts, inputs = [nn.Conv2d(3, 16, 3, padding=1, bias=False)], 16
    for group, filters in enumerate((32, 64, 128)):
        for block in range(4):
            parts.append(Block(inputs, filters, 2 if group and not block else 1))
            inputs = filters
    return nn.Sequential(
        *parts, nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)
    )


model = {"lenet": lenet, "wrn": wrn}[network]()
pruned = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))] if variant == "prune" else []
algorithm = None
if variant == "sparselab":
    import sparselab

    algorithm = sparselab.SET(sparsity=sparsity, drop_fraction=0.1, update_freq=50)
    model.apply(algorithm)


def update():
    """Computes new masks by magnitude."""
    for module in pruned:
        if prune.is_pruned(module):
            prune.remove(module, "weight")
        prune.l1_unstructured(module, "weight", sparsity)


update()
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True)
loss = nn.CrossEntropyLoss()


def measure(steps):
    """See `worker.run_worker`."""
    x, y = worker.random_batches(network, batch_size, steps)
    x = torch.from_numpy(x if network == "lenet" else x.transpose(0, 3, 1, 2).copy()).split(batch_size)
    y = torch.from_numpy(y.astype("int64")).split(batch_size)
    started, updates = time.perf_counter(), []
    for images, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()
        if algorithm is not None:
            before = time.perf_counter()
            algorithm.step()
            updates.append(time.perf_counter() - before)
    seconds = time.perf_counter() - started
    if algorithm is not None:
        updates = sorted(updates)[-max(1, steps // 50) :]  # The other calls made no update.
        return (seconds - sum(updates)) / steps, updates
    if pruned:
        before = time.perf_counter()
        update()
        return seconds / steps, [time.perf_counter() - before]
    return seconds / steps, []


worker.run_worker(measure, "torch", *(["sparselab"] if variant == "sparselab" else []))
