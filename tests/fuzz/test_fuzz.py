"""Whatever comes in is taken, or refused by the error of its kind in one line; nothing else ever comes out.

Each test is given arbitrary input and good input with something changed. What was once found to break is an `example`.
"""

import base64
import contextlib
import copy
import json
import shutil
import struct
import zlib
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from contract.address import name_of_address, without_credentials
from contract.alert import Alert
from contract.command_line import printable
from contract.errors import BundleError, ConfigError, FootageError, FrameError
from contract.frame import FrameLimits, Preprocessing, decode_frame
from contract.kafka_source import CAPTURED_AT_HEADER, parse_kafka_source
from contract.manifest import open_bundle
from contract.settings import load_settings
from contract.source import split_ranges
from tests.contract.test_frame import JPEG, PNG
from tests.worker.recorded import score_of
from trainer.labels import read_labels
from trainer.settings import FitSettings
from worker.camera_settings import load_cameras
from worker.recorded_scores import read_score
from worker.records import capture_time_oddity, read_frame
from worker.settings import WorkerSettings
from worker.state import PartitionState
from worker.state_text import pack, unpack
from worker.zones import Zones

PREPROCESSING = Preprocessing(height=32, width=48, motion="none")
LIMITS = FrameLimits(max_frame_pixels=2**20, max_frame_bytes=2**16)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=4).map(repr)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def one_line(error):
    assert printable(" ".join(str(error).split())).strip()


# Frames


def jpeg_segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


segments = st.builds(jpeg_segment, st.integers(0xC0, 0xFE), st.binary(max_size=40))
pieces = st.lists(
    st.one_of(segments, st.binary(max_size=20), st.just(JPEG), st.just(JPEG[2:-2]), st.just(PNG[8:])), max_size=6
)


@st.composite
def changed_bytes(draw, whole):
    """Good bytes with some overwritten, some put in, some left out and some repeated."""
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        new, gone = draw(st.binary(max_size=8)), draw(st.integers(0, 8))
        data[at : at + gone] = new
    return bytes(data)


@given(
    st.one_of(
        st.binary(max_size=400),
        changed_bytes([JPEG, PNG]),
        pieces.map(lambda some: b"\xff\xd8" + b"".join(some) + b"\xff\xd9"),
        pieces.map(lambda some: PNG[:8] + b"".join(some)),
    )
)
def test_bytes_give_pixels_or_a_frame_error(data):
    try:
        frame = decode_frame(data, PREPROCESSING, LIMITS)
    except FrameError as error:
        one_line(error)
    else:
        assert frame.shape == (32, 48, 1)


# Records


header_names = st.one_of(st.just(CAPTURED_AT_HEADER), st.text(max_size=12))
headers = st.lists(st.tuples(header_names, st.none() | st.binary(max_size=24) | st.integers().map(lambda n: b"%d" % n)))


@given(
    st.none() | st.binary(max_size=140) | st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True).map(str.encode),
    st.none() | st.binary(max_size=8),
    headers | st.just([("name", b"")] * 10_000),
    st.none() | st.integers(-(2**63), 2**63 - 1),
)
def test_a_record_is_a_frame_or_a_frame_error(key, value, headers, timestamp):
    record = SimpleNamespace(
        topic="frames", partition=0, offset=7, key=key, value=value, headers=headers, timestamp=timestamp
    )
    try:
        frame = read_frame(record)
    except FrameError as error:
        one_line(error)
    else:
        assert frame.camera_id.isascii()
        assert 0 <= frame.captured_at_ms <= 253_402_300_799_000
    capture_time_oddity(record, 1.7e12)


FORMAT = pack(PartitionState(0), 0, 4096)[0][0]


def packed(value):
    return FORMAT + base64.b85encode(zlib.compress(json.dumps(value).encode())).decode()


few = st.integers(-1, 2)
numbers = st.integers(-(10**20), 10**20) | st.integers(-3, 30)
rows = st.tuples(
    st.text(max_size=9), st.booleans(), st.tuples(*[numbers] * 4), st.tuples(*[st.floats()] * 2), numbers,
    st.tuples(*[numbers] * 3), numbers, st.tuples(*[numbers] * 3), few, st.floats(), st.sampled_from(["low", "x"]),
)  # fmt: skip
conditions = st.tuples(st.sampled_from(["frozen", "black", "gone"]), st.booleans(), *[st.tuples(numbers, numbers)] * 3)
unwell = st.tuples(st.text(max_size=9), numbers, st.lists(conditions, max_size=2), few)
seen = st.tuples(
    numbers, numbers, numbers, st.lists(st.floats(), max_size=3), st.none() | st.floats(),
    st.lists(st.floats(), max_size=3), st.lists(st.tuples(numbers, numbers), max_size=3),
)  # fmt: skip
warm_ups = st.tuples(st.text(max_size=9), few, seen, st.none() | st.tuples(st.floats(), st.floats()))
bundles = st.tuples(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9) | st.just("0a" * 32))
terms = st.tuples(few, st.text(max_size=9) | st.just("1-0f3a9c21"), st.floats())
bits = st.integers(0, 2**60).map("{:x}".format) | st.text(max_size=9)
states = st.tuples(
    st.lists(bundles, max_size=2), st.lists(terms, max_size=2), numbers, bits, st.lists(rows, max_size=3),
    st.lists(unwell, max_size=2), st.lists(warm_ups, max_size=2),
).map(packed)  # fmt: skip


@given(
    st.text(max_size=200) | st.binary(max_size=60).map(lambda data: FORMAT + data.decode("latin-1")) | states,
    st.integers(0, 50),
)
def test_metadata_of_an_offset_is_a_state_or_none(text, offset):
    state = unpack(text, offset)
    if state is not None:
        assert unpack(pack(state, offset, 10**6)[0], offset) == state


@given(values | st.binary(max_size=200))
def test_an_alert_that_is_none_is_refused(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        Alert.model_validate_json(data)
    except ValueError:
        return
    raise AssertionError("that was no alert")


# Files


@st.composite
def changed_tree(draw, whole):
    """A tree of mappings and lists with one place replaced, left out or added to."""
    tree = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        node = tree
        while True:
            places = list(node) if isinstance(node, dict) else list(range(len(node)))
            assume(places)
            place = draw(st.sampled_from(places))
            if isinstance(node[place], dict | list) and node[place] and draw(st.booleans()):
                node = node[place]
                continue
            break
        what = draw(st.sampled_from(["replace", "leave out", "add"]))
        if what == "replace":
            node[place] = draw(values)
        elif what == "leave out":
            del node[place]
        elif isinstance(node, dict):
            node[draw(st.text(max_size=8))] = draw(values)
        else:
            node.append(draw(values))
    return tree


@given(st.data())
def test_a_manifest_opens_or_is_a_bundle_error(tiny_bundle, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-bundle"
    if not folder.is_dir():
        shutil.copytree(tiny_bundle.bundle, folder)
    manifest = json.loads((tiny_bundle.bundle / "manifest.json").read_text())
    changed = data.draw(st.one_of(changed_tree(manifest), values, st.binary(max_size=100)))
    content = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
    (folder / "manifest.json").write_bytes(content)
    try:
        open_bundle(folder)
    except BundleError as error:
        one_line(error)


@given(st.data())
def test_settings_load_or_are_a_config_error(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    cls, good = data.draw(st.sampled_from([(WorkerSettings, WORKER), (FitSettings, FIT)]))
    tree = data.draw(st.one_of(changed_tree(good), values, st.text(max_size=60)))
    text = tree if isinstance(tree, str) else yaml.safe_dump(tree)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        load_settings(cls, file=file)
    except ConfigError as error:
        one_line(error)


@given(st.data())
def test_cameras_are_read_or_are_a_config_error(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "fuzzed-cameras.yaml"
    tree = data.draw(st.one_of(changed_tree(CAMERAS), values, st.text(max_size=60)))
    text = tree if isinstance(tree, str) else yaml.safe_dump(tree)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        cameras = load_cameras(file)
    except ConfigError as error:
        one_line(error)
        return
    for camera in cameras.values():
        for one in camera.schedule:
            one.holds_at(datetime(2026, 11, 26, 17, 30, tzinfo=UTC))
        with contextlib.suppress(ValueError):
            Zones(zones=camera.zones or (), masks=camera.masks or ()).region((6, 9))


CAMERAS = {
    "hall": {
        "bundle": "bundles/hall",
        "false_events_per_day": 0.5,
        "zones": [[[0, 0], [1, 0], [1, 0.5]]],
        "masks": [[[0.1, 0.1], [0.2, 0.1], [0.2, 0.3]]],
        "late": {"policy": "skip_to_fresh", "max_age_seconds": 5},
        "time_zone": "Europe/Berlin",
        "schedule": [{"name": "night", "begins": "20:30", "ends": "06:00", "days": ["mon"], "threshold": 3.0}],
    },
    "yard": {"event_rule": {"min_frames": 3}},
}
WORKER = {
    "bundle": "bundle",
    "provider": "cpu",
    "threshold": 2.0,
    "event_rule": {"min_frames": 2, "gap_frames": 3},
    "kafka": {"bootstrap_servers": "127.0.0.1:9092", "group_id": "cameras", "fetch_bytes": 2**24},
    "batch": {"max_frames": 32, "deadline_ms": 25},
    "late": {"policy": "process_all"},
    "allowed_cameras": ["door", "gate"],
    "http": {"host": "127.0.0.1", "port": 9464},
}
FIT = {
    "preset": "balanced",
    "minutes": 1.0,
    "model": {"height": 64, "width": 96, "widths": [8, 16, 16], "comparator": [8, 16, 16]},
    "pseudo_anomalies": ["foreign", "covered"],
    "batch": 16,
    "learning_rate": 0.001,
    "event_rule": {"min_frames": 2},
}


@given(st.lists(st.lists(st.text(max_size=6), max_size=5), max_size=5) | st.text(max_size=80))
def test_labels_are_read_or_refused(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    text = rows if isinstance(rows, str) else "clip,frame,label\n" + "\n".join(map(",".join, rows))
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        read_labels(file, ["good"])
    except ConfigError as error:
        one_line(error)


# Scores


MAP = {"shape": [1, 2], "float16": base64.b64encode(struct.pack("<2e", 1, 2)).decode()}
scores = st.dictionaries(
    st.sampled_from([*json.loads(score_of(1, 2.0).value), "anomaly_map"]), values | st.just(MAP), max_size=3
).map(lambda changes: score_of(1, 2.0, **changes).value)


@given(scores | values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60), st.booleans())
@example(score_of(1, 2.0, anomaly_map=MAP).value, True)
def test_a_record_is_a_score_or_is_passed_over(value, with_map):
    try:
        read = read_score(SimpleNamespace(key=b"door", value=value), with_map=with_map)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
        assert abs(read.score) <= 100
        assert read.anomaly_map is None or np.isfinite(read.anomaly_map).all()
    assert said in {"", "no score", "too large", "no map", "of another key"}


# Addresses


words = st.one_of(st.text(max_size=12), st.sampled_from(["camera=a", "from=5", "to=9", "@", ":", "?", "#", "[::1]"]))
addresses = st.lists(words, max_size=8).map(lambda some: "kafka://" + "".join(some)) | st.text(max_size=40)


@given(addresses)
def test_an_address_is_clips_or_a_config_error(text):
    without_credentials(text)
    name_of_address(text)
    try:
        split_ranges(text)
    except ConfigError as error:
        one_line(error)
    if text.startswith("kafka://"):
        try:
            parse_kafka_source(text)
        except (ConfigError, FootageError) as error:
            one_line(error)


@given(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=12))
def test_no_password_of_an_address_is_shown(password):
    assume(not set(password) & set("/?#@"))
    assert password == "***" or f":{password}@" not in without_credentials(f"kafka://me:{password}@host:9092/frames")
