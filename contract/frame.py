"""From the bytes of one camera frame to the pixels a model sees.

Only JPEG and PNG are taken. What a file declares of itself is read and limited before a pixel is allocated. One
decoding chain, named in the manifest, serves training and inference, since chains differ by several grey levels:

``dct-area-1``: a JPEG is decoded at the smallest of libjpeg's scales 1, 1/2, 1/4, 1/8 that is not smaller than the
model's input, straight to grey where the model is grey; a PNG is decoded whole. Then INTER_AREA (INTER_LINEAR where it
has to grow) resizes to the input's height and width without keeping the aspect ratio. EXIF orientation is ignored:
pixels are taken as the sensor stored them.

Sources: ITU-T T.81 annex B (JPEG markers), W3C PNG third edition, section 5.
"""

import re
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from contract.errors import FrameError
from contract.settings import FrozenModel

Frame = npt.NDArray[np.uint8]
"""One picture, uint8 of shape (height, width, channels); three channels are in OpenCV's order, BGR."""

DecodingChain = Literal["dct-area-1"]
Motion = Literal["none", "difference-1", "flow-dis-2", "flow-dis-fast-2"]

MOTION_CHANNELS: Final[dict[Motion, int]] = {"none": 0, "difference-1": 1, "flow-dis-2": 2, "flow-dis-fast-2": 2}
"""Channels that each kind of motion adds to a frame; see `contract.motion`."""

FLOW_FRAMES: Final = 2
"""Frames over which flow is measured."""

FLOW_NEUTRAL: Final = 128
"""Level of a flow channel where nothing moved."""

FLOW_STEPS_A_PIXEL: Final = 8
"""Levels of a flow channel for each pixel of the model's input."""

_PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_MAX_PNG_CHUNKS: Final = 5000
_MAX_PNG_TEXT_BYTES: Final = 16 * 2**10
_JPEG_MAGIC: Final = b"\xff\xd8\xff"
_SOF_BASELINE_TO_PROGRESSIVE: Final = (0xC0, 0xC1, 0xC2)
_SOF_OTHERS: Final = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_START: Final = 0xD8
_END: Final = 0xD9
_SCAN: Final = 0xDA
_TEMPORARY: Final = 0x01
# Inside entropy-coded data 0xFF is followed by 0x00 or a restart marker alone, so this meets real markers only.
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_MAX_JPEG_SCANS: Final = 100
# Each marker costs about a microsecond to step over, and the smallest segment is four bytes.
_MAX_JPEG_MARKERS: Final = 2000
_IGNORE_ORIENTATION: Final = cv2.IMREAD_IGNORE_ORIENTATION
_READ_FLAGS: Final = {
    (1, 1): cv2.IMREAD_GRAYSCALE,
    (1, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
    (1, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
    (1, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
    (3, 1): cv2.IMREAD_COLOR_BGR,
    (3, 2): cv2.IMREAD_REDUCED_COLOR_2,
    (3, 4): cv2.IMREAD_REDUCED_COLOR_4,
    (3, 8): cv2.IMREAD_REDUCED_COLOR_8,
}


class FrameLimits(FrozenModel):
    """What a frame may declare before any of its pixels are decoded."""

    max_frame_bytes: int = Field(default=8 * 2**20, ge=1024, le=64 * 2**20)
    """Size of an encoded frame, bytes."""

    max_frame_pixels: int = Field(default=7680 * 4320, ge=64 * 64, le=64 * 2**20)
    """Height times width that a frame may declare; the default is 8K UHD."""

    min_side_px: int = Field(default=16, ge=1, le=4096)
    """Smallest height or width, pixels."""


class Preprocessing(FrozenModel):
    """How a frame becomes the model's input; it belongs to the model and stands in its manifest."""

    height: int = Field(ge=16, le=4096)
    """Rows of the model's input, pixels."""

    width: int = Field(ge=16, le=4096)
    """Columns of the model's input, pixels."""

    channels: Literal[1, 3] = 1
    """1 for grey, 3 for colour in BGR order."""

    chain: DecodingChain = "dct-area-1"
    """Name of the decoding chain; see the module's text."""

    motion: Motion = "none"
    """What is computed from the camera's frames and added to each as further channels; see `contract.motion`."""

    @property
    def input_channels(self) -> int:
        """Channels of a frame as the model takes it: its own, then those of its motion."""
        return self.channels + MOTION_CHANNELS[self.motion]

    @property
    def last_frame(self) -> slice:
        """Channels of a clip's images that are the last frame's, its motion included."""
        return slice(-self.input_channels, None)

    @property
    def last_picture(self) -> slice:
        """Channels of a clip's images that are the last frame's own, its motion left out."""
        last = -self.input_channels
        return slice(last, last + self.channels or None)


class FrameHeader(NamedTuple):
    """What an encoded frame declares of itself.

    Attributes:
        kind: ``"jpeg"`` or ``"png"``.
        height: Rows, pixels.
        width: Columns, pixels.
        trailing_bytes: Bytes after the picture's end marker; they are ignored.
    """

    kind: Literal["jpeg", "png"]
    height: int
    width: int
    trailing_bytes: int


def read_frame_header(data: bytes, limits: FrameLimits) -> FrameHeader:
    """Read the declared kind and size of an encoded frame, decoding nothing.

    Args:
        data: One JPEG or PNG file.
        limits: Bounds the declaration must keep.

    Raises:
        FrameError: The bytes are empty, too many, neither JPEG nor PNG, incomplete, or declare what is not taken. Its
            reason is one of ``empty``, ``too_many_bytes``, ``not_jpeg_or_png``, ``truncated``, ``malformed``,
            ``unsupported_coding``, ``unsupported_colour``, ``too_many_scans``, ``too_small``, ``too_large``.
    """
    if not data:
        raise FrameError("empty", "the record has no value; expected one JPEG or PNG")
    if len(data) > limits.max_frame_bytes:
        raise FrameError("too_many_bytes", f"{len(data)} bytes, at most {limits.max_frame_bytes} are taken")
    if data.startswith(_JPEG_MAGIC):
        header = _read_jpeg_header(data)
    elif data.startswith(_PNG_MAGIC):
        header = _read_png_header(data)
    else:
        raise FrameError("not_jpeg_or_png", f"the bytes start with {data[:4].hex(' ')}; expected JPEG or PNG")
    if min(header.height, header.width) < limits.min_side_px:
        raise FrameError(
            "too_small",
            f"{header.width}x{header.height} declared, each side needs {limits.min_side_px} px or more",
        )
    if header.height * header.width > limits.max_frame_pixels:
        raise FrameError(
            "too_large",
            f"{header.width}x{header.height} declared, at most {limits.max_frame_pixels} px are taken",
        )
    return header


def decode_frame(
    data: bytes, preprocessing: Preprocessing, limits: FrameLimits, *, header: FrameHeader | None = None
) -> Frame:
    """Decode one JPEG or PNG to the model's input size.

    Args:
        data: One JPEG or PNG file.
        preprocessing: Size, channels and chain.
        limits: Bounds checked before decoding.
        header: What `read_frame_header` said of the same bytes within the same limits, where the caller has asked it.

    Returns:
        uint8 of shape (height, width, channels), 0..255.

    Raises:
        FrameError: As `read_frame_header`, or reason ``undecodable`` where the decoder gives up.
    """
    header = header or read_frame_header(data, limits)
    scale = 1
    if header.kind == "jpeg":
        while (
            scale < 8
            and header.height // (scale * 2) >= preprocessing.height
            and header.width // (scale * 2) >= preprocessing.width
        ):
            scale *= 2
    try:
        picture = cv2.imdecode(
            np.frombuffer(data, np.uint8), _READ_FLAGS[preprocessing.channels, scale] | _IGNORE_ORIENTATION
        )
    except cv2.error as error:
        raise FrameError("undecodable", f"OpenCV cannot decode this {header.kind}: {error.err}") from error
    if picture is None or not picture.size:
        raise FrameError("undecodable", f"OpenCV cannot decode this {header.kind}")
    return fit_to_input(np.asarray(picture, np.uint8), preprocessing)


def fit_to_input(picture: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> Frame:
    """Resize decoded pixels to the model's input by the chain's rule.

    Args:
        picture: uint8 of shape (h, w) or (h, w, channels).
        preprocessing: The model's input.

    Returns:
        uint8 of shape (height, width, channels).
    """
    height, width = preprocessing.height, preprocessing.width
    if picture.shape[:2] != (height, width):
        shrinks = picture.shape[0] >= height and picture.shape[1] >= width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)
    return picture.reshape(height, width, preprocessing.channels)


def encode_jpeg(picture: npt.NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode pixels as a baseline JPEG.

    Args:
        picture: uint8 of shape (height, width), (height, width, 1) or (height, width, 3) in BGR order.
        quality: libjpeg's quality, 0..100.
    """
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def _read_jpeg_header(data: bytes) -> FrameHeader:
    size: tuple[int, int] | None = None
    scans = 0
    at = 2
    for _ in range(_MAX_JPEG_MARKERS):
        marker, at = _next_marker(data, at)
        if marker == _END:
            break
        if marker == _TEMPORARY:
            continue
        # libjpeg goes by the first frame header and allocates at the first scan, so what comes after may not differ.
        if marker == _START or (marker in _SOF_BASELINE_TO_PROGRESSIVE and size) or (marker == _SCAN and not size):
            raise FrameError("malformed", f"JPEG marker 0x{marker:02x} where none may stand")
        segment = _read_segment(data, at)
        at += len(segment)
        if marker in _SOF_OTHERS:
            raise FrameError(
                "unsupported_coding", f"JPEG frame type 0x{marker:02x}; baseline and progressive are taken"
            )
        if marker in _SOF_BASELINE_TO_PROGRESSIVE:
            size = _read_frame_segment(segment)
        scans += marker == _SCAN
        if scans > _MAX_JPEG_SCANS:
            raise FrameError("too_many_scans", f"a JPEG of more than {_MAX_JPEG_SCANS} scans")
    else:
        raise FrameError("malformed", f"a JPEG of more than {_MAX_JPEG_MARKERS} markers")
    if size is None or not scans:
        raise FrameError("malformed", "a JPEG without a frame header or a scan")
    return FrameHeader("jpeg", *size, trailing_bytes=len(data) - at)


def _read_segment(data: bytes, at: int) -> bytes:
    """Bytes of the segment whose length field stands at a position, that field included."""
    length = int.from_bytes(data[at : at + 2], "big")
    if length < 2 or at + length > len(data):
        raise FrameError("truncated", f"a JPEG segment runs past the {len(data)} bytes that came")
    return data[at : at + length]


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """Find the next marker at or after a position, passing over entropy-coded bytes and fill bytes."""
    found = _MARKER.search(data, at)
    if found is None:
        raise FrameError("truncated", "a JPEG without its end marker; it came cut")
    return data[found.start() + 1], found.end()


def _read_frame_segment(segment: bytes) -> tuple[int, int]:
    if len(segment) < 8:
        raise FrameError("malformed", "a JPEG frame header of fewer than 8 bytes")
    precision, components = segment[2], segment[7]
    height, width = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[5:7], "big")
    if precision != 8:
        raise FrameError("unsupported_coding", f"a JPEG of {precision} bits a sample; 8 are taken")
    if components not in (1, 3):
        raise FrameError("unsupported_colour", f"a JPEG of {components} components (CMYK has 4); 1 or 3 are taken")
    return height, width


def _read_png_header(data: bytes) -> FrameHeader:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise FrameError("truncated" if len(data) < 33 else "malformed", "a PNG without its header chunk")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    at, packed_texts = len(_PNG_MAGIC), 0
    for _ in range(_MAX_PNG_CHUNKS):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        packed_texts += length if _is_packed_text(kind, data[at + 8 : at + 90]) else 0
        at += length + 12
        if at > len(data):
            raise FrameError("truncated", "a PNG without its end chunk; it came cut")
        if packed_texts > _MAX_PNG_TEXT_BYTES:
            # The decoder unpacks each, to a thousand times its size, before it comes to the picture.
            raise FrameError("malformed", f"a PNG with over {_MAX_PNG_TEXT_BYTES} bytes of compressed text")
        if kind == b"IEND":
            return FrameHeader("png", height, width, trailing_bytes=len(data) - at)
    raise FrameError("malformed", f"a PNG of over {_MAX_PNG_CHUNKS} chunks")


def _is_packed_text(kind: bytes, start: bytes) -> bool:
    """Whether a PNG's chunk holds compressed text: a flag behind the keyword of international text says so."""
    return kind == b"zTXt" or (kind == b"iTXt" and start[start.find(0) + 1 :][:1] == b"\x01")
