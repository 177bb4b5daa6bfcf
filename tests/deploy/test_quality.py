import json
import subprocess
import sys
from pathlib import Path

import pytest

from contract.source import open_source
from deploy.quality import METHODS, milliseconds_a_frame, page
from tests.conftest import TinyBundle
from trainer.datasets import Dataset
from trainer.label_kinds import RangeLabels
from trainer.settings import FitSettings


def result(method: str, seed: int, auroc: float, **changes) -> dict:
    blank = dict.fromkeys(
        ("frame_auroc_per_clip", "average_precision", "pixel_auroc", "aupro", "event_recall", "false_events_per_hour",
         "detection_delay_seconds", "frame_auroc_untrained_flow"),
    )  # fmt: skip
    known = {
        "dataset": "Made", "method": method, "seed": seed, "command": f"`fit {method}`", "fit_minutes": 2.0,
        "milliseconds_a_frame": 4.0, "frame_auroc": auroc, "frame_auroc_untrained": 0.5,
    }  # fmt: skip
    return {**blank, **known, **changes}


def test_rows_of_one_method_are_joined_to_mean_and_spread():
    text = page([result("one", 0, 0.8), result("one", 1, 0.9), result("two", 0, 0.7)])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert next(row for row in rows if row.startswith("| one | 2 |")).split("|")[3].strip() == "0.850 ± 0.071"
    assert next(row for row in rows if row.startswith("| two | 1 |")).split("|")[3].strip() == "0.700"
    assert any(row.startswith("| untrained frame difference | | 0.500 |") for row in rows)
    assert "- one: `fit one`" in text
    assert len({row.count("|") for row in rows if row.startswith(("| one", "| two", "| untrained", "| method"))}) == 1


def test_exported_precisions_stand_beside_pytorch():
    exported = {"fp32": 0.8, "fp16": 0.7999, "int8": 0.795}
    text = page([result("one", 0, 0.8, exported=exported), result("two", 0, 0.7)])
    assert "| frame AUROC | PyTorch | fp32 | fp16 | int8 |" in text
    assert "| one | 0.8000 | 0.8000 | 0.7999 | 0.7950 |" in text
    assert "fp16" not in page([result("two", 0, 0.7)])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_row_s_settings_are_those_of_a_fit(method):
    assert FitSettings(**method.settings, seed=1).preset == method.settings["preset"]
    assert json.dumps(method.settings) in method.command(1)
    assert '"minutes": 3.0}' in method.command(1, 3.0)


def test_a_frame_is_timed_from_its_bytes(tiny_bundle: TinyBundle):
    clips = open_source(str(tiny_bundle.footage))
    dataset = Dataset("Made", "video", clips, clips, RangeLabels(Path("labels.csv"), {}))
    assert 0 < milliseconds_a_frame(tiny_bundle.bundle, dataset) < 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--data", "nowhere"], "--data nowhere holds neither"), (["--seeds", "1,x"], "--seeds '1,x' must be")],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, said, tmp_path):
    command = [sys.executable, "-m", "deploy.quality", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
