"""Arrays as files that people look at."""

import imagecodecs
import numpy as np

from gpu_render.errors import NotRenderable
from gpu_render.frame import Samples


def encode_png(pixels: Samples) -> bytes:
    """PNG of a (height, width) or (height, width, 3) array of uint8 or uint16.

    Raises NotRenderable for other dtypes: PNG knows neither signs nor fractions.
    """
    if pixels.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise NotRenderable(f"PNG cannot hold {pixels.dtype.str} values; write .npy, or ask for stage display")
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
