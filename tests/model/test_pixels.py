"""The conversion of pixels to floats is bitwise identical to the published one."""

import torch

from wordsight.model import to_float

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_every_pixel_value_is_normalised_as_published() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3).contiguous()
    values = to_float(pixels, MEAN, STD)
    assert values.shape == (2, 3, 16, 16)
    for channel in range(3):
        expected = (torch.arange(256).float() / 255 - torch.tensor(MEAN[channel])) / torch.tensor(STD[channel])
        assert torch.equal(values[1, channel].flatten(), expected)


def test_the_result_is_channels_last_and_the_input_is_not_modified() -> None:
    pixels = torch.full((2, 4, 4, 3), 7, dtype=torch.uint8)
    values = to_float(pixels, MEAN, STD)
    assert values.dtype == torch.float32
    assert values.is_contiguous(memory_format=torch.channels_last)
    assert (pixels == 7).all()
