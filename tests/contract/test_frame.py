import struct
import subprocess
import sys
import time
import zlib

import contract  # noqa: F401 - first: OpenCV reads the limit that this sets when it is imported

# isort: split
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import FrameError
from contract.frame import FrameLimits, Preprocessing, decode_frame, encode_jpeg, read_frame_header

LIMITS = FrameLimits()
GREY = Preprocessing(height=64, width=96)
COLOUR = Preprocessing(height=64, width=96, channels=3)


def picture(height=240, width=320, channels=3, seed=0):
    random = np.random.default_rng(seed)
    small = random.integers(0, 255, (height // 8, width // 8, channels), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


JPEG = encode_jpeg(picture())
PNG = bytes(cv2.imencode(".png", picture())[1])


def jpeg_declaring(height, width, components=3):
    """A whole JPEG whose frame header says something else."""
    at = JPEG.index(b"\xff\xc0")
    header = JPEG[at + 5 : at + 9]
    changed = struct.pack(">HH", height, width)
    data = JPEG[: at + 5] + changed + JPEG[at + 9 :]
    assert header != changed or (height, width) == (240, 320)
    return data[: at + 9] + bytes([components]) + data[at + 10 :]


def png_bomb(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(side + 1) * 64)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_with(*chunks):
    """A sound PNG with further chunks behind its header."""
    made = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return PNG[:33] + made + PNG[33:]


PACKED_TEXT = zlib.compress(bytes(8 * 2**20), 9)


def many_scans(count):
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00"
    return JPEG[: JPEG.index(b"\xff\xda")] + scan * count + b"\xff\xd9"


def segment(marker, body=b""):
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(body)) + body


def frame_header(side):
    return segment(0xC0, b"\x08" + struct.pack(">HH", side, side) + b"\x01\x01\x11\x00")


def before_scan(inserted, data=JPEG):
    at = data.index(b"\xff\xda")
    return data[:at] + inserted + data[at:]


def after_scan(inserted):
    return JPEG[:-2] + inserted + JPEG[-2:]


BAD = [
    (b"", "empty"),
    (b"\xff", "not_jpeg_or_png"),
    (b"\xff\xd8\xff", "truncated"),
    (np.random.default_rng(1).bytes(5000), "not_jpeg_or_png"),
    (b"<!doctype html><html></html>", "not_jpeg_or_png"),
    (JPEG[: len(JPEG) // 2], "truncated"),
    (JPEG[:-2], "truncated"),
    (jpeg_declaring(65500, 65500), "too_large"),
    (jpeg_declaring(20000, 20000), "too_large"),
    (jpeg_declaring(0, 320), "too_small"),
    (encode_jpeg(picture()[:1, :1]), "too_small"),
    (jpeg_declaring(240, 320, components=4), "unsupported_colour"),
    (JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1), "unsupported_coding"),
    (many_scans(2000), "too_many_scans"),
    (JPEG + bytes(9 * 2**20), "too_many_bytes"),
    (png_bomb(60000), "too_large"),
    (PNG[: len(PNG) // 2], "truncated"),
    (PNG[:20], "truncated"),
    (PNG[:-1], "truncated"),
    (png_with(*[(b"zTXt", b"a\0\0" + PACKED_TEXT)] * 3), "malformed"),
    (png_with(*[(b"iTXt", b"a\0\1\0\0\0" + PACKED_TEXT)] * 3), "malformed"),
    (png_with(*[(b"tEXt", b"a\0b")] * 5000), "malformed"),
    (PNG[:33] + b"IEND\xae\x42\x60\x82", "truncated"),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "not_jpeg_or_png"),
    (b"GIF89a" + bytes(50), "not_jpeg_or_png"),
    (b"II*\x00" + bytes(50), "not_jpeg_or_png"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(50), "not_jpeg_or_png"),
    (b"\x00\x00\x00\x20ftypavif" + bytes(50), "not_jpeg_or_png"),
    (b"\xff\xd8\xff\xe0\x00\x02\xff\xd9", "malformed"),
    (before_scan(frame_header(64), jpeg_declaring(60000, 60000)), "malformed"),
    (after_scan(frame_header(64)), "malformed"),
    (JPEG[:2] + segment(0xDA, bytes(6)) + JPEG[2:], "malformed"),
    (before_scan(b"\xff\xd8"), "malformed"),
    (after_scan(b"\xff\xd8"), "malformed"),
    (after_scan(JPEG), "malformed"),
    (before_scan(segment(0xFE) * 2001), "malformed"),
    (before_scan(b"\xff\x01" * 2001), "malformed"),
]


@pytest.mark.parametrize(("data", "reason"), BAD, ids=[f"{i}-{row[1]}" for i, row in enumerate(BAD)])
def test_a_bad_frame_is_refused_with_its_reason(data, reason):
    with pytest.raises(FrameError) as caught:
        decode_frame(data, GREY, LIMITS)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_a_pixel_is_allocated():
    code = (
        "import resource, sys; from tests.contract.test_frame import *\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for data in (png_bomb(60000), png_bomb(30000), jpeg_declaring(65500, 65500), many_scans(5000)):\n"
        "    try: decode_frame(data, GREY, LIMITS)\n"
        "    except FrameError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KiB


def test_texts_within_a_png_are_no_fault_and_change_no_pixel():
    texts = png_with(
        (b"tEXt", b"a\0b"), (b"zTXt", b"a\0\0" + zlib.compress(b"b")), (b"iTXt", b"a\0\0\0\0\0" + b"b" * 20_000)
    )
    assert np.array_equal(decode_frame(texts, GREY, LIMITS), decode_frame(PNG, GREY, LIMITS))


def test_many_tiny_markers_cost_no_time():
    began = time.perf_counter()
    for marker in (b"\xff\x01", b"\xff\xfe\x00\x02", b"\xff\xd0", b"\xff\x00", b"\xff\xff"):
        with pytest.raises(FrameError):
            read_frame_header(JPEG[:2] + marker * (8 * 2**20 // len(marker) - 1), LIMITS)
    assert time.perf_counter() - began < 2


def test_a_comment_or_two_thousand_are_no_fault():
    assert read_frame_header(before_scan(segment(0xFE) * 1900), LIMITS).height == 240


def test_opencv_was_told_the_limit_before_it_was_imported():
    code = "from tests.contract.test_frame import *; cv2.imdecode(np.frombuffer(png_bomb(20000), np.uint8), 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "CV_IO_MAX_IMAGE_PIXELS" in done.stderr


def test_a_header_read_before_is_not_read_again():
    header = read_frame_header(JPEG + b"tail", LIMITS)
    assert header.trailing_bytes == 4
    frame = decode_frame(JPEG + b"tail", GREY, LIMITS, header=header)
    assert np.array_equal(frame, decode_frame(JPEG, GREY, LIMITS))


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["jpeg", "png"])
@pytest.mark.parametrize("preprocessing", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_good_frame_has_the_model_s_shape(data, preprocessing):
    frame = decode_frame(data, preprocessing, LIMITS)
    assert frame.shape == (64, 96, preprocessing.channels)
    assert frame.dtype == np.uint8


@pytest.mark.parametrize(
    ("size", "flag"),
    [
        ((64, 96), cv2.IMREAD_GRAYSCALE),
        ((127, 191), cv2.IMREAD_GRAYSCALE),
        ((128, 192), cv2.IMREAD_REDUCED_GRAYSCALE_2),
        ((300, 400), cv2.IMREAD_REDUCED_GRAYSCALE_4),
        ((1080, 1920), cv2.IMREAD_REDUCED_GRAYSCALE_8),
        ((720, 200), cv2.IMREAD_REDUCED_GRAYSCALE_2),
    ],
)
def test_the_chain_decodes_at_the_smallest_scale_that_is_not_below_the_input(size, flag):
    data = encode_jpeg(picture(size[0] // 8 * 8 + 8, size[1] // 8 * 8 + 8)[: size[0], : size[1]])
    reduced = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    assert reduced.shape[0] >= 64
    assert reduced.shape[1] >= 96
    expected = reduced if reduced.shape == (64, 96) else cv2.resize(reduced, (96, 64), interpolation=cv2.INTER_AREA)
    assert np.array_equal(decode_frame(data, GREY, LIMITS)[..., 0], expected)


def test_a_frame_smaller_than_the_input_grows():
    assert decode_frame(encode_jpeg(picture(32, 32)), GREY, LIMITS).shape == (64, 96, 1)


def test_a_grey_jpeg_serves_a_colour_model():
    frame = decode_frame(encode_jpeg(picture(channels=1)), COLOUR, LIMITS)
    assert np.array_equal(frame[..., 0], frame[..., 2])


def test_trailing_bytes_are_counted_and_ignored():
    assert read_frame_header(JPEG + b"tail", LIMITS).trailing_bytes == 4
    assert read_frame_header(PNG + b"tail!", LIMITS).trailing_bytes == 5
    assert np.array_equal(decode_frame(JPEG + b"tail", GREY, LIMITS), decode_frame(JPEG, GREY, LIMITS))


def test_an_embedded_thumbnail_does_not_end_the_picture():
    thumbnail = encode_jpeg(picture(64, 64))
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    data = JPEG[:2] + segment + JPEG[2:]
    header = read_frame_header(data, LIMITS)
    assert (header.height, header.width) == (240, 320)
    with pytest.raises(FrameError, match="cut"):
        read_frame_header(data[:-50], LIMITS)


def test_exif_orientation_is_ignored():
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    turned = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body + JPEG[2:]
    assert np.array_equal(decode_frame(turned, GREY, LIMITS), decode_frame(JPEG, GREY, LIMITS))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_arbitrary_bytes_give_pixels_or_a_frame_error(data, start):
    with pytest.raises(FrameError):
        decode_frame(start + data, GREY, LIMITS)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([JPEG, PNG]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_mutated_frame_gives_pixels_or_a_frame_error(data, changes):
    mutated = bytearray(data)
    for place, value in changes:
        mutated[min(int(place * len(data)), len(data) - 1)] = value
    try:
        frame = decode_frame(bytes(mutated), GREY, LIMITS)
    except FrameError:
        return
    assert frame.shape == (64, 96, 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([JPEG, PNG]), st.floats(0, 1, exclude_max=True))
def test_a_frame_cut_anywhere_is_refused(data, share):
    with pytest.raises(FrameError):
        decode_frame(data[: int(share * len(data))], GREY, LIMITS)


@pytest.mark.parametrize(
    ("size", "flag"),
    [
        ((64, 96), cv2.IMREAD_COLOR_BGR),
        ((128, 192), cv2.IMREAD_REDUCED_COLOR_2),
        ((256, 384), cv2.IMREAD_REDUCED_COLOR_4),
        ((1080, 1920), cv2.IMREAD_REDUCED_COLOR_8),
    ],
)
def test_colour_is_decoded_in_bgr_at_the_same_scales(size, flag):
    data = encode_jpeg(picture(*size))
    reduced = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    expected = cv2.resize(reduced, (96, 64), interpolation=cv2.INTER_AREA)
    assert np.array_equal(decode_frame(data, COLOUR, LIMITS), expected)


@pytest.mark.parametrize(("size", "how"), [((240, 320), cv2.INTER_AREA), ((40, 320), cv2.INTER_LINEAR)])
def test_a_png_is_decoded_whole(size, how):
    data = bytes(cv2.imencode(".png", picture(*size))[1])
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(decode_frame(data, GREY, LIMITS)[..., 0], cv2.resize(whole, (96, 64), interpolation=how))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_progressive_jpeg_gives_what_a_baseline_one_gives(channels):
    pixels = picture()
    progressive = bytes(
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    )
    assert b"\xff\xc2" in progressive
    preprocessing = Preprocessing(height=64, width=96, channels=channels)
    expected = decode_frame(encode_jpeg(pixels), preprocessing, LIMITS).astype(int)
    assert np.abs(decode_frame(progressive, preprocessing, LIMITS) - expected).max() <= 1


def test_limits_are_reached_at_exactly_their_value():
    header = read_frame_header(PNG, LIMITS)
    assert (header.height, header.width) == (240, 320)
    exact = FrameLimits(max_frame_bytes=len(PNG), max_frame_pixels=240 * 320, min_side_px=240)
    assert read_frame_header(PNG, exact) == header
    for field, value, reason in (
        ("max_frame_bytes", len(PNG) - 1, "too_many_bytes"),
        ("max_frame_pixels", 240 * 320 - 1, "too_large"),
        ("min_side_px", 241, "too_small"),
    ):
        with pytest.raises(FrameError) as caught:
            read_frame_header(PNG, exact.model_copy(update={field: value}))
        assert caught.value.reason == reason


def test_twelve_bits_a_sample_are_refused():
    at = JPEG.index(b"\xff\xc0") + 4
    with pytest.raises(FrameError) as caught:
        decode_frame(JPEG[:at] + b"\x0c" + JPEG[at + 1 :], GREY, LIMITS)
    assert caught.value.reason == "unsupported_coding"


def test_the_same_bytes_give_the_same_pixels():
    assert decode_frame(JPEG, GREY, LIMITS).tobytes() == decode_frame(bytes(bytearray(JPEG)), GREY, LIMITS).tobytes()
