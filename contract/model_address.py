"""How a bundle in the model registry is named, and where that registry is. Pure: no client is imported or asked."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from contract.address import is_open, without_credentials
from contract.errors import ConfigError

MODEL_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
"""Names of registered models; none begins with a dot, for each is a folder of the cache."""

DEFAULT_REGISTRY: Final = Path("~/.framewatch/registry")
_DATABASE_NAME: Final = "mlflow.db"
_SCHEME: Final = "models:/"
_ADDRESS: Final = re.compile(
    rf"models:/(?P<name>{MODEL_NAME.pattern})(@(?P<alias>[A-Za-z0-9_-]{{1,128}})|/(?P<version>[1-9][0-9]{{0,8}}))"
)
_SQLITE: Final = "sqlite:///"
_SERVER_SCHEMES: Final = frozenset({"http", "https"})


class ModelAddress(NamedTuple):
    """Names one version of a registered model, by number or by alias.

    Attributes:
        name: Of the model.
        alias: Such as ``champion``; None where the version is given.
        version: Its number; None where an alias is given.
    """

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        """As it is written."""
        return f"{_SCHEME}{self.name}" + (f"@{self.alias}" if self.alias is not None else f"/{self.version}")


def is_model_address(text: str | Path) -> bool:
    """Whether a bundle is named by its address in the model registry, not by its folder."""
    return str(text).startswith("models:")


def parse_model_address(text: str | Path) -> ModelAddress:
    """Read ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Raises:
        ValueError: It is neither.
    """
    found = _ADDRESS.fullmatch(str(text))
    if found is None:
        raise ValueError("is no models:/NAME@ALIAS or models:/NAME/VERSION; NAME is 1 to 128 of A-Z a-z 0-9 . _ -")
    version = found["version"]
    return ModelAddress(found["name"], found["alias"], int(version) if version is not None else None)


def whole_path(setting: str, path: str | Path) -> Path:
    """A path without ``~``, as the current folder makes it whole.

    Raises:
        ConfigError: It names the home of a user who has none, as in some containers.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{setting} {path}: this user has no home; name another folder") from error


class Place(NamedTuple):
    """Where a model registry is.

    Attributes:
        tracking: Where MLflow keeps runs: ``sqlite:///FILE``, or a server's address.
        registry: Where it keeps registered models.
        database: The SQLite file; None for a server.
    """

    tracking: str
    registry: str
    database: Path | None

    @property
    def artifacts(self) -> str | None:
        """Address of the folder of files, beside the database; None where a server says."""
        return (self.database.parent / "artifacts").as_uri() if self.database is not None else None

    def __str__(self) -> str:
        """As it may be shown."""
        return str(self.database) if self.database is not None else without_credentials(self.registry)


def locate(
    registry: str | None, *, allow_plaintext: bool = False, environment: Mapping[str, str] = os.environ
) -> Place:
    """Say where the model registry is.

    Args:
        registry: A folder with a SQLite file and the models' files, ``sqlite:///FILE``, or an MLflow server's http or
            https address. None for what MLflow's own variables say, or else the folder ``~/.framewatch/registry``.
        allow_plaintext: Whether a connection without TLS may leave this machine.
        environment: With ``MLFLOW_TRACKING_URI`` and ``MLFLOW_REGISTRY_URI``.

    Raises:
        ConfigError: It is none of these, or would leave this machine unprotected.
    """
    tracking = registry or environment.get("MLFLOW_TRACKING_URI") or environment.get("MLFLOW_REGISTRY_URI")
    tracking = tracking or str(DEFAULT_REGISTRY)
    models = registry or environment.get("MLFLOW_REGISTRY_URI") or tracking
    (tracking, _), (models, database) = (_read(one, allow_plaintext=allow_plaintext) for one in (tracking, models))
    return Place(tracking, models, database)


def _read(text: str, *, allow_plaintext: bool) -> tuple[str, Path | None]:
    if text.startswith(_SQLITE):
        database = Path(text.removeprefix(_SQLITE)).absolute()
    elif "://" not in text:
        database = whole_path("registry", text) / _DATABASE_NAME
    else:
        return _read_server(text, allow_plaintext=allow_plaintext), None
    if re.search(r"[?#%]", str(database)):
        raise ConfigError(f"registry {database}: the path holds one of ? # %, which the database's address cannot")
    return f"{_SQLITE}{database}", database


def _read_server(text: str, *, allow_plaintext: bool) -> str:
    shown = without_credentials(text)
    try:
        url = urlsplit(text)
        host = url.hostname
    except ValueError as error:
        raise ConfigError(f"registry {shown} is no address") from error
    if url.scheme not in _SERVER_SCHEMES or not host:
        raise ConfigError(f"registry {shown} is no folder, sqlite:///FILE, http:// or https:// address")
    if not allow_plaintext and is_open(text):
        raise ConfigError(
            f"registry {shown} would be spoken to without TLS beyond this machine; use https, or allow it with "
            "registry_allow_plaintext"
        )
    return text
