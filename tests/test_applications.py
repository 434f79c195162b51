"""Networks of keras.applications stay the same through sparsify, save, load and densify; the tool makes the table."""

import keras
import pytest

from tools import applications

pytestmark = pytest.mark.long


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the smallest of all families, on one backend")
@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small", "Xception", "ConvNeXtTiny"])
def test_a_network_stays_the_same(name):
    found = applications.row(name)
    assert found["masked"] > 0.95
    assert max(found["differences"]) < 1e-5
