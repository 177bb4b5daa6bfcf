"""Structured logs on standard error: JSON lines for machines, short lines for people. Never payloads, never secrets."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up_logs(form: Literal["auto", "json", "text"], level: str) -> None:
    """Send the process's logs to standard error.

    Args:
        form: ``auto`` is text on a terminal and JSON elsewhere.
        level: Least grave level of the project's messages; libraries log warnings and errors alone.
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # The client says in its own words what is raised, and then logged, in ours.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    for part in ("worker", "contract"):
        logging.getLogger(part).setLevel(level)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = f"{when} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}
