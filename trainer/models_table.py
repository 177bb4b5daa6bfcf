"""Registered versions as a table for a terminal."""

from collections.abc import Iterable
from typing import Final

from rich.markup import escape
from rich.table import Table

from contract.model_cache import RegisteredModel
from contract.registry import WHY_TAG

_SHOWN: Final = {
    "quality.auroc_disturbed": "AUROC",
    "calibration.threshold": "threshold",
    "training.best_validation_loss": "loss",
}
_DIGEST: Final = slice(len("sha256:"), len("sha256:") + 12)


def models_table(versions: Iterable[RegisteredModel]) -> Table:
    """Lay versions out, one a row, in the order given."""
    table = Table(
        title="Registered models", expand=False,
        caption="AUROC: held-out frames against the same ones disturbed; loss: held-out",
    )  # fmt: skip
    for column in ("model", "version", "aliases", "digest"):
        table.add_column(column, no_wrap=True)
    for column in _SHOWN.values():
        table.add_column(column, justify="right")
    table.add_column("promoted because")
    for one in versions:
        figures = [f"{one.metrics[name]:.4g}" if name in one.metrics else "" for name in _SHOWN]
        texts = (one.name, str(one.version), ", ".join(one.aliases), one.digest[_DIGEST])
        table.add_row(*map(escape, texts), *figures, escape(one.tags.get(WHY_TAG, "")))
    return table
