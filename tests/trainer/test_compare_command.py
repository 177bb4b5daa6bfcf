"""``trainer compare`` on a real bundle and the run that it was built from: they agree, and the folder is whole."""

import json

import pytest

import trainer.__main__
from contract.command_line import run_command_line
from tests.footage import write_scene


def _compare(*arguments):
    return run_command_line(trainer.__main__.app, "trainer", ["compare", *map(str, arguments)])


@pytest.fixture
def labels(tmp_path, tiny_bundle):
    path = tmp_path / "labels.csv"
    path.write_text(f"clip,first_frame,last_frame,label\n{tiny_bundle.footage.name},40,49,1\n")
    return path


def test_a_bundle_and_its_run_find_the_same(tmp_path, tiny_bundle, labels, capsys):
    normal = write_scene(tmp_path / "normal", 40, seed=2)
    rule = tmp_path / "rule.yaml"
    rule.write_text("min_normal_seconds: 2\n")
    out = tmp_path / "out"
    arguments = ("--labelled", tiny_bundle.footage, "--labels", labels, "--normal", normal, "--out", out)
    for _ in range(2):  # the second replaces the first
        assert _compare(tiny_bundle.run, tiny_bundle.bundle, *arguments, "--rule", rule) == 0
    assert {path.name for path in out.iterdir()} == {"comparison.json", "verdict.json", "report.html"}
    comparison = json.loads((out / "comparison.json").read_text())
    labelled = next(one for one in comparison["evidence"] if one["kind"] == "labelled")
    assert (labelled["known_events"], labelled["champion"]["found"], labelled["challenger"]["found"]) == (1, 1, 1)
    assert comparison["agreement"]["same_decision"] == 1
    assert comparison["agreement"]["rank_correlation"] > 0.999
    assert json.loads((out / "verdict.json").read_text())["promoted"] is True
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out)
    assert "promote: it passed every check" in said.err
    page = (out / "report.html").read_text()
    assert "The challenger would be promoted" in page
    assert "No event was told by one alone." in page


def test_without_a_rule_file_a_few_seconds_are_too_few(tmp_path, tiny_bundle, labels, capsys):
    arguments = ("--labelled", tiny_bundle.footage, "--labels", labels, "--out", tmp_path / "out")
    assert _compare(tiny_bundle.bundle, tiny_bundle.bundle, *arguments) == 0
    assert "do not promote: " in capsys.readouterr().err
    assert "60 s are asked for" in json.loads((tmp_path / "out" / "verdict.json").read_text())["reason"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is no footage to compare on; give --normal"),
        (("--labelled", "{footage}"), "--labels must be given once for each --labelled"),
        (("--normal", "{footage}", "--device", "tpu"), "--device 'tpu' is not one of auto, cpu, cuda"),
        (("--normal", "{footage}", "--rule", "{rule}"), "rule.yaml: lost_events: Input should be greater"),
        (("--normal", "no-such-footage"), "SOURCE no-such-footage"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(tmp_path, tiny_bundle, arguments, said, capsys):
    rule = tmp_path / "rule.yaml"
    rule.write_text("lost_events: -1\n")
    out = tmp_path / "out"
    filled = [one.format(footage=tiny_bundle.footage, rule=rule) for one in arguments]
    assert _compare(tiny_bundle.bundle, tiny_bundle.bundle, *filled, "--out", out) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
