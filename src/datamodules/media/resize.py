"""Frames in another size."""

from torch import Tensor
from torch.nn.functional import interpolate


def resize(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    """`frame`, uint8 [3, H, W], with `size` (height, width); bilinear, with antialiasing, as torchvision's Resize."""
    if size is None or tuple(frame.shape[1:]) == size:
        return frame.cpu()
    # on a GPU in float, which torch has no uint8 kernel for
    pixels = frame if frame.device.type == "cpu" else frame.float()
    resized = interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return resized.round().clamp(0, 255).byte().cpu() if resized.is_floating_point() else resized
