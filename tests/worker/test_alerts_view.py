"""Whoever writes to the alerts topic, what is shown neither raises nor carries control characters."""

import io
import json

import pytest
from rich.console import Console

from contract.alert import AnomalyData, ModelChangedData, make_alert, make_model_alert
from worker.alerts_view import AlertTable, as_json_line, describe, parse_alert

DATA = {
    "event_id": "0" * 32, "camera_id": "door", "started_at_ms": 1_000, "peak_at_ms": 2_000, "ended_at_ms": None,
    "peak_score": 7.5, "threshold": 6.0, "p_value": 0.001, "severity": "low", "anomalous_area_percent": 4.0,
    "boxes": [], "heat_map": None, "snapshot": None,
    "frames": {"topic": "frames", "partition": 0, "first_offset": 1, "peak_offset": 2, "last_offset": 3},
    "bundle": {"name": "room", "version": "1", "digest": "sha256:" + "0" * 64}, "rule_version": "1",
}  # fmt: skip
GOOD = make_alert("started", 0, 4_000, AnomalyData.model_validate_json(json.dumps(DATA))).to_json()


def changed(**fields):
    """The alert with fields of its data or its own replaced."""
    content = json.loads(GOOD)
    for name, value in fields.items():
        (content["data"] if name in DATA else content)[name] = value
    return json.dumps(content).encode()


HUGE = 10**400
TIMES = {
    "far future": changed(started_at_ms=10**17),
    "far past": changed(started_at_ms=-(10**17)),
    "huge": changed(started_at_ms=HUGE, ended_at_ms=-HUGE),
    "ended huge": changed(ended_at_ms=HUGE),
    "year 1": changed(time="0001-01-01T00:00:00Z"),
    "year 1 without a zone": changed(time="0001-01-01T00:00:00"),
    "year 1 east of here": changed(time="0001-01-01T00:00:00+14:00"),
    "year 9999": changed(time="9999-12-31T23:59:59-14:00"),
    "before year 1": changed(started_at_ms=-62_135_596_800_000),
    "score": changed(peak_score=1e308),
}
NO_ALERTS = {
    "nesting": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "UTF-16": json.dumps(json.loads(GOOD)).encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "surrogate": b'{"a": "\xed\xa0\x80"}',
    "digits": b"[" + b"9" * 10_000 + b"]",
    "infinite": b'{"a": "\xc3\xa9", "b": 1e999}',
    "NaN": b"[NaN]",
    "escape": b"\x1b]0;title\x07",
    "nothing": b"",
    "subject": changed(subject="door\u001b[31m"),
    "subject with an end of line": changed(subject="door\n"),
    "severity": changed(severity="low\u001b[31m"),
    "type": changed(type="framewatch.anomaly.[red]started.v1"),
}


def is_plain(text):
    return text.isascii() and text.isprintable()


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+12", "Etc/GMT-14"])
@pytest.mark.parametrize("value", TIMES.values(), ids=TIMES)
def test_any_time_is_shown(value, zone, monkeypatch):
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        alert = parse_alert(value)
        assert is_plain(describe(alert))
        table = AlertTable()
        assert table.add(value)
        Console(file=io.StringIO(), width=200).print(table.render())
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize("value", NO_ALERTS.values(), ids=NO_ALERTS)
def test_what_is_no_alert_is_passed_over(value):
    assert parse_alert(value) is None
    assert not AlertTable().add(value)


CONTROLS = [chr(code) for code in (*range(32), 127, *range(128, 160), 0xAD, 0x2028, 0x202E, 0xFEFF, 0xE9)]


@pytest.mark.parametrize(
    "value",
    [
        *NO_ALERTS.values(),
        *TIMES.values(),
        *(json.dumps({"a": f"x{character}y"}, ensure_ascii=False).encode() for character in CONTROLS),
        *(f'{{"a":{character}1}}'.encode() for character in CONTROLS),
        *(f'{{"a": "x{character}y"}}'.encode() for character in CONTROLS),
        *(character.encode() for character in CONTROLS),
    ],
)
def test_a_json_line_is_one_line_of_plain_characters_that_is_json(value):
    line = as_json_line(value)
    assert is_plain(line)
    json.loads(line, parse_constant=pytest.fail)


def test_an_alert_comes_back_as_it_stands():
    assert as_json_line(GOOD) == GOOD.decode()
    assert as_json_line(b'{"a":\r"\\u001b"}') == '{"a": "\\u001b"}'
    assert json.loads(as_json_line('{"a": "\u00e9\u009b"}'.encode())) == {"a": "\u00e9\u009b"}
    assert json.loads(as_json_line(b"\xff\x1b[2J")) == {"unreadable": "\ufffd\x1b[2J"}


def test_the_table_shows_how_long_an_event_lasted():
    table = AlertTable()
    table.add(GOOD)
    output = io.StringIO()
    Console(file=output, width=200).print(table.render())
    assert "3.0 s" in output.getvalue()
    table.add(changed(ended_at_ms=2_500, type="framewatch.anomaly.ended.v1"))
    Console(file=output, width=200).print(table.render())
    assert "1.5 s" in output.getvalue()


@pytest.mark.parametrize("at_ms", [1_000, 10**17, -(10**17)])
def test_another_model_is_shown_by_its_version(at_ms):
    bundle = {"name": "room", "version": "v1", "digest": "sha256:" + "0" * 64}
    value = make_model_alert(
        ModelChangedData(
            event_id="0" * 32, camera_id="door", changed_at_ms=at_ms, before=bundle, after={**bundle, "version": "v2"},
            frames={"topic": "frames", "partition": 0, "offset": 7},
        )
    ).to_json()  # fmt: skip
    line = describe(parse_alert(value))
    assert line.startswith("door model room v2 from ")
    assert line.endswith(", before room v1")
    table, output = AlertTable(), io.StringIO()
    assert table.add(value)
    Console(file=output, width=200).print(table.render())
    assert "model v2" in output.getvalue()
