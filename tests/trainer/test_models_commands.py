"""The commands that say which version workers run do it in one line, or say in one why not."""

import json

import pytest

from contract.command_line import run_command_line
from contract.registry import Registry
from exporter.__main__ import app as exporter
from tests.bundles import write_bundle
from trainer.__main__ import app as trainer


@pytest.fixture(scope="module")
def place(new_registry, tmp_path_factory):
    """A registry whose `room` has three versions, the last of them the challenger."""
    folder = tmp_path_factory.mktemp("models")
    registry = Registry(str(new_registry(folder / "registry")))
    for number in (1, 2, 3):
        aliases = ("challenger",) if number == 3 else ()
        registry.register("room", write_bundle(folder / str(number), f"v{number}"), aliases=aliases)
    return folder / "registry"


@pytest.fixture
def run(place, capsys):
    def run(*command):
        code = run_command_line(trainer, "trainer", [*command, "--registry", str(place)])
        said = capsys.readouterr()
        assert said.err.count("\n") == (1 if code else 0)
        return code, said.out or said.err

    return run


def test_versions_are_promoted_listed_and_rolled_back(run, place):
    assert run("rollback", "room")[0] == 2
    assert run("promote", "room", "--version", "1") == (0, "room: version 1 is champion\n")
    assert run("promote", "room", "--why", "[sees] more") == (0, "room: version 3 is champion, before it version 1\n")
    rows = [json.loads(line) for line in run("models", "--json")[1].splitlines()]
    assert [(row["version"], row["aliases"]) for row in rows] == [
        (3, ["challenger", "champion"]), (2, []), (1, ["previous"]),
    ]  # fmt: skip
    assert rows[0]["tags"]["framewatch.promoted_because"] == "[sees] more"
    table = run("models", "room")[1]
    assert "[sees]" in table
    assert "0.98" in table
    assert run("rollback", "room") == (0, "room: version 1 is champion again\n")
    assert Registry(str(place)).find("models:/room@champion").version == 1


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (("promote", "hall"), "hall"), (("promote", "room", "--version", "9"), "9"), (("models", "hall"), "hall"),
        (("promote", "../room"), "../room"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_mistake(run, command, word):
    code, said = run(*command)
    assert code == 2
    assert said.startswith("trainer: ")
    assert word in said


def test_a_registry_that_is_not_there_is_a_failure(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FRAMEWATCH_REGISTRY", str(tmp_path / "gone"))
    assert run_command_line(trainer, "trainer", ["models"]) == 1
    assert str(tmp_path / "gone") in capsys.readouterr().err
    assert run_command_line(trainer, "trainer", ["models", "--registry", "http://models.example"]) == 2
    assert "registry_allow_plaintext" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bundle_is_built_and_registered_at_once(tiny_bundle, new_registry, tmp_path, capsys):
    out, place = tmp_path / "bundle", new_registry(tmp_path / "registry")
    build = ["build", str(tiny_bundle.run), "--out", str(out), "--registry", str(place), "--alias", "challenger"]
    assert run_command_line(exporter, "exporter", build) == 2
    assert "--alias belongs with --register" in capsys.readouterr().err
    assert not out.exists()
    assert run_command_line(exporter, "exporter", [*build, "--register", "room"]) == 0
    assert "models:/room/1" in capsys.readouterr().err

    registry = Registry(str(place))
    found = registry.find("models:/room@challenger")
    assert found.metrics["quality.auroc_disturbed"] > 0.5
    client = registry._client()
    run_id = client.get_model_version("room", "1").run_id
    files = {file.path for file in client.list_artifacts(run_id, "files")}
    assert files == {f"files/{path.name}" for path in tiny_bundle.run.glob("*.png")} != set()
