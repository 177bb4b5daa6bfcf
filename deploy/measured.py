"""What the commands that fit and measure share: where footage is read from, and results that are kept."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def data_folder(given: Path | None) -> Path:
    """Folder of datasets: the one given, that of ``FRAMEWATCH_DATA``, or ``../shared/data``."""
    return given or Path(os.environ.get("FRAMEWATCH_DATA", "../shared/data"))


def kept_results(out: Path) -> Iterator[dict[str, Any]]:
    """Read the ``result.json`` of each folder, in the order of their names."""
    for path in sorted(out.glob("*/result.json")):
        yield json.loads(path.read_text(encoding="utf-8"))
