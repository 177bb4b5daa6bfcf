"""Where the bundles lie that settings name: in a folder, or in the model registry, which may not answer.

What the registry last said of an address stays beside the downloaded bundles. So a worker that starts while the
registry is down goes on with what the last one ran.
"""

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from contract.errors import BundleError, ConfigError, RegistryUnavailableError, UnknownModelError
from contract.model_address import ModelAddress, is_model_address, parse_model_address, whole_path
from contract.model_cache import RegisteredModel, cached_folder, drop_unused, is_whole
from contract.registry import Registry
from worker.settings import WorkerSettings

_AGAIN_SECONDS: Final = 60.0
_SILENT_SECONDS: Final = 15.0
_log = logging.getLogger(__name__)

Versions = tuple[tuple[str, int, int, int], ...]


class InUse(NamedTuple):
    """What an address stands for.

    Attributes:
        version: Number of the version; 0 where the registry has no such model.
        digest: Of its bundle.
    """

    version: int
    digest: str


class _Said(NamedTuple):
    """What the registry last said of an address.

    Attributes:
        found: The version.
        folder: Where its bundle lies, once it was downloaded.
        registry: Which one said it.
    """

    found: RegisteredModel
    folder: Path
    registry: str


_NONE: Final = InUse(0, "")
_NO_ANSWER: Final = (ValueError, LookupError, TypeError, AttributeError)
"""What a file that is missing, damaged or of another form raises."""


class Models:
    """Says in which folder a bundle lies, and which version an address in the registry stands for.

    Args:
        registry: Where the registry is; see `contract.registry.Registry`.
        cache: Folder of downloaded bundles and of what the registry last said.
        allow_plaintext: Whether a connection to it without TLS may leave this machine.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        registry: str | None = None,
        cache: Path = Path(),
        *,
        allow_plaintext: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = registry
        self._cache = cache
        self._allow_plaintext = allow_plaintext
        self._clock = clock
        self._opened: Registry | None = None
        # What is in use, by its address.
        self._in_use: dict[str, InUse] = {}
        # Versions that were refused lately, when and why: a whole bundle is not to be downloaded at every look.
        self._refused: dict[InUse, tuple[float, BundleError]] = {}
        # Addresses in use that the registry does not know any more.
        self._missing: set[str] = set()
        self._is_silent = False
        # Why the registry did not answer last, and when.
        self._silence: tuple[RegistryUnavailableError | None, float] = (None, 0.0)

    def folder(self, named: Path, public_key: Path | None = None) -> Path:
        """Say where a bundle lies, after it was downloaded where need be; blocks meanwhile.

        Where the registry does not answer, that is the bundle of its last answer.

        Args:
            named: Folder, or address in the registry.
            public_key: Of whoever must have signed what is downloaded.

        Raises:
            ConfigError: The address is none, or the registry refuses the question.
            UnknownModelError: The registry has no such model, version or alias.
            BundleError: The version's files are not the bundle that was registered, or not signed.
            RegistryUnavailableError: The registry does not answer, and never did for this address.
        """
        if not is_model_address(named):
            return named
        address = _parsed(named)
        # Not before: whoever names folders alone needs no home.
        self._cache = whole_path("registry_cache", self._cache)
        try:
            found = self._ask(address)
            folder = self._fetched(found, public_key)
        except RegistryUnavailableError as error:
            return self._as_last_said(address, public_key, error)
        except UnknownModelError:
            self._in_use[str(named)] = _NONE
            self._note(address, RegisteredModel(address.name, _NONE.version, _NONE.digest, (), {}, {}))
            raise
        self._heard()
        self._in_use[str(named)] = InUse(found.version, found.digest)
        self._note(address, found)
        drop_unused(folder, self._last_said_of(found.name))
        return folder

    def version(self, named: Path) -> int | None:
        """Number of the version in use under an address; None for a folder."""
        in_use = self._in_use.get(str(named))
        return in_use.version if in_use is not None else None

    def in_use(self) -> Versions:
        """What each address stands for that was asked for since `forget`."""
        return tuple((address, one.version, 0, 0) for address, one in sorted(self._in_use.items()))

    def look(self) -> Versions:
        """The same as the registry says it now; what it does not answer stays as it was."""
        return tuple((address, self._version_now(address, one), 0, 0) for address, one in sorted(self._in_use.items()))

    def forget(self) -> None:
        """Begin anew to note which addresses are asked for."""
        self._in_use.clear()

    @property
    def _registry(self) -> Registry:
        if self._opened is None:
            self._opened = Registry(self._uri, allow_plaintext=self._allow_plaintext)
        return self._opened

    def _ask(self, address: ModelAddress | str) -> RegisteredModel:
        """Ask the registry; where it has just not answered, not again for each address, or a start would take hours."""
        silence, at = self._silence
        if silence is not None and self._clock() - at < _SILENT_SECONDS:
            raise silence
        try:
            found = self._registry.find(address, with_metrics=False)
        except RegistryUnavailableError as error:
            self._silence = error, self._clock()
            raise
        self._silence = None, 0.0
        return found

    def _version_now(self, address: str, in_use: InUse) -> int:
        try:
            version = self._ask(address).version
        except UnknownModelError as error:
            if in_use != _NONE and address not in self._missing:
                _log.warning("the registry does not know a model in use any more, it stays: %s", error)
            self._missing.add(address)
            return in_use.version
        except Exception as error:  # noqa: BLE001 - whatever it is, what is in use stays, and is asked for again
            self._say_silent(error)
            return in_use.version
        self._heard()
        self._missing.discard(address)
        return version

    def _fetched(self, found: RegisteredModel, public_key: Path | None) -> Path:
        wanted = InUse(found.version, found.digest)
        at, error = self._refused.get(wanted, (0.0, None))
        if error is not None and self._clock() - at < _AGAIN_SECONDS:
            raise error
        try:
            return self._registry.fetch(found, self._cache, public_key)
        except BundleError as refusal:
            self._refused[wanted] = self._clock(), refusal
            raise

    def _note(self, address: ModelAddress, found: RegisteredModel) -> None:
        said = {"registry": str(self._registry), "version": found.version, "digest": found.digest}
        file = self._answer_file(address)
        text = json.dumps(said) + "\n"
        if _read(file) != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Of its own, since workers may share the cache.
            with tempfile.NamedTemporaryFile("w", dir=file.parent, encoding="utf-8", delete=False) as part:
                part.write(text)
            Path(part.name).replace(file)

    def _as_last_said(self, address: ModelAddress, public_key: Path | None, error: RegistryUnavailableError) -> Path:
        try:
            found, folder, said_by = self._last_said(address.name, self._answer_file(address))
        except _NO_ANSWER:
            raise error from None
        is_of_it = said_by == str(self._registry)
        if is_of_it and InUse(found.version, found.digest) == _NONE:
            self._say_silent(error)
            self._in_use[str(address)] = _NONE
            raise UnknownModelError(f"{address}: the registry has no such model, as it last said") from None
        if not is_of_it or not is_whole(folder, found.digest, public_key):
            raise error
        self._say_silent(error)
        self._in_use[str(address)] = InUse(found.version, found.digest)
        _log.warning("%s is taken as the registry last said: version %s", address, found.version)
        return folder

    def _last_said_of(self, name: str) -> frozenset[Path]:
        """Folders that a start without the registry would take."""
        folders = []
        for file in (self._cache / name).glob("*.json"):
            with contextlib.suppress(*_NO_ANSWER):
                folders.append(self._last_said(name, file).folder)
        return frozenset(folders)

    def _last_said(self, name: str, file: Path) -> _Said:
        """Read what `_note` wrote; raises one of `_NO_ANSWER` where it is no such file."""
        said = json.loads(_read(file))
        found = RegisteredModel(name, said["version"], said["digest"], (), {}, {})
        return _Said(found, cached_folder(self._cache, found), said["registry"])

    def _answer_file(self, address: ModelAddress) -> Path:
        called = f"@{address.alias}" if address.alias is not None else str(address.version)
        return self._cache / address.name / f"{called}.json"

    def _say_silent(self, error: Exception) -> None:
        if not self._is_silent:
            _log.warning("the model registry does not answer, what is in use stays: %s", error)
        self._is_silent = True

    def _heard(self) -> None:
        if self._is_silent:
            _log.warning("the model registry answers again")
        self._is_silent = False


def open_models(settings: WorkerSettings) -> Models:
    """What says where the settings' bundles lie."""
    return Models(settings.registry, settings.registry_cache, allow_plaintext=settings.registry_allow_plaintext)


def _parsed(named: Path) -> ModelAddress:
    try:
        return parse_model_address(named)
    except ValueError as error:
        raise ConfigError(f"bundle {named} {error}") from error


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
