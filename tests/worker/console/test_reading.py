"""Whoever writes to the topics, what is read is bounded and plain, and nothing but `MalformedError` comes out."""

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.alert import CameraData, ModelChangedData, make_camera_alert, make_model_alert
from tests.worker.console.records import DIGEST, NOW, anomaly, event_id, health, jpeg, picture, record, said, score
from worker.console.reading import (
    MAX_ALERT_BYTES,
    MAX_PICTURE_BYTES,
    MAX_TEXT,
    AlertRow,
    MalformedError,
    NoticeRow,
    read_alert,
    read_score,
    read_verdict,
)

HUGE = 10**400
READERS = {"alert": read_alert, "score": read_score, "verdict": read_verdict}


def changed(value, *, envelope=None, **data):
    content = json.loads(value)
    content["data"] |= data
    return json.dumps({**content, **(envelope or {})}).encode()


def test_an_alert_is_read_with_its_pictures():
    row = read_alert(record(anomaly()), NOW)
    assert isinstance(row, AlertRow)
    assert (row.camera_id, row.state, row.peak_score, row.snapshot) == ("door", "started", 4.0, jpeg())
    assert json.loads(row.facts)["boxes"] == [{"x": 0.5, "y": 0.25, "width": 0.25, "height": 0.5}]


def test_alerts_of_an_event_are_ordered_by_transition_and_update():
    values = [anomaly(), *(anomaly(transition="updated", update=number) for number in (1, 2, 10)),
              anomaly(transition="ended")]  # fmt: skip
    ranks = [read_alert(record(value), NOW).rank for value in values]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize(
    "value",
    [
        b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 50_000, b"x" * (MAX_ALERT_BYTES + 1),
        changed(anomaly(), peak_score=None), changed(anomaly(), camera_id="<b>"), changed(anomaly(), camera_id="yard"),
        changed(anomaly(), envelope={"subject": "yard"}), changed(anomaly(), envelope={"id": "0" * 32 + ".started"}),
        changed(anomaly(), envelope={"id": json.loads(anomaly())["id"].replace("started", "updated.0x1")}),
        changed(anomaly(), rule_version="x" * (MAX_TEXT + 1)),
        changed(anomaly(), frames={"topic": "f", "partition": 0, "first_offset": 2**63, "peak_offset": 1,
                                   "last_offset": 2}),
        changed(anomaly(), envelope={"type": "framewatch.anomaly.other.v1"}),
        changed(health(), envelope={"id": "x" * (MAX_TEXT + 1)}), changed(health(), envelope={"data": []}),
        None,
    ],
)  # fmt: skip
def test_what_is_no_alert_is_malformed(value):
    with pytest.raises(MalformedError):
        read_alert(record(value), NOW)


@pytest.mark.parametrize(
    "base64_text",
    [
        base64.b64encode(b"GIF89a<script>").decode(), base64.b64encode(b"\xff\xd8\xff<script>").decode(), "not base64!",
        "", base64.b64encode(jpeg()[:-40]).decode(), "A" * (MAX_PICTURE_BYTES * 2),
        base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 60).decode(),
    ],
)  # fmt: skip
def test_what_is_no_jpeg_is_left_out_and_the_alert_stays(base64_text):
    row = read_alert(record(anomaly(snapshot=picture(base64=base64_text))), NOW)
    assert row.snapshot is None
    assert row.heat_map == jpeg()


@pytest.mark.parametrize("at_ms", [HUGE, -HUGE, 0, NOW + 3_600_000])
def test_a_time_that_cannot_be_true_does_not_decide_the_order(at_ms):
    row = read_alert(record(changed(anomaly(), started_at_ms=at_ms)), NOW)
    assert row.sorted_at_ms == NOW
    assert abs(row.started_at_ms) < 2**48
    assert read_score(record(score(1, 2.0, at_ms=at_ms)), NOW).at_ms == NOW


@pytest.mark.parametrize("timestamp", [None, -1, 0, NOW + 1, 2**62])
def test_a_record_that_says_no_true_time_of_its_own_was_sent_now(timestamp):
    assert read_alert(record(anomaly(), timestamp=timestamp), NOW).told_at_ms == NOW


def test_a_health_alert_is_a_notice_of_its_camera():
    row = read_alert(record(health("yard", "blind", ended_at_ms=NOW + 5)), NOW)
    assert isinstance(row, NoticeRow)
    assert (row.camera_id, row.state, row.ended_at_ms, row.notice_id) == ("yard", "blind", NOW + 5, "h1")


@pytest.mark.parametrize("ended_at_ms", [None, NOW + 500])
def test_what_a_worker_tells_of_a_camera_is_its_notice(ended_at_ms):
    frames = {"topic": "frames", "partition": 0, "first_offset": 1, "last_offset": 9}
    bundle = {"name": "room", "version": "1", "digest": DIGEST}
    data = CameraData(
        event_id=event_id(1), camera_id="door", state="covered", started_at_ms=NOW - 500, ended_at_ms=ended_at_ms,
        snapshot=None, frames=frames, bundle=bundle, rule_version="1",
    )  # fmt: skip
    row = read_alert(record(make_camera_alert(NOW, data).to_json()), NOW)
    assert (row.camera_id, row.state, row.notice_id) == ("door", "covered", event_id(1))
    assert (row.sorted_at_ms, row.ended_at_ms) == (NOW - 500, ended_at_ms)


def test_another_model_is_a_notice_and_no_trouble_of_its_camera():
    bundle = {"name": "room", "version": "v1", "digest": DIGEST}
    data = ModelChangedData(
        event_id=event_id(1), camera_id="door", changed_at_ms=NOW - 500, before=bundle,
        after={**bundle, "version": "v2"}, frames={"topic": "frames", "partition": 0, "offset": 7},
    )  # fmt: skip
    row = read_alert(record(make_model_alert(data).to_json()), NOW)
    assert (row.camera_id, row.state, row.ended_at_ms, row.sorted_at_ms) == ("door", None, None, NOW - 500)
    facts = json.loads(row.facts)
    assert (facts["before version"], facts["after version"]) == ("v1", "v2")


def test_an_unknown_alert_is_a_notice_in_plain_characters():
    value = changed(
        health("<i>\x1b[2J\u202e" + "x" * 500), envelope={"type": "com.example.\u202eother"},
        note="<script>", deep={"a": [1]}, number=HUGE, many="y" * 10_000,
    )  # fmt: skip
    row = read_alert(record(value), NOW)
    assert (row.state, len(row.camera_id)) == (None, MAX_TEXT)
    assert row.camera_id.startswith("<i>\\x1b[2J\\u202e")
    assert json.loads(row.facts)["note"] == "<script>"
    assert "deep" not in json.loads(row.facts)
    assert max(map(len, json.loads(row.facts).values())) <= MAX_TEXT
    assert all(text.isprintable() for text in (row.camera_id, row.type, row.notice_id))


def test_a_verdict_comes_from_its_camera_s_partition():
    assert read_verdict(record(said(note="a cat\x07")), NOW).note == "a cat\\x07"
    for key in (b"yard", None, b"\xff"):
        with pytest.raises(MalformedError, match="verdict_key"):
            read_verdict(record(said(), key=key), NOW)


@pytest.mark.parametrize("field", ["camera_id", "offset", "anomaly_score", "threshold", "captured_at_ms", "partition"])
@pytest.mark.parametrize("value", [None, "x<", [], 1e999])
def test_what_is_no_score_is_malformed(field, value):
    with pytest.raises(MalformedError):
        read_score(record(json.dumps({**json.loads(score(1, 2.0)), field: value}).encode()), NOW)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(HUGE))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@st.composite
def changed_json(draw):
    """A good record with something in it put in place of something else, left out or added."""
    content = json.loads(draw(st.sampled_from([anomaly(), health(), score(1, 2.0), said()])))
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while isinstance(place.get("data"), dict) and draw(st.booleans()):
            place = place["data"]
            break
        name = draw(st.sampled_from(sorted(place)) | st.text(max_size=8))
        if draw(st.booleans()) and name in place:
            del place[name]
        else:
            place[name] = draw(values)
    return json.dumps(content).encode()


@given(
    st.sampled_from(sorted(READERS)),
    st.none() | st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()) | changed_json(),
    st.none() | st.binary(max_size=8) | st.just(b"door"),
    st.none() | st.integers(-(2**63), 2**63 - 1),
)
@example("alert", anomaly(), b"door", NOW)
@example("alert", health(number="\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace")), b"door", NOW)
def test_any_record_is_a_row_that_can_be_stored_and_shown_or_malformed(kind, value, key, timestamp):
    try:
        row = READERS[kind](record(value, key, timestamp), NOW)
    except MalformedError as error:
        reason = str(error)
        row = None
    if row is None:
        assert reason.isascii()
        assert len(reason) < 20
        return
    for name, held in row._asdict().items():
        if isinstance(held, int):
            assert -(2**63) <= held < 2**63, name
        elif isinstance(held, str):
            assert held.isprintable(), name
            held.encode()
        elif isinstance(held, bytes):
            assert len(held) <= MAX_PICTURE_BYTES, name
    json.dumps(
        row._replace(**{name: None for name in row._fields if name in {"snapshot", "heat_map"}}), allow_nan=False
    )
