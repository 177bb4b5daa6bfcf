"""The documentation says what the code does: the reference is current, and what other pages name is there."""

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
import yaml

import contract.errors
import exporter.__main__
import trainer.__main__
import worker.__main__
from deploy.reference import PAGES
from deploy.reference_fields import groups
from trainer.retrain_settings import RetrainSettings
from trainer.settings import FitSettings
from worker.camera_settings import CameraSettings
from worker.console.settings import ConsoleSettings
from worker.settings import WorkerSettings
from worker.zones import Zones

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - set((DOCS / "reference").iterdir()))]
PROGRAMS = {"worker": worker.__main__.app, "trainer": trainer.__main__.app, "exporter": exporter.__main__.app}
FILES = {
    model: {name for group in groups(model.model_json_schema()) for name, *_ in group.fields}
    for model in (WorkerSettings, FitSettings, RetrainSettings, ConsoleSettings, CameraSettings)
}
SETTINGS = set().union(*FILES.values())
FILES[Zones] = set(Zones.model_fields)
GROUPS = {name.partition(".")[0] for name in SETTINGS if "." in name}


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_what_the_code_says(name):
    assert (DOCS / "reference" / name).read_text() == PAGES[name](), "run: make reference"


def test_no_page_of_the_reference_is_left_over():
    assert {path.name for path in (DOCS / "reference").iterdir()} == set(PAGES)


def test_the_tree_of_errors_tells_each_error_with_its_code():
    told = dict(re.findall(r"(\w+Error) +(?:exit (\d)|dead-letter)", contract.errors.__doc__))
    del told["FrameError"]
    errors = {
        name: one for name, one in vars(contract.errors).items() if isinstance(one, type) and name != "FrameError"
    }
    errors = {
        name: str(one.exit_code) for name, one in errors.items() if issubclass(one, contract.errors.FramewatchError)
    }
    assert told == errors


def commands(text):
    """Command lines of the project's programs in blocks of code and within sentences."""
    blocks = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE) + re.findall(r"^ {4}.*", text, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        if re.match(rf"({'|'.join(PROGRAMS)}) +[a-z]", line):
            yield shlex.split(line, comments=True)


def unknown_in(words):
    """The first word of a command line that its program does not know, if any."""
    known = typer.main.get_command(PROGRAMS[words[0]])
    rest = words[1:]
    while hasattr(known, "commands") and rest:
        name, *rest = rest
        if name not in known.commands:
            return name
        known = known.commands[name]
    options = {option for parameter in known.params for option in parameter.opts}
    return next((word for word in rest if word.startswith("--") and word not in {*options, "--help"}), None)


@pytest.mark.parametrize(
    "page",
    WRITTEN,
    ids=lambda page: page.stem,
)
def test_commands_in_the_pages_are_those_of_the_programs(page):
    said = [*commands(page.read_text())]
    assert [(words, unknown_in(words)) for words in said if unknown_in(words) is not None] == []


def test_a_command_or_flag_that_is_none_is_found():
    text = (
        "    worker run --bundle b --no\n```\ntrainer fly\n```\n`worker run --bundel b`\n    worker run  # --comment\n"
    )
    assert [unknown_in(words) for words in commands(text)] == ["fly", "--no", None, "--bundel"]


def metrics(text):
    """Names of metrics, those of a histogram's series being the histogram's."""
    return {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"`(framewatch_[a-z_]+)", text)}


def test_metrics_in_the_pages_are_those_of_the_worker_and_operations_tells_of_each():
    counted = metrics((DOCS / "reference" / "metrics.md").read_text())
    assert len(counted) > 20
    named = {page.stem: metrics(page.read_text()) - counted for page in WRITTEN}
    assert {page: names for page, names in named.items() if names} == {}
    assert counted - metrics((DOCS / "operations.md").read_text()) == set()


def settings_named(text):
    """Dotted names of settings within sentences."""
    named = re.findall(r"`([a-z_]+\.[a-z_.]+)(?::[^`]*)?`", text)
    return {one for one in named if one.partition(".")[0] in GROUPS and not one.endswith((".yaml", ".py"))}


def test_settings_in_the_pages_are_those_of_the_code():
    assert settings_named("`kafka.group_id`, `kafka.grop_id: x`") - SETTINGS == {"kafka.grop_id"}
    unknown = {page.stem: settings_named(page.read_text()) - SETTINGS for page in WRITTEN}
    assert {page: names for page, names in unknown.items() if names} == {}


def dotted(content, path=""):
    """Names of the settings that a YAML file sets, each level's under its own."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from dotted(value, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list) and content and isinstance(content[0], Mapping):
        for one in content:
            yield from dotted(one, f"{path}[]")
    else:
        yield path


def is_of(file, content):
    """Whether a file sets nothing but what a kind of file knows."""
    if file is CameraSettings:
        return all(isinstance(camera, Mapping | None) and knows(file, camera or {}) for camera in content.values())
    return knows(file, content)


def knows(file, content):
    # What a retraining gives to its fit is named there as in a fit's own file.
    return all(name in FILES[file] or name.startswith("fit.") for name in dotted(content))


def test_files_of_settings_in_the_pages_name_settings():
    assert is_of(WorkerSettings, {"kafka": {"group_id": "a"}})
    assert not any(is_of(file, {"kafka": {"group_id": "a", "grop_id": "b"}}) for file in FILES)
    pages = [ROOT / "README.md", DOCS / "operations.md", DOCS / "retraining.md", *(DOCS / "guides").glob("*.md")]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]
    assert len(blocks) > 8
    for block in blocks:
        assert any(is_of(file, yaml.safe_load(block)) for file in FILES), block


def test_sizing_is_by_the_measured_cost_of_a_frame():
    page, measured = ((DOCS / name).read_text() for name in ("sizing.md", "benchmarks/worker.md"))
    costs = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    columns, *rows = [line.strip("| ").split(" | ") for line in measured.splitlines() if line.startswith("| ")]
    told = {row[0]: row[columns.index("worker, ms")] for row in rows if len(row) == len(columns)}
    assert costs == told
    table = re.search(r"Of `balanced`.*?\n((?:\|[^\n]*\n)+)", page, re.DOTALL)[1].replace(",", "").splitlines()[2:]
    for row in table:
        cameras, frames, workers, partitions, megabytes, *_ = (float(cell) for cell in row.strip("| ").split(" | "))
        assert frames == 5 * cameras
        assert workers == pytest.approx(math.ceil(frames * float(costs["balanced"]) / (1000 * 8 * 0.7)), abs=1)
        assert partitions == 2 * workers
        assert megabytes == pytest.approx(frames * 26.7e-3, rel=0.05)
