"""The device that these tests compare with the CPU: the accelerator, or else they skip.

`WORDSIGHT_TEST_DEVICE=cpu` runs them on the CPU, which shows only that they run.
"""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    if name := os.environ.get("WORDSIGHT_TEST_DEVICE"):
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        pytest.skip("needs an accelerator")
    return accelerator
