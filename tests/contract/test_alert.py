import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from contract.alert import Alert, alert_schema, camera_schema, make_event_id, utc
from contract.errors import BundleError, ConfigError, FrameError
from contract.manifest import open_bundle
from contract.runtime import Detector, open_session
from worker.engine import Engine
from worker.frames import IncomingFrame

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


def test_an_event_id_depends_on_place_model_camera_and_rule_alone():
    base = ("frames", 0, 5, "door", "sha256:" + "0" * 64, "1-00000000")
    assert make_event_id(*base) == make_event_id(*base)
    for place, other in enumerate(("frames2", 1, 6, "yard", "sha256:" + "1" * 64, "1-00000001")):
        changed = list(base)
        changed[place] = other
        assert make_event_id(*changed) != make_event_id(*base)


@pytest.mark.parametrize(("name", "made"), [("alert", alert_schema), ("camera", camera_schema)])
def test_the_committed_schema_is_the_code_s(name, made):
    committed = json.loads((ROOT / "docs" / "schemas" / f"{name}.v1.json").read_text())
    assert committed == made(), f"run: python -m contract.alert {name} > docs/schemas/{name}.v1.json"


@pytest.mark.parametrize("made", [alert_schema, camera_schema])
def test_the_schema_names_every_field_with_a_description(made):
    schema = made()
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


def tampered(tiny_bundle, tmp_path, change):
    """Copy the bundle with one graph changed and the manifest's digest made to match."""
    import hashlib
    import shutil

    import onnx

    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.bundle, folder)
    model = onnx.load(folder / "detector.onnx")
    data = change(model) or model.SerializeToString()
    (folder / "detector.onnx").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["detector.onnx"] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return open_bundle(folder)


def rename_input(model):
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "frames":
                node.input[place] = "pictures"
    model.graph.input[0].name = "pictures"


def other_type(model):
    model.graph.input[0].type.tensor_type.elem_type = 6


def other_side(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32


def unknown_operator(model):
    model.graph.node[0].op_type = "Mystery"


def unknown_domain(model):
    model.graph.node[0].domain = "com.example"


def future_opset(model):
    model.opset_import[0].version = 999


def not_a_number(model):
    import numpy as np
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
            values = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def a_pickle(_model):
    import pickle

    return pickle.dumps({"weights": [1, 2, 3]})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (rename_input, "no 'frames'"),
        (other_type, "refuses it|frames is"),
        (other_side, "refuses it|has shape"),
        (unknown_operator, "refuses it"),
        (unknown_domain, "refuses it"),
        (future_opset, "refuses it"),
        (not_a_number, "not finite"),
        (a_pickle, "refuses it"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(tiny_bundle, tmp_path, change, word):
    bundle = tampered(tiny_bundle, tmp_path, change)
    with pytest.raises(BundleError, match=word):
        Detector(bundle, "cpu")


def test_a_hard_link_is_refused(tiny_bundle, tmp_path):
    import shutil

    shutil.copytree(tiny_bundle.bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "encoder.onnx").rename(tmp_path / "elsewhere.onnx")
    (tmp_path / "bundle" / "encoder.onnx").hardlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="link"):
        open_bundle(tmp_path / "bundle")


def test_a_graph_changed_after_it_was_verified_is_refused(tiny_bundle, tmp_path):
    import shutil

    shutil.copytree(tiny_bundle.bundle, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "detector.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="changed"):
        Detector(bundle, "cpu")


def test_errors_say_what_the_caller_must_do():
    assert (ConfigError.exit_code, BundleError.exit_code, FrameError.exit_code) == (2, 2, 1)
    with pytest.raises(BundleError):
        open_session(b"not a model", "cpu")
