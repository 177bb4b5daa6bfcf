"""What the commands that fit and measure share: where footage is read from, and results that are kept."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

_RESULT_NAME: Final = "result.json"


def data_folder(given: Path | None) -> Path:
    """Folder of datasets: the one given, that of ``FRAMEWATCH_DATA``, or ``../shared/data``."""
    return given or Path(os.environ.get("FRAMEWATCH_DATA", "../shared/data"))


def is_kept(folder: Path) -> bool:
    """Whether a folder holds a result, which is then not measured again."""
    return (folder / _RESULT_NAME).is_file()


def keep_result(folder: Path, result: dict[str, Any]) -> None:
    """Write a result into its folder."""
    (folder / _RESULT_NAME).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def kept_results(out: Path) -> Iterator[dict[str, Any]]:
    """Read the result of each folder, in the order of their names."""
    for path in sorted(out.glob(f"*/{_RESULT_NAME}")):
        yield json.loads(path.read_text(encoding="utf-8"))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = ["|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in (columns, *rows)]
    return [cells[0], "|---" * len(columns) + "|", *cells[1:]]
