"""Which channels of a functional model can go without changing what it computes."""

import collections

import numpy as np

from keras_sparse import _keras
from keras_sparse.export.known_layers import channels, rule_of


class Channels:
    """The channels of all tensors of a model, and which of them stay.

    Constants are followed from the inputs on, and need from the outputs back. Channels that pass through layers
    together, as both sides of an addition do, are one class: it goes only if nothing that uses one of them needs it or
    if all that do can take its constant into their bias.

    Args:
        function: `keras.Function`, such as a functional model.
    """

    def __init__(self, function):
        self.inputs, self.outputs = function.inputs, function.outputs
        self.nodes = [n for n in _keras.graph_nodes(function) if not n.is_input]
        calls = collections.Counter(id(n.operation) for n in self.nodes)
        owners = collections.Counter(
            id(v) for op in {id(n.operation): n.operation for n in self.nodes}.values() for v in _variables(op)
        )
        self.rules = []
        for node in self.nodes:
            once = calls[id(node.operation)] == 1 and all(owners[id(v)] == 1 for v in _variables(node.operation))
            self.rules.append(rule_of(node, [channels(x) for x in node.outputs], once))
        self.start, total = {}, 0  # id of a tensor -> number of its first channel
        for tensor in [*self.inputs, *(x for n in self.nodes for x in n.outputs)]:
            if id(tensor) not in self.start:
                self.start[id(tensor)] = total
                total += channels(tensor)
        self.constant = np.full(total, np.nan)
        self._wanted = np.zeros(total, bool)
        self._held = np.zeros(total, bool)
        self._parent = np.arange(total)
        self._follow_constants()
        self._follow_need()
        self._join()
        self.kept = self._choose()

    def of(self, values, tensor):
        """The part of an array over all channels that is a tensor's, as a view."""
        start = self.start[id(tensor)]
        return values[start : start + channels(tensor)]

    def _follow_constants(self):
        for node, rule in zip(self.nodes, self.rules, strict=True):
            given = [self.of(self.constant, x) for x in node.arguments.keras_tensors]
            for tensor, values in zip(node.outputs, rule.constants(given), strict=True):
                self.of(self.constant, tensor)[:] = values

    def _follow_need(self):
        for tensor in self.outputs:
            self.of(self._wanted, tensor)[:] = True
            self.of(self._held, tensor)[:] = True
        for tensor in self.inputs:
            self.of(self._held, tensor)[:] = True
        for node, rule in zip(reversed(self.nodes), reversed(self.rules), strict=True):
            tensors = node.arguments.keras_tensors
            # What is the same number for any input is made of nothing.
            wanted = [self.of(self._wanted, x) & np.isnan(self.of(self.constant, x)) for x in node.outputs]
            given = [self.of(self.constant, x) for x in tensors]
            for tensor, need, held in zip(tensors, rule.needed(wanted), rule.held(given, wanted), strict=True):
                self.of(self._wanted, tensor)[:] |= need
                self.of(self._held, tensor)[:] |= held
            if rule.pinned or getattr(rule, "pins_output", False):
                for tensor in node.outputs:
                    self.of(self._held, tensor)[:] = True

    def _join(self):
        for node, rule in zip(self.nodes, self.rules, strict=True):
            for tensor, (source, target) in zip(node.arguments.keras_tensors, rule.links(), strict=True):
                first, second = self.start[id(tensor)], self.start[id(node.outputs[0])]
                for a, b in zip(source + first, target + second, strict=True):
                    self._parent[self._root(a)] = self._root(b)

    def _root(self, channel):
        while self._parent[channel] != channel:
            self._parent[channel] = channel = self._parent[self._parent[channel]]
        return channel

    def _choose(self):
        """Which channels stay: those of classes that are held, and one of each tensor at least."""
        roots = np.array([self._root(c) for c in range(len(self._parent))], int)
        stays = np.zeros(len(roots), bool)
        np.logical_or.at(stays, roots, self._held)
        for tensor in (x for node in self.nodes for x in node.outputs):
            own = self.of(roots, tensor)
            if len(own) and not stays[own].any():
                stays[own[0]] = True
        return stays[roots]


def _variables(operation):
    return getattr(operation, "weights", ())
