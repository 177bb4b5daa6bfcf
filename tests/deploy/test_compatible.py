"""Files and records of the last release are taken by this one: told from the schemas of both."""

import copy
import importlib
import json
from pathlib import Path

import pytest

import contract
from tests.deploy import last_release
from tests.deploy.narrowed import narrowed

ROOT = Path(__file__).resolve().parents[2]
UPGRADING = ROOT / "docs" / "upgrading.md"
RECORDS = ("alert", "camera", "model_changed", "feedback")
FILES = {
    "worker": "worker.settings:WorkerSettings",
    "cameras": "worker.camera_settings:CameraSettings",
    "console": "worker.console.settings:ConsoleSettings",
    "fit": "trainer.settings:FitSettings",
    "retrain": "trainer.retrain_settings:RetrainSettings",
    "manifest": "contract.manifest:Manifest",
}
WRITE_SCHEMAS = f"""
import importlib, json
from contract.alert import alert_schema, camera_schema, model_changed_schema
from contract.feedback import feedback_schema

said = {{"alert": alert_schema(), "camera": camera_schema(), "model_changed": model_changed_schema()}}
said["feedback"] = feedback_schema()
for name, place in {FILES!r}.items():
    module, _, model = place.partition(":")
    said[name] = getattr(importlib.import_module(module), model).model_json_schema()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return json.loads(last_release.run(last_release.install(tmp_path_factory.mktemp("last")), "-c", WRITE_SCHEMAS))


def schema_now(file):
    module, _, model = FILES[file].partition(":")
    return getattr(importlib.import_module(module), model).model_json_schema()


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_the_last_release_wrote_fits_the_schema(before, record):
    new = json.loads((ROOT / "docs" / "schemas" / f"{record}.v1.json").read_text())
    assert narrowed(before[record], new) == []


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_the_last_release_took_is_taken(before, file):
    assert narrowed(before[file], schema_now(file)) == []


def added(old, new):
    """Names that may stand in a file now and could not before; of a new group its own name alone."""
    groups = [(new, old)]
    groups += [
        (new["$defs"][name], old["$defs"][name]) for name in set(new.get("$defs", {})) & set(old.get("$defs", {}))
    ]
    return {
        name for now, before in groups for name in set(now.get("properties", {})) - set(before.get("properties", {}))
    }


def unnamed(names, upgrading):
    [section] = [one for one in upgrading.split("\n## ") if one.startswith(f"{contract.__version__}\n")]
    return {name for name in names if f"`{name}`" not in section}


@pytest.mark.parametrize("file", FILES)
def test_what_the_last_release_would_refuse_is_named_for_who_goes_back(before, file):
    assert unnamed(added(before[file], schema_now(file)), UPGRADING.read_text()) == set()


def test_a_name_that_is_added_is_found():
    old, new = copy.deepcopy(OLD), copy.deepcopy(OLD)
    new["properties"]["until_ms"] = new["$defs"]["Box"]["properties"]["y"] = {"type": "integer"}
    new["$defs"]["Circle"] = {"properties": {"radius": {"type": "number"}}}
    assert added(old, new) == {"until_ms", "y"}
    assert unnamed({"until_ms", "y"}, f"# Upgrading\n\n## {contract.__version__}\n\nAdds `y`.\n") == {"until_ms"}


OLD = {
    "type": "object",
    "$defs": {"Box": {"type": "object", "properties": {"x": {"type": "number", "minimum": 0}}, "required": ["x"]}},
    "properties": {
        "kind": {"enum": ["a", "b"], "type": "string"},
        "boxes": {"type": "array", "items": {"$ref": "#/$defs/Box"}},
        "until": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "version": {"const": 1, "type": "integer"},
        "more": {"type": "object", "additionalProperties": {"type": "string"}},
        "pair": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]},
    },
    "required": ["kind"],
    "additionalProperties": False,
}


def changed(change):
    new = copy.deepcopy(OLD)
    change(new, new["properties"])
    return new


@pytest.mark.parametrize(
    "change",
    [
        lambda schema, fields: None,
        lambda schema, fields: fields.update(traceparent={"type": "string"}),
        lambda schema, fields: schema.update(required=[]),
        lambda schema, fields: fields["kind"]["enum"].append("c"),
        lambda schema, fields: fields.update(kind={"type": "string"}),
        lambda schema, fields: fields["until"]["anyOf"].append({"type": "string"}),
        lambda schema, fields: fields.update(version={"enum": [1, 2], "type": "integer"}),
        lambda schema, fields: schema["$defs"]["Box"]["properties"]["x"].update(minimum=-1),
        lambda schema, fields: fields.update(until={"anyOf": [{"type": "number"}, {"type": "null"}]}),
    ],
)
def test_a_schema_that_takes_as_much_or_more_is_let_through(change):
    assert narrowed(OLD, changed(change)) == []


@pytest.mark.parametrize(
    ("change", "at"),
    [
        (lambda schema, fields: schema["required"].append("until"), "$.until: now required"),
        (lambda schema, fields: fields.pop("until"), "$.until"),
        (lambda schema, fields: fields["kind"]["enum"].remove("b"), "$.kind"),
        (lambda schema, fields: fields["kind"].update(pattern="^a"), "$.kind: pattern"),
        (lambda schema, fields: fields.update(until={"type": "integer"}), "$.until"),
        (lambda schema, fields: fields.update(version={"const": 2, "type": "integer"}), "$.version"),
        (lambda schema, fields: schema["$defs"]["Box"]["properties"]["x"].update(minimum=1), "$.boxes[].x: minimum"),
        (lambda schema, fields: schema["$defs"]["Box"]["properties"]["x"].update(maximum=9), "$.boxes[].x: maximum"),
        (lambda schema, fields: schema["$defs"]["Box"]["properties"]["x"].update(type="integer"), "$.boxes[].x"),
        (lambda schema, fields: schema["$defs"]["Box"].update(required=["x", "y"]), "$.boxes[].y: now required"),
        (lambda schema, fields: fields["more"].update(additionalProperties={"type": "integer"}), "$.more.*"),
        (lambda schema, fields: fields["more"].update(additionalProperties=False), "$.more.*"),
        (lambda schema, fields: fields["pair"]["prefixItems"].reverse(), "$.pair[0]"),
        (lambda schema, fields: fields["kind"].update(contains="a"), "$.kind: unknown keyword"),
        (lambda schema, fields: schema.update(type="array"), "$: was ['object']"),
    ],
)
def test_a_schema_that_takes_less_is_found_where_it_does(change, at):
    assert any(found.startswith(at) for found in narrowed(OLD, changed(change)))
