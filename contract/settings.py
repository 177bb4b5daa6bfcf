"""Settings: frozen, bounded, and refused in one line that names the field.

A setting comes, strongest first, from a command-line flag, from an environment variable ``FRAMEWATCH_<FIELD>``
(``FRAMEWATCH_KAFKA__GROUP_ID`` for ``kafka.group_id``), from a YAML file, or from its default.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from contract.address import without_credentials
from contract.errors import ConfigError

ENV_PREFIX = "FRAMEWATCH_"
# Read by the deployment and the benchmarks, and by the commands of the model registry, not by every part's settings.
_OTHER_ENV = frozenset(
    {"FRAMEWATCH_DATA", "FRAMEWATCH_CACHE", "FRAMEWATCH_REGISTRY", "FRAMEWATCH_REGISTRY_ALLOW_PLAINTEXT"}
)
_SERVICE_LINK = re.compile(r"FRAMEWATCH(_[A-Z0-9_]+)?_(SERVICE_HOST|(SERVICE_)?PORT|SERVICE_PORT_.+|PORT_\d+_[A-Z]+.*)")
_SECRET_WORDS = ("password", "secret", "token")
# What YAML's complaints quote: its own tokens and single characters are shown, words of the file are not.
_QUOTED = re.compile(r"'<[a-z ]+>'|'\\?.'|['\"].*")


class FrozenModel(BaseModel):
    """A record whose fields are checked once, when it is made, and never change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )


class Settings(BaseSettings):
    """Base of a part's settings; load them with `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave only what the caller passes: `load_settings` merges the sources itself, in its stated order."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(
    cls: type[SettingsT],
    *,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: bool = False,
    fallback: Mapping[str, Any] | None = None,
) -> SettingsT:
    """Build settings from flags, then the environment, then a YAML file, then the defaults.

    Args:
        cls: The settings class.
        file: YAML file whose top level is a mapping of fields.
        flags: Values by dotted field name (``"kafka.group_id"``); those that are None were not given.
        environment: Whether ``FRAMEWATCH_*`` variables are read; unknown ones are then refused.
        fallback: Fields that stand in where nothing else gives them.

    Raises:
        ConfigError: A key is unknown, or a value is missing, of another type or out of range.
    """
    merged: dict[str, Any] = dict(fallback or {})
    if file is not None:
        _deep_update(merged, read_yaml(file))
    if environment:
        _deep_update(merged, _read_environment(cls))
    for dotted, value in (flags or {}).items():
        if value is not None:
            _deep_update(merged, _nest(dotted.split("."), value))
    try:
        return cls(**merged)
    except ValidationError as error:
        where = f" in {file}" if file is not None else ""
        raise ConfigError(f"settings{where}: {one_line(error)}") from error


def one_line(error: ValidationError) -> str:
    """Say the first of pydantic's complaints in one line: field, what is wrong, what was found."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "is not known; look for a misspelling"
    elif first["type"] == "missing":
        message = "is required"
    elif isinstance(first["input"], str | int | float) and not any(word in field.lower() for word in _SECRET_WORDS):
        found = first["input"]
        found = " ".join(repr(without_credentials(found) if isinstance(found, str) else found).split())
        message += f", found {found[:80]}"
    more = error.error_count() - 1
    text = f"{field}: {message}" if field else message
    return text + (f" (and {more} more)" if more else "")


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping of names; an empty one is an empty mapping.

    Raises:
        ConfigError: It cannot be read, or is no such YAML; what stands in it is not repeated.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"settings file {file} cannot be read: {reason}") from error
    except Exception as error:
        # The YAML library lets ValueError, KeyError and more through for values such as 2001-99-99 or !!bool x.
        raise ConfigError(f"settings file {file} is not YAML: {_yaml_problem(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"settings file {file}: expected 'field: value' lines at the top level")
    return content


def _yaml_problem(error: Exception) -> str:
    """Say what is wrong and where, but not what stands there: it may be a password."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = _QUOTED.sub(_own_token, error.problem or "")
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {problem.strip()}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"a character that YAML does not allow at position {error.position}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a value is not of its type, a date or number for one"


def _own_token(quoted: re.Match[str]) -> str:
    return quoted[0] if len(quoted[0]) < 5 or quoted[0].startswith("'<") else "…"


def _read_environment(cls: type[Settings]) -> dict[str, Any]:
    names = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith(ENV_PREFIX)}
    for name in sorted(names.keys() - _OTHER_ENV):
        if _is_service_link(name, names[name]):
            continue
        fields: Any = cls.model_fields
        for part in name.removeprefix(ENV_PREFIX).lower().split("__"):
            field = fields.get(part) if fields is not None else None
            if field is None:
                raise ConfigError(f"environment variable {name} names no setting; look for a misspelling")
            # A group may be optional, of type ``Group | None``.
            kinds = (field.annotation, *get_args(field.annotation))
            fields = next((kind.model_fields for kind in kinds if hasattr(kind, "model_fields")), None)
        if fields is not None:
            raise ConfigError(f"environment variable {name} names a group of settings; name one, as {name}__<FIELD>")
    try:
        return EnvSettingsSource(cls)()
    except Exception as error:
        raise ConfigError(f"environment: {' '.join(str(error).split())}") from error


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set the variable, as it does in every pod for each service, also one called framewatch."""
    is_address = name.endswith("_PORT") and not name.endswith("_SERVICE_PORT")
    return bool(_SERVICE_LINK.fullmatch(name)) and (not is_address or "://" in value)


def _nest(path: list[str], value: Any) -> dict[str, Any]:  # noqa: ANN401
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def _deep_update(target: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        mine = target.get(key)
        if isinstance(mine, dict) and isinstance(value, Mapping):
            _deep_update(mine, value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value
