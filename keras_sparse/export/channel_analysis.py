"""Finds the channels of a functional model that can be removed without changing what it computes."""

import collections

import numpy as np

from keras_sparse import _keras
from keras_sparse.export.channel_rule_selection import channel_count, has_settings, select_rule


class ChannelAnalysis:
    """Determines which channels of each tensor of a model are kept.

    1. Constants are propagated from the inputs to the outputs.
    2. Needed and fixed channels are propagated from the outputs to the inputs.
    3. Channels that must be removed together, such as those of both inputs of an addition, are joined into groups.
    4. A group is kept if any of its channels is fixed.

    All channels of all tensors are numbered consecutively; an array over channels has one entry for each of them.

    Args:
        function: `keras.Function`, such as a functional model.

    Attributes:
        nodes: list of the calls of operations, in the order in which they run.
        rules: list with the rule of each call, see `keras_sparse.export.channel_rules`.
        constant: float array over channels, NaN for channels that are not constant.
        kept: boolean array over channels.
    """

    def __init__(self, function):
        self.inputs, self.outputs = function.inputs, function.outputs
        self.nodes = [n for n in _keras.graph_nodes(function) if not n.is_input]
        calls = collections.Counter(id(n.operation) for n in self.nodes)
        operations = {id(n.operation): n.operation for n in self.nodes}.values()
        self._owners = collections.Counter(id(v) for operation in operations for v in _variables(operation))
        self.rules = []
        for node in self.nodes:
            # The channels of a layer that is called twice, or shares weights, would be removed in both places.
            once = calls[id(node.operation)] == 1 and not self.shares_weights(node.operation)
            self.rules.append(select_rule(node, [channel_count(x) for x in node.outputs], once))
        self._start, total = {}, 0  # id of a tensor -> number of its first channel
        for tensor in [*self.inputs, *(x for n in self.nodes for x in n.outputs)]:
            if id(tensor) not in self._start:
                self._start[id(tensor)] = total
                total += channel_count(tensor)
        self.constant = np.full(total, np.nan)
        self._needed = np.zeros(total, bool)
        self._fixed = np.zeros(total, bool)
        self._parent = np.arange(total)  # of a union-find structure, whose roots stand for groups of channels
        self._propagate_constants()
        self._propagate_needs()
        self._join_linked_channels()
        self.kept = self._select_kept()

    def of_tensor(self, values, tensor):
        """Returns the part of an array over channels that belongs to a tensor, as a view."""
        start = self._start[id(tensor)]
        return values[start : start + channel_count(tensor)]

    def shares_weights(self, operation):
        """Returns whether another operation of the model has a weight of this one, too."""
        return any(self._owners[id(v)] > 1 for v in _variables(operation))

    def is_called_plainly(self, operation):
        """Returns whether no call of an operation has a mask of positions or settings such as `training=True`."""
        calls = [n for n in self.nodes if n.operation is operation]
        return not any(has_settings(n) or any(map(_keras.has_mask, n.arguments.keras_tensors)) for n in calls)

    def _propagate_constants(self):
        for node, rule in zip(self.nodes, self.rules, strict=True):
            given = [self.of_tensor(self.constant, x) for x in node.arguments.keras_tensors]
            for tensor, values in zip(node.outputs, rule.constants(given), strict=True):
                self.of_tensor(self.constant, tensor)[:] = values

    def _propagate_needs(self):
        for tensor in self.outputs:
            self.of_tensor(self._needed, tensor)[:] = True
            self.of_tensor(self._fixed, tensor)[:] = True
        for tensor in self.inputs:
            self.of_tensor(self._fixed, tensor)[:] = True
        for node, rule in zip(reversed(self.nodes), reversed(self.rules), strict=True):
            tensors = node.arguments.keras_tensors
            # A constant channel needs no inputs, even if it is needed itself.
            needed = [
                self.of_tensor(self._needed, x) & np.isnan(self.of_tensor(self.constant, x)) for x in node.outputs
            ]
            given = [self.of_tensor(self.constant, x) for x in tensors]
            inputs = zip(tensors, rule.needed_inputs(needed), rule.fixed_inputs(given, needed), strict=True)
            for tensor, need, fixed in inputs:
                self.of_tensor(self._needed, tensor)[:] |= need
                self.of_tensor(self._fixed, tensor)[:] |= fixed
            if rule.fixes_outputs:
                for tensor in node.outputs:
                    self.of_tensor(self._fixed, tensor)[:] = True

    def _join_linked_channels(self):
        for node, rule in zip(self.nodes, self.rules, strict=True):
            for tensor, (source, target) in zip(node.arguments.keras_tensors, rule.links(), strict=True):
                first, second = self._start[id(tensor)], self._start[id(node.outputs[0])]
                for a, b in zip(source + first, target + second, strict=True):
                    self._parent[self._root(a)] = self._root(b)

    def _root(self, channel):
        """Returns the root of a channel's group, and shortens the path to it for later calls."""
        while self._parent[channel] != channel:
            self._parent[channel] = channel = self._parent[self._parent[channel]]
        return channel

    def _select_kept(self):
        """Returns which channels are kept: groups with a fixed channel, and at least one channel of each tensor."""
        roots = np.array([self._root(c) for c in range(len(self._parent))], int)
        kept = np.zeros(len(roots), bool)  # by root
        np.logical_or.at(kept, roots, self._fixed)
        for tensor in (x for node in self.nodes for x in node.outputs):
            own = self.of_tensor(roots, tensor)
            if len(own) and not kept[own].any():
                kept[own[0]] = True  # Keras has no layers without units.
        return kept[roots]


def _variables(operation):
    return getattr(operation, "weights", ())
