"""Bundles in MLflow's model registry: registered once, found by alias, fetched whole, promoted and rolled back."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contract.errors import BundleError, ConfigError, RegistryUnavailableError, UnknownModelError
from contract.manifest import MODEL_CARD_NAME, open_bundle
from contract.mlflow_client import NO_SUCH_ALIAS, download, mapped_errors, open_client
from contract.model_address import MODEL_NAME, ModelAddress, locate, parse_model_address
from contract.model_cache import RegisteredModel, cached_folder, is_whole, require_registered
from contract.registration import DIGEST_TAG, log_figures, log_files, make_model, run_of, version_with
from contract.whole_folder import whole_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
WHY_TAG: Final = "framewatch.promoted_because"
ROLLED_BACK_TAG: Final = "framewatch.rolled_back_to"
_BUNDLE: Final = "bundle"
_READY_SECONDS: Final = 30
_SQLITE_HEADER: Final = b"SQLite format 3\0"


class Registry:
    """A model registry; every call blocks, and asks it anew.

    A server that does not answer is given up after half a minute, if MLflow's own variables set no other bounds.

    Args:
        uri: Where it is; see `contract.model_address.locate`.
        allow_plaintext: Whether a connection without TLS may leave this machine.

    Raises:
        ConfigError: The address is none, or MLflow is not installed.
    """

    def __init__(self, uri: str | None = None, *, allow_plaintext: bool = False) -> None:
        self._place = locate(uri, allow_plaintext=allow_plaintext)
        self._opened: MlflowClient | None = None

    def __str__(self) -> str:
        """Where it is, without credentials."""
        return str(self._place)

    def create(self) -> None:
        """Make the registry where it is a folder or file that is not there yet.

        Raises:
            RegistryUnavailableError: It cannot be made, or does not answer.
        """
        with mapped_errors(self._place):
            self._client(create=True)

    def register(
        self, name: str, folder: Path, *, metrics: Mapping[str, float] | None = None,
        files: Mapping[str, Path] | None = None, tags: Mapping[str, str] | None = None, aliases: Sequence[str] = (),
    ) -> int:  # fmt: skip
        """Register a bundle, with figures from its manifest, under a version of its own.

        A bundle that has a version keeps it: its files are sent again, and metrics, files, tags and aliases are added.
        So it may be called again after it was cut off anywhere. Two calls at once for one bundle may give it two.

        Args:
            name: Of the model.
            folder: Of the bundle.
            metrics: Beside those of the manifest.
            files: Curves, reports and the like, files or folders by plain names.
            tags: Of the version.
            aliases: That name this version from now on.

        Returns:
            The version.

        Raises:
            ConfigError: A name is none, or the registry refuses it.
            BundleError: The bundle is not whole.
            RegistryUnavailableError: The registry does not answer, or fails.
        """
        if not MODEL_NAME.fullmatch(name):
            raise ConfigError(f"model {name!r} must be 1 to 128 of A-Z a-z 0-9 . _ -, and not begin with a dot")
        bundle = open_bundle(folder)
        client = self._client(create=True)
        with mapped_errors(self._place):
            make_model(client, name)
            known = version_with(client, name, bundle.digest)
            run = run_of(client, name, bundle, known, self._place.artifacts)
            log_figures(client, run, bundle, metrics or {})
            client.log_artifacts(run.info.run_id, str(folder), _BUNDLE)
            log_files(client, run.info.run_id, files or {})
            if known is None:
                client.set_terminated(run.info.run_id)
                known = client.create_model_version(
                    name, f"{run.info.artifact_uri}/{_BUNDLE}", run.info.run_id, tags={DIGEST_TAG: bundle.digest},
                    description=(folder / MODEL_CARD_NAME).read_text(encoding="utf-8"),
                    await_creation_for=_READY_SECONDS,
                )  # fmt: skip
            for key, value in (tags or {}).items():
                client.set_model_version_tag(name, known.version, key, value)
            for alias in aliases:
                client.set_registered_model_alias(name, alias, known.version)
        return int(known.version)

    def find(self, address: str | ModelAddress, *, with_metrics: bool = True) -> RegisteredModel:
        """Find a version.

        Args:
            address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
            with_metrics: Whether its metrics are asked for too, which takes another request.

        Raises:
            UnknownModelError: There is none, or no bundle is in it.
            ConfigError: The address is none, or the registry refuses the question.
            RegistryUnavailableError: The registry does not answer, or fails.
        """
        try:
            wanted = parse_model_address(address) if isinstance(address, str) else address
        except ValueError as error:
            raise ConfigError(f"{address} {error}") from error
        client = self._client()
        with mapped_errors(self._place, NO_SUCH_ALIAS):
            if wanted.alias is not None:
                found = client.get_model_version_by_alias(wanted.name, wanted.alias)
            else:
                found = client.get_model_version(wanted.name, str(wanted.version))
        if DIGEST_TAG not in found.tags:
            raise UnknownModelError(f"{wanted} of registry {self._place} holds no bundle: register one with exporter")
        return self._model(client, found, with_metrics=with_metrics)

    def models(self, name: str | None = None) -> Iterator[RegisteredModel]:
        """Every version that holds a bundle, newest first: of one model, or of all.

        Raises:
            UnknownModelError: There is no such model.
            RegistryUnavailableError: The registry does not answer, or fails.
        """
        client = self._client()
        with mapped_errors(self._place):
            if name is None:
                registered = _all_pages(client.search_registered_models)
            else:
                registered = iter([client.get_registered_model(name)])
            # Names that others' models may have, and a filter could not hold.
            for model in (one for one in registered if MODEL_NAME.fullmatch(one.name)):
                versions = list(_all_pages(client.search_model_versions, filter_string=f"name='{model.name}'"))
                for version in sorted(versions, key=lambda one: -int(one.version)):
                    if DIGEST_TAG in version.tags:
                        one = self._model(client, version, with_metrics=True)
                        named = (alias for alias, number in model.aliases.items() if int(number) == one.version)
                        yield one._replace(aliases=tuple(sorted(named)))

    def fetch(self, address: str | ModelAddress | RegisteredModel, cache: Path, public_key: Path | None = None) -> Path:
        """Download a version's bundle, unless it lies whole in the cache; says where.

        It is put in place at once, and only once it is whole, is the bundle that was registered, and is signed where
        that is asked for.

        Args:
            address: Which.
            cache: Folder in which it is ``NAME/VERSION-DIGEST``.
            public_key: As `contract.manifest.open_bundle`.

        Raises:
            UnknownModelError: There is no such version.
            BundleError: What the registry holds is not the bundle that was registered, or is not signed by the key.
            RegistryUnavailableError: The registry does not answer, or fails.
        """
        found = address if isinstance(address, RegisteredModel) else self.find(address, with_metrics=False)
        folder = cached_folder(cache, found)
        if is_whole(folder, found.digest, public_key):
            return folder
        client = self._client()
        with mapped_errors(self._place):
            source = client.get_model_version_download_uri(found.name, str(found.version))
        try:
            with whole_folder(folder, replaceable=True) as part:
                try:
                    at = download(self._place, source, Path(tempfile.mkdtemp(dir=part.parent)))
                    for file in sorted(at.iterdir()):
                        file.rename(part / file.name)
                    require_registered(part, found, public_key)
                except BundleError as error:
                    raise BundleError(f"{found.address}: {error}") from error
        except OSError:
            # Another process has just put it there.
            if not is_whole(folder, found.digest, public_key):
                raise
        return folder

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Have an alias name a version from now on.

        Raises:
            UnknownModelError: There is no such version.
            RegistryUnavailableError: The registry does not answer, or fails.
        """
        self.find(ModelAddress(name, version=version), with_metrics=False)
        with mapped_errors(self._place):
            self._client().set_registered_model_alias(name, alias, str(version))

    def promote(self, name: str, version: int, why: str = "") -> int | None:
        """Make a version the champion, and remember the one before as ``previous``; again, it changes nothing more.

        Args:
            name: Of the model.
            version: That is to be champion.
            why: Kept as the version's tag ``framewatch.promoted_because``.

        Returns:
            The champion before; None where there was none, or it was this one.

        Raises:
            UnknownModelError: There is no such version.
            RegistryUnavailableError: The registry does not answer, or fails.
        """
        self.find(ModelAddress(name, version=version), with_metrics=False)
        before = self._version_of(name, CHAMPION)
        client = self._client()
        with mapped_errors(self._place):
            client.set_model_version_tag(name, str(version), WHY_TAG, why)
            client.delete_model_version_tag(name, str(version), ROLLED_BACK_TAG)
            if before == version:
                return None
            # In this order: cut off in between, the champion is still the one before.
            if before is not None:
                client.set_registered_model_alias(name, PREVIOUS, str(before))
            client.set_registered_model_alias(name, CHAMPION, str(version))
        return before

    def rollback(self, name: str) -> int:
        """Make the version before the champion again; a second time it is refused, for nothing is remembered then.

        Returns:
            The champion from now on.

        Raises:
            UnknownModelError: There is no such model.
            ConfigError: No version is remembered.
            RegistryUnavailableError: The registry does not answer, or fails.
        """
        champion, previous = self._version_of(name, CHAMPION), self._version_of(name, PREVIOUS)
        client = self._client()
        with mapped_errors(self._place):
            if champion is not None and previous is not None and champion != previous:
                client.set_model_version_tag(name, str(champion), ROLLED_BACK_TAG, str(previous))
                client.set_registered_model_alias(name, CHAMPION, str(previous))
            if previous is not None:
                client.delete_registered_model_alias(name, PREVIOUS)
        if previous is None or champion == previous:
            raise ConfigError(
                f"model {name}: the champion is version {champion}, and none is remembered from before it; name one "
                "with trainer promote --version"
            )
        return previous

    def _client(self, *, create: bool = False) -> "MlflowClient":
        if self._place.database is not None:
            # Asked each time: the client would make an empty one where a disk is gone for a while.
            _require_database(self._place.database, create=create)
        if self._opened is None:
            self._opened = open_client(self._place)
        return self._opened

    def _version_of(self, name: str, alias: str) -> int | None:
        try:
            return self.find(ModelAddress(name, alias), with_metrics=False).version
        except UnknownModelError:
            with mapped_errors(self._place):
                self._client().get_registered_model(name)
            return None

    def _model(self, client: "MlflowClient", found: "ModelVersion", *, with_metrics: bool) -> RegisteredModel:
        metrics: dict[str, float] = {}
        if with_metrics and found.run_id:
            try:
                with mapped_errors(self._place):
                    metrics = dict(client.get_run(found.run_id).data.metrics)
            except UnknownModelError:
                metrics = {}
        return RegisteredModel(
            found.name, int(found.version), found.tags[DIGEST_TAG], tuple(sorted(found.aliases)), dict(found.tags),
            metrics,
        )  # fmt: skip


def _require_database(database: Path, *, create: bool) -> None:
    try:
        with database.open("rb") as file:
            header = file.read(len(_SQLITE_HEADER))
    except FileNotFoundError as error:
        if create:
            return
        raise RegistryUnavailableError(
            f"registry {database}: there is no such file; register a bundle first"
        ) from error
    except OSError as error:
        raise RegistryUnavailableError(f"registry {database} cannot be read: {error.strerror}") from error
    if header not in (b"", _SQLITE_HEADER):
        raise ConfigError(f"registry {database} is no SQLite file; name the registry's folder")


def _all_pages(search: Any, **wanted: str) -> Iterator[Any]:  # noqa: ANN401 - of two kinds, with pages alike
    page = search(**wanted)
    yield from page
    while page.token:
        page = search(**wanted, page_token=page.token)
        yield from page
