"""Frames in another size."""

from torch import Tensor
from torch.nn.functional import interpolate


def resize(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize a frame: bilinear, with antialiasing, as torchvision's Resize.

    Args:
        frame: uint8 [3, H, W], on any device.
        size: (height, width) in px; None: unchanged.

    Returns:
        uint8 [3, height, width], on the CPU.
    """
    if size is None or tuple(frame.shape[1:]) == size:
        return frame.cpu()
    # torch has no uint8 kernel for GPUs, so there it is done in float
    pixels = frame if frame.device.type == "cpu" else frame.float()
    resized = interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return resized.round().clamp(0, 255).byte().cpu() if resized.is_floating_point() else resized
