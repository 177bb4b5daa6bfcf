"""The import contracts name every module that they should."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_exporter_s_contract_forbids_every_module_of_the_trainer_but_four():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one["source_modules"] == ["exporter"])
    modules = {f"trainer.{path.stem}" for path in (ROOT / "trainer").glob("*.py") if path.stem != "__init__"}
    assert modules - set(contract["forbidden_modules"]) == {
        "trainer.around", "trainer.checkpoint", "trainer.detector", "trainer.model",
    }  # fmt: skip
