"""Which device a model runs on."""

from typing import TYPE_CHECKING

from wordsight.errors import ConfigError

if TYPE_CHECKING:
    import torch


def parse_device(device: "str | torch.device | None") -> "torch.device":
    """Return a device that can be used: the given one, or the first accelerator, or else the CPU.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    import torch

    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        parsed = torch.device(device)
        torch.empty(0, device=parsed)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {str(device)!r}: not available: {reason}; omit the option, or use 'cpu'") from error
    return parsed
