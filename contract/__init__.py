"""What the trainer, the exporter and the worker agree on, implemented once."""

import os

__version__ = "0.2.0"

# OpenCV reads this once, when it is first imported; 64 megapixels is twice 8K UHD.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(64 * 2**20))
