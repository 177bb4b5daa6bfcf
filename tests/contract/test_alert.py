import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from contract.alert import Alert, alert_schema, make_event_id, utc
from contract.errors import BundleError, ConfigError, FrameError
from contract.manifest import open_bundle
from contract.runtime import Detector, open_session
from worker.engine import Engine, IncomingFrame

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def alerts(tiny_bundle):
    engine = Engine(Detector(open_bundle(tiny_bundle.bundle), "cpu"), threshold=2.0)
    paths = sorted(tiny_bundle.footage.iterdir())
    frames = [IncomingFrame("door", "frames", 3, 100 + i, 1000 * i, p.read_bytes()) for i, p in enumerate(paths)]
    told = [alert for outcome in engine.process(frames) for alert in outcome.alerts]
    return told + engine.close_events()


def test_an_alert_is_a_cloud_event(alerts):
    assert alerts
    value = json.loads(alerts[0].to_json())
    assert {"specversion", "id", "source", "type"} <= value.keys()
    assert value["specversion"] == "1.0"
    assert value["type"] == "framewatch.anomaly.started.v1"
    assert value["source"] == "/framewatch/frames/3"
    assert value["subject"] == "door"
    assert value["time"].endswith("Z")
    assert value["data"]["frames"]["first_offset"] == 140


def test_an_alert_survives_the_wire_unchanged(alerts):
    for alert in alerts:
        assert Alert.model_validate_json(alert.to_json()) == alert
        assert Alert.model_validate_json(alert.to_json()).to_json() == alert.to_json()


def test_all_alerts_of_an_event_share_its_id_and_differ_in_theirs(alerts):
    first = [alert for alert in alerts if alert.data.event_id == alerts[0].data.event_id]
    assert len({alert.id for alert in first}) == len(first) >= 2
    assert all(alert.id.startswith(alert.data.event_id) for alert in first)


def test_an_event_id_depends_on_place_model_and_camera_alone():
    base = ("frames", 0, 5, "door", "sha256:" + "0" * 64)
    assert make_event_id(*base) == make_event_id(*base)
    for place, other in enumerate(("frames2", 1, 6, "yard", "sha256:" + "1" * 64)):
        changed = list(base)
        changed[place] = other
        assert make_event_id(*changed) != make_event_id(*base)


def test_the_committed_schema_is_the_code_s():
    committed = json.loads((ROOT / "docs" / "schemas" / "alert.v1.json").read_text())
    assert committed == alert_schema(), "run: python -m contract.alert > docs/schemas/alert.v1.json"


def test_the_schema_names_every_field_with_a_description():
    schema = alert_schema()
    for model in (schema, *schema["$defs"].values()):
        for name, field in model.get("properties", {}).items():
            assert field.get("description"), name


@pytest.mark.parametrize("milliseconds", [-(10**18), -1, 0, 1_795_512_245_871, 10**18])
def test_any_capture_time_can_be_told(milliseconds):
    assert utc(milliseconds).tzinfo is not None


def test_an_alert_with_another_field_is_refused(alerts):
    value = json.loads(alerts[0].to_json())
    with pytest.raises(ValidationError):
        Alert.model_validate({**value, "extra": 1})
