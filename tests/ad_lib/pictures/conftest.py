"""What most tests of figures begin with."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def images():
    return torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
