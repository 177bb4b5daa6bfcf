"""Masks out of a MATLAB 5 file: a cell array of matrices, one a frame.

Written for labels from elsewhere: SciPy's reader takes every type of the format, holds all matrices at once, and brings
the process down where cells are nested some ten thousand deep. Here one type is taken, matrix by matrix.

Source: MathWorks, MAT-File Format, chapter "MAT-File Format for version 5".
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from contract.errors import LabelError
from trainer.label_kinds import Mask

_HEADER_BYTES: Final = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL: Final = 1
_NUMERIC: Final = range(6, 16)
# Types of data, which may be narrower than the class of their matrix: whole numbers are stored in few bytes.
_TYPES: Final = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_COMPLEX: Final = 0x08
_CHUNK: Final = 2**16
_MAX_MASKS: Final = 10**6
_MAX_MASK_BYTES: Final = 64 * 2**20
_MAX_FILE_BYTES: Final = 8 * 2**30

_Read = Callable[[int], bytes]
"""Gives exactly that many bytes, or raises `_MatError`."""


@dataclass(frozen=True)
class PackedMask:
    """One mask in a few hundred bytes.

    Attributes:
        height: Rows, pixels.
        width: Columns, pixels.
        data: One bit a pixel, deflated.
    """

    height: int
    width: int
    data: bytes

    def unpack(self) -> Mask:
        """Give the pixels: uint8 of shape (height, width), 1 where anomalous."""
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        return np.unpackbits(bits, count=self.height * self.width).reshape(self.height, self.width)


class _MatError(Exception):
    """What is wrong with the file."""


def read_mat_masks(path: Path, variable: str) -> list[PackedMask]:
    """Read a cell array of dense matrices, above 0 where anomalous; blocks while the file is inflated.

    Args:
        path: File as MATLAB saves it with ``-v6`` or ``-v7``.
        variable: Name of the cell array, of shape (1, frames) or (frames, 1).

    Raises:
        LabelError: The file cannot be read, is of another version, does not hold that, or passes the limits.
    """
    try:
        with path.open("rb") as file:
            order = _read_header(file.read(_HEADER_BYTES))
            for read, require_end in _matrices(file, order):
                flags, shape, name = _read_matrix_start(read, order)
                if name == variable:
                    masks = list(_read_cells(read, order, flags, shape))
                    require_end()
                    return masks
    except OSError as error:
        raise LabelError(f"labels {path} cannot be read: {error.strerror}") from error
    except (_MatError, zlib.error) as error:
        raise LabelError(f"labels {path}: {error}") from error
    raise LabelError(f"labels {path}: it holds no variable {variable}")


def _read_header(header: bytes) -> str:
    if header.startswith(b"MATLAB 7.3"):
        raise _MatError("saved by MATLAB as version 7.3; save it again with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if order is None:
        raise _MatError("expected a MATLAB 5 file")
    return order


def _matrices(file: IO[bytes], order: str) -> Iterator[tuple[_Read, Callable[[], None]]]:
    """Give a reader of each variable in turn, and a check of its end; what is left unread is passed over."""
    at = _HEADER_BYTES
    while True:
        file.seek(at)
        tag = file.read(8)
        if not tag:
            return
        kind, size = _unpack_tag(tag, order)
        # MATLAB pads all elements but compressed ones.
        at += 8 + (size if kind == _COMPRESSED else _padded(size))
        if kind == _MATRIX:
            yield _exactly(file), lambda: None
        elif kind == _COMPRESSED:
            inflater = _Inflater(file, size)
            if _unpack_tag(inflater.read(8), order)[0] == _MATRIX:
                yield inflater.read, inflater.require_end


def _exactly(file: IO[bytes]) -> _Read:
    def read(size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise _MatError("it is cut short")
        return data

    return read


class _Inflater:
    """Reads one compressed variable of the file."""

    def __init__(self, file: IO[bytes], packed_bytes: int) -> None:
        self._file = file
        self._packed_left = packed_bytes
        self._waiting = b""
        self._given = 0
        self._inflater = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        """Give exactly that many bytes, or raise `_MatError`."""
        self._given += size
        if self._given > _MAX_FILE_BYTES:
            raise _MatError(f"it unpacks to more than {_MAX_FILE_BYTES} bytes")
        parts, missing = [], size
        while missing:
            part = self._inflate(missing)
            if not part and (self._inflater.eof or not (self._waiting or self._packed_left)):
                raise _MatError("it is cut short")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def require_end(self) -> None:
        """Check that nothing is left and, as zlib does there, the checksum of all that was read."""
        while not self._inflater.eof:
            if self._inflate(1) or not (self._inflater.eof or self._waiting or self._packed_left):
                raise _MatError("it does not end where its matrices do")

    def _inflate(self, most: int) -> bytes:
        if not self._waiting and self._packed_left:
            self._waiting = self._file.read(min(_CHUNK, self._packed_left))
            self._packed_left = self._packed_left - len(self._waiting) if self._waiting else 0
        part = self._inflater.decompress(self._waiting, most)
        self._waiting = self._inflater.unconsumed_tail
        return part


def _read_cells(read: _Read, order: str, flags: int, shape: tuple[int, ...]) -> Iterator[PackedMask]:
    frames = math.prod(shape)
    if flags & 0xFF != _CELL or len(shape) != 2 or min(shape) != 1 or frames > _MAX_MASKS:
        raise _MatError(
            f"expected a cell array of shape 1 x frames, found {_kind(flags)} of shape {' x '.join(map(str, shape))}"
        )
    for frame in range(frames):
        kind, size = _unpack_tag(read(8), order)
        if kind != _MATRIX or not 0 < size <= _MAX_MASK_BYTES:
            raise _MatError(f"cell {frame + 1} is no matrix of 1 to {_MAX_MASK_BYTES} bytes")
        yield _pack(_read_pixels(_from_bytes(read(_padded(size))), order, frame + 1))


def _read_pixels(read: _Read, order: str, cell: int) -> npt.NDArray[np.bool_]:
    flags, shape, _ = _read_matrix_start(read, order)
    if flags & 0xFF not in _NUMERIC or flags >> 8 & _COMPLEX or len(shape) != 2 or not min(shape):
        raise _MatError(
            f"cell {cell}: expected a matrix of height x width, found {_kind(flags)} of shape "
            f"{' x '.join(map(str, shape))}"
        )
    kind, data = _read_element(read, order)
    if kind not in _TYPES or len(data) != math.prod(shape) * int(_TYPES[kind][1]):
        raise _MatError(f"cell {cell}: its data are not those of a matrix of {shape[0]} x {shape[1]}")
    # MATLAB stores columns one after another.
    return np.frombuffer(data, order + _TYPES[kind]).reshape(shape, order="F") > 0


def _pack(pixels: npt.NDArray[np.bool_]) -> PackedMask:
    height, width = pixels.shape
    return PackedMask(height, width, zlib.compress(np.packbits(pixels).tobytes(), 1))


def _read_matrix_start(read: _Read, order: str) -> tuple[int, tuple[int, ...], str]:
    """Read flags, shape and name of a matrix."""
    (_, flags), (_, shape), (_, name) = (_read_element(read, order, limit=4096) for _ in range(3))
    if len(flags) != 8 or len(shape) < 8 or len(shape) % 4:
        raise _MatError("a matrix without flags or shape")
    sides = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    if min(sides) < 0:
        raise _MatError("a matrix of negative size")
    return struct.unpack(f"{order}II", flags)[0], sides, name.decode("latin-1")


def _read_element(read: _Read, order: str, limit: int = _MAX_MASK_BYTES) -> tuple[int, bytes]:
    """Read type and data of an element that is no matrix."""
    tag = read(8)
    (first,) = struct.unpack(f"{order}I", tag[:4])
    if first >> 16:
        # A small element: at most four bytes of data stand in the tag itself.
        return first & 0xFFFF, tag[4 : 4 + min(4, first >> 16)]
    kind, size = _unpack_tag(tag, order)
    if size > limit:
        raise _MatError(f"an element of {size} bytes, at most {limit} are taken")
    return kind, read(_padded(size))[:size]


def _unpack_tag(tag: bytes, order: str) -> tuple[int, int]:
    if len(tag) < 8:
        raise _MatError("it is cut short")
    kind, size = struct.unpack(f"{order}II", tag)
    return kind, size


def _from_bytes(data: bytes) -> _Read:
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        if at + size > len(data):
            raise _MatError("a matrix of fewer bytes than it says")
        at += size
        return data[at - size : at]

    return read


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def _kind(flags: int) -> str:
    names = {1: "a cell array", 2: "a structure", 3: "an object", 4: "text", 5: "a sparse matrix"}
    return names.get(flags & 0xFF, "a matrix")
