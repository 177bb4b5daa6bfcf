"""What the console answers, from rows that were put in by hand."""

import json
from pathlib import Path

import pytest

from contract.errors import DeliveryError
from contract.event import EventRule, EventTracker
from contract.feedback import SCHEMA_PATH, feedback_schema
from tests.worker.console.records import NOW, anomaly, event_id, health, jpeg, said, score
from worker.console import app as console_app
from worker.console.reading import MAX_TEXT

ROOT = Path(__file__).resolve().parents[3]
OWN = {"x-framewatch-console": "1"}
FORBIDDEN = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", '"style"')
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e"


def test_an_event_comes_with_its_pictures_and_facts(console):
    console.put(alerts=[anomaly()], verdicts=[said(note="a cat")])
    with console.client() as client:
        (listed,) = client.get("/api/events").json()
        event = client.get(f"/api/events/{event_id(1)}").json()
        snapshot = client.get(f"/api/events/{event_id(1)}/snapshot?peak=1")
    assert listed.items() <= event.items()
    assert listed["said"] == {"verdict": "confirmed", "note": "a cat", "said_at_ms": NOW, "said_by": "someone"}
    assert event["bundle"]["name"] == "room"
    assert (snapshot.content, snapshot.headers["content-type"]) == (jpeg(), "image/jpeg")
    assert snapshot.headers["cache-control"].startswith("private")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/events/{event_id(9)}", 404), ("/api/events/x", 422), (f"/api/events/{event_id(1)}/other", 422),
        (f"/api/events/{event_id(9)}/snapshot", 404), ("/api/events?limit=0", 422), ("/api/events?severity=x", 422),
        ("/api/events?text=" + "x" * 300, 422), ("/api/curve?camera=door&from_ms=5&to_ms=5", 422),
        ("/api/curve?camera=door&from_ms=0&to_ms=99999999999999", 422), ("/api/what-if?threshold=nan", 422),
        ("/api/what-if?threshold=1e9", 422), ("/static/../app.py", 404), ("/static/%2e%2e/app.py", 404), ("/docs", 404),
        ("/openapi.json", 404), ("/api/events?before_ms=1&before_id=" + "%00" * 10, 200),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_refused(console, path, status):
    console.put(alerts=[anomaly()])
    with console.client() as client:
        assert client.get(path).status_code == status


def test_a_verdict_is_sent_with_its_camera_and_note(console):
    console.put(alerts=[anomaly()])
    with console.client() as client:
        path = f"/api/events/{event_id(1)}/verdict"
        answer = client.post(path, json={"verdict": "false_alarm", "note": HOSTILE}, headers=OWN)
        assert answer.status_code == 200
        (sent,) = console.sender.sent
        assert (sent.event_id, sent.camera_id, sent.verdict, sent.by) == (event_id(1), "door", "false_alarm", "console")
        assert sent.note == HOSTILE
        for wrong in ({"verdict": "x"}, {"verdict": None}, {"note": "x" * 501}, {"a": 1}):
            assert client.post(path, json={"verdict": "confirmed", **wrong}, headers=OWN).status_code == 422
        other = path.replace(event_id(1), event_id(2))
        assert client.post(other, json={"verdict": "confirmed"}, headers=OWN).status_code == 404
    assert len(console.sender.sent) == 1


def test_a_verdict_that_is_not_confirmed_says_so(console):
    console.put(alerts=[anomaly()])
    console.sender.error = DeliveryError("record for feedback was not confirmed: it is down")
    with console.client() as client:
        answer = client.post(f"/api/events/{event_id(1)}/verdict", json={"verdict": "confirmed"}, headers=OWN)
    assert (answer.status_code, answer.json()["detail"]) == (503, str(console.sender.error))


def test_the_committed_schema_of_feedback_is_the_code_s():
    committed = json.loads((ROOT / SCHEMA_PATH).read_text())
    assert committed == feedback_schema(), f"run: python -m contract.feedback > {SCHEMA_PATH}"
    for name, field in committed["properties"].items():
        assert field.get("description"), name


@pytest.mark.parametrize("threshold", [0.5, 2.0, 3.0, 4.5, 50.0])
@pytest.mark.parametrize("min_frames", [1, 4])
def test_the_what_if_counts_the_events_that_the_rule_makes(make_console, threshold, min_frames):
    rule = EventRule(min_frames=min_frames, gap_frames=3)
    console = make_console(event_rule=rule)
    given = [4.0 if 10 <= n < 18 or 20 <= n < 30 or n in {50, 60} or n >= 95 else 1.0 for n in range(100)]
    # At least once, and out of order.
    told = [score(number, value) for number, value in enumerate(given)]
    console.put(scores=[*told[50:], *told])
    tracker = EventTracker(rule, threshold, threshold)
    count = sum((tracker.update(n, value) or ("",))[0] == "started" for n, value in enumerate(given))
    with console.client() as client:
        answer = client.get("/api/what-if", params={"threshold": threshold}).json()
    (camera,) = answer["cameras"]
    assert (camera["events"], camera["scores"], camera["threshold_now"]) == (count, 100, 3.0)
    assert len(camera["spans"]) == count
    assert answer["rule_of"] is None


def test_the_what_if_passes_over_what_does_not_count(make_console):
    console = make_console(event_rule=EventRule(min_frames=2, gap_frames=1))
    loud = [score(number, 5.0, counts=number >= 20) for number in (*range(10), *range(20, 30))]
    console.put(scores=[*loud, *(score(number, 1.0) for number in (*range(10, 20), *range(30, 40)))])
    with console.client() as client:
        (camera,) = client.get("/api/what-if", params={"threshold": 2}).json()["cameras"]
        held = client.get("/api/curve", params={"camera": "door", "from_ms": NOW, "to_ms": NOW + 1900}).json()
    assert (camera["events"], camera["scores"]) == (1, 40)
    # The curve shows what was scored.
    assert max(point[1] for point in held["points"]) == 5.0


def test_the_what_if_takes_the_bundle_s_rule(make_console, tiny_bundle):
    from contract.manifest import open_bundle

    console = make_console(bundle=tiny_bundle.bundle)
    manifest = open_bundle(tiny_bundle.bundle).manifest
    with console.client() as client:
        answer = client.get("/api/what-if", params={"threshold": 1}).json()
    assert (answer["rule"], answer["rule_of"]) == (manifest.event_rule.model_dump(), "tiny")


def test_hostile_texts_come_as_json_and_nothing_else(console):
    alerts = [anomaly(bundle=HOSTILE[:MAX_TEXT]), health(HOSTILE, number=HOSTILE)]
    console.put(alerts=alerts, verdicts=[said(note=HOSTILE)])
    with console.client() as client:
        for path in ("/api/events", f"/api/events/{event_id(1)}", "/api/notices", "/api/status"):
            answer = client.get(path)
            assert answer.headers["content-type"] == "application/json"
            assert "\u202e" not in answer.text
            answer.json()


def test_probes_answer_without_a_page(console):
    with console.client() as client:
        assert client.get("/livez").status_code == 503, "its threads do not run"
        with console.pulse:
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 200


def test_the_page_holds_no_script_or_style_of_its_own():
    for file in console_app.STATIC.glob("*.html"):
        text = file.read_text()
        assert "style=" not in text
        assert "<style" not in text
        assert all(" src=" in part.split(">")[0] for part in text.split("<script")[1:]), file
        assert "http:" not in text
        assert "https:" not in text
    for file in console_app.STATIC.glob("*.js"):
        for word in FORBIDDEN:
            assert word not in file.read_text(), (file, word)
