"""MLflow's client: imported late, quiet, bounded in time, and telling nobody of its use; its errors in our words."""

import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contract.errors import BundleError, ConfigError, RegistryUnavailableError, UnknownModelError
from contract.model_address import Place

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Ten seconds an answer, asked for twice: by its own defaults the client tries for a quarter of an hour.
_BOUNDS: Final = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DOWNLOAD_CHUNK_TIMEOUT": "60",
}
_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_SECRETS: Final = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_LOGIN: Final = re.compile(r"//[^/@\s]*@")
UNKNOWN: Final = frozenset({"RESOURCE_DOES_NOT_EXIST"})
NO_SUCH_ALIAS: Final = UNKNOWN | {"INVALID_PARAMETER_VALUE"}
"""What MLflow says of an alias that it does not know, if the name is a well-formed one."""

_REFUSED: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "UNAUTHENTICATED"})
_SHOWN: Final = 200


def open_client(place: Place) -> "MlflowClient":
    """Make a client; it blocks while a new SQLite file gets its tables.

    Variables of MLflow's own that bound its requests hold where they are set.

    Raises:
        ConfigError: MLflow is not installed.
        RegistryUnavailableError: The database cannot be used.
    """
    missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the model registry needs {' and '.join(missing)}; pip install framewatch[registry]")
    os.environ.update(_QUIET)
    for name, value in _BOUNDS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # The databases' migrations, and retries, announce themselves.
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with mapped_errors(place):
        return MlflowClient(place.tracking, place.registry)


def download(place: Place, source: str, out: Path) -> Path:
    """Download a folder of artifacts into another one; says where it then lies.

    Raises:
        BundleError: The files are not there.
        RegistryUnavailableError: They cannot be reached.
    """
    from mlflow.artifacts import download_artifacts

    try:
        with mapped_errors(place):
            at = download_artifacts(
                artifact_uri=source, dst_path=str(out), tracking_uri=place.tracking, registry_uri=place.registry
            )
    except (UnknownModelError, FileNotFoundError, NotADirectoryError) as error:
        raise BundleError("its files are not in the registry any more; register the bundle again") from error
    return Path(at)


@contextmanager
def mapped_errors(place: Place, unknown: frozenset[str] = UNKNOWN) -> Iterator[None]:
    """Map what MLflow and what it is made of raise.

    Args:
        place: Of the registry, for messages.
        unknown: MLflow's codes that say that there is no such thing.

    Raises:
        UnknownModelError: There is no such model, version or alias.
        ConfigError: The registry refuses what was asked.
        RegistryUnavailableError: It does not answer, or fails.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        said = f"registry {place}: {_shown(error)}"
        if error.error_code in unknown:
            raise UnknownModelError(said) from error
        if error.error_code in _REFUSED:
            raise ConfigError(said) from error
        raise RegistryUnavailableError(said) from error
    except (RequestException, SQLAlchemyError) as error:
        raise RegistryUnavailableError(f"registry {place}: {_shown(error)}") from error


def _shown(error: Exception) -> str:
    text = " ".join(str(error).split())
    for name in _SECRETS:
        text = text.replace(os.environ.get(name) or "\0", "***")
    return _LOGIN.sub("//***@", text)[:_SHOWN]
