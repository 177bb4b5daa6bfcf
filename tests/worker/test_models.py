"""A bundle's address stands for what the registry says now, or said last, and for nothing else."""

import logging
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.errors import BundleError, ConfigError, RegistryUnavailableError, UnknownModelError
from contract.manifest import open_bundle
from contract.registry import Registry
from tests.bundles import write_bundle
from tests.worker.test_engine import detector
from worker.cameras import Resolver
from worker.models import Models, open_models
from worker.reload import Reloader
from worker.settings import WorkerSettings


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def filled(new_registry, tmp_path_factory):
    """A registry whose `room` has two versions, `hall` one; the champions are the first ones."""
    folder = tmp_path_factory.mktemp("filled")
    registry = Registry(str(new_registry(folder / "registry")))
    for number in (1, 2):
        registry.register("room", write_bundle(folder / f"room-{number}", f"room-{number}"))
    registry.register("hall", write_bundle(folder / "hall", "hall-1"))
    for name in ("room", "hall"):
        registry.promote(name, 1)
    return folder / "registry"


@pytest.fixture
def made(filled, tmp_path):
    """The registry, what asks it, and its folder, which a test may take away."""
    registry = Registry(str(filled))
    registry.set_alias("room", "champion", 1)
    clock = Clock()
    place = tmp_path / "linked"
    place.symlink_to(filled)
    return SimpleNamespace(
        registry=registry, clock=clock, place=place, cache=tmp_path / "cache",
        models=lambda: Models(str(place), tmp_path / "cache", clock=clock),
    )  # fmt: skip


def version_in(folder):
    return open_bundle(folder).manifest.version


CHAMPION = WorkerSettings(bundle="models:/room@champion").bundle


def test_a_folder_is_itself_and_asks_nobody(tmp_path):
    models = Models(str(tmp_path / "no registry"), tmp_path)
    assert models.folder(tmp_path / "bundle") == tmp_path / "bundle"
    assert models.version(tmp_path / "bundle") is None
    assert models.in_use() == models.look() == ()


def test_versions_are_deleted_that_nobody_used_for_a_month(made):
    models = made.models()
    first = models.folder(CHAMPION)
    night = models.folder(Path("models:/room/2"))
    made.registry.set_alias("room", "champion", 2)
    a_month_ago = time.time() - 31 * 86400
    os.utime(first, (a_month_ago, a_month_ago))
    os.utime(night, (a_month_ago, a_month_ago))
    stays = first.with_name("9-of-yesterday")
    stays.mkdir()

    assert models.folder(CHAMPION) == night
    assert not first.exists()
    assert stays.exists()

    # What a start without the registry would take stays, as long as it may have been there.
    os.utime(night, (a_month_ago, a_month_ago))
    models.folder(Path("models:/room/1"))
    assert night.exists()


def test_an_address_is_what_the_registry_says_at_each_look(made):
    models = made.models()
    assert version_in(models.folder(CHAMPION)) == "room-1"
    assert models.look() == models.in_use() == (("models:/room@champion", 1, 0, 0),)
    made.registry.promote("room", 2)
    assert models.look() == (("models:/room@champion", 2, 0, 0),)
    assert models.version(CHAMPION) == 1
    assert version_in(models.folder(CHAMPION)) == "room-2"
    assert models.version(CHAMPION) == 2


def test_while_the_registry_is_silent_all_stays_and_it_is_said_once(made, caplog):
    models = made.models()
    folder = models.folder(CHAMPION)
    made.place.unlink()
    with caplog.at_level(logging.WARNING, "worker.models"):
        for _ in range(3):
            assert models.look() == models.in_use()
        assert models.folder(CHAMPION) == folder
        assert sum("does not answer" in line for line in caplog.messages) == 1
        made.place.symlink_to(made.registry._place.database.parent)
        made.clock.now += 20
        assert models.look() == models.in_use()
    assert "the model registry answers again" in caplog.messages


def test_a_worker_that_starts_while_it_is_silent_takes_its_last_answer(made, caplog):
    made.registry.promote("room", 2)
    made.models().folder(CHAMPION)
    made.place.unlink()
    models = made.models()
    with caplog.at_level(logging.WARNING, "worker.models"):
        assert version_in(models.folder(CHAMPION)) == "room-2"
    assert any("as the registry last said: version 2" in line for line in caplog.messages)
    assert models.version(CHAMPION) == 2


def test_that_it_had_no_such_model_is_known_too_while_it_is_silent(made):
    yard = WorkerSettings(bundle="models:/yard@champion").bundle
    with pytest.raises(UnknownModelError):
        made.models().folder(yard)
    made.place.unlink()
    with pytest.raises(UnknownModelError, match="as it last said"):
        made.models().folder(yard)


def test_a_silence_holds_for_every_address_for_a_while(made, monkeypatch):
    models = made.models()
    hall = WorkerSettings(bundle="models:/hall@champion").bundle
    for named in (CHAMPION, hall):
        models.folder(named)
    asked = []

    def find(address, *, with_metrics):
        asked.append(str(address))
        raise RegistryUnavailableError("no answer")

    monkeypatch.setattr(models._registry, "find", find)
    for _ in range(3):
        models.look()
    assert len(asked) == 1
    made.clock.now += 20
    models.look()
    assert len(asked) == 2


@pytest.mark.parametrize("spoilt", ["nothing asked", "bundle", "answer", "other registry"])
def test_without_a_last_answer_that_can_be_trusted_it_does_not_start(made, tmp_path, spoilt):
    if spoilt != "nothing asked":
        folder = made.models().folder(CHAMPION)
    if spoilt == "bundle":
        (folder / "detector.onnx").write_bytes(b"other")
    if spoilt == "answer":
        (made.cache / "room" / "@champion.json").write_text('{"version": []}')
    made.place.unlink()
    models = Models(str(tmp_path / "elsewhere"), made.cache) if spoilt == "other registry" else made.models()
    with pytest.raises(RegistryUnavailableError):
        models.folder(CHAMPION)


def test_what_the_registry_does_not_know_is_no_silence(made):
    made.models().folder(CHAMPION)
    with pytest.raises(UnknownModelError):
        made.models().folder(WorkerSettings(bundle="models:/yard@champion").bundle)


def test_an_alias_that_is_taken_away_leaves_what_it_named(made, caplog):
    models = made.models()
    models.folder(CHAMPION)
    client = made.registry._client()
    client.delete_registered_model_alias("room", "champion")
    with caplog.at_level(logging.WARNING, "worker.models"):
        for _ in range(3):
            assert models.look() == models.in_use() == (("models:/room@champion", 1, 0, 0),)
    assert sum("does not know" in line for line in caplog.messages) == 1


def test_whatever_a_look_meets_what_is_in_use_stays(made, monkeypatch):
    models = made.models()
    models.folder(CHAMPION)

    def find(self, address, **_more):
        raise ConfigError("you may not")

    monkeypatch.setattr(Registry, "find", find)
    assert models.look() == models.in_use() == (("models:/room@champion", 1, 0, 0),)


def test_a_refused_version_is_not_downloaded_at_every_look(made, monkeypatch):
    models = made.models()
    models.folder(CHAMPION)
    made.registry.promote("room", 2)
    downloads = []

    def fetch(self, found, cache, key=None):
        downloads.append(found.version)
        raise BundleError("no good")

    monkeypatch.setattr(Registry, "fetch", fetch)
    for made.clock.now in (100, 101, 159, 161):
        with pytest.raises(BundleError, match="no good"):
            models.folder(CHAMPION)
    assert downloads == [2, 2]


def opened(bundle):
    return SimpleNamespace(**{**vars(detector()), "bundle": bundle})


def test_each_known_camera_has_the_model_of_its_name_where_there_is_one(made, tmp_path):
    (tmp_path / "cameras.yaml").write_text(
        "hall: {threshold: 3}\nyard: {threshold: 4}\nroom: {bundle: models:/room/2}\n"
    )
    settings = WorkerSettings(
        bundle="models:/room@champion", camera_bundle="models:/{camera}@champion", threshold=5,
        cameras=tmp_path / "cameras.yaml",
    )  # fmt: skip
    models = made.models()
    cameras = Resolver(opened, models).resolve(settings)
    profiles = {name: cameras.profile(name, 0) for name in ("hall", "yard", "room", "other")}
    assert {name: (one.terms.bundle.version, one.threshold) for name, one in profiles.items()} == {
        "hall": ("hall-1", 3), "yard": ("room-1", 4), "room": ("room-2", 6.0), "other": ("room-1", 5),
    }  # fmt: skip
    assert dict(one[:2] for one in models.in_use()) == {
        "models:/hall@champion": 1, "models:/room@champion": 1, "models:/room/2": 2, "models:/yard@champion": 0,
    }  # fmt: skip
    # It is taken once it is there.
    made.registry.register("yard", write_bundle(tmp_path / "yard", "yard-1"), aliases=("champion",))
    assert models.look() != models.in_use()
    assert Resolver(opened, models).resolve(settings).profile("yard", 0).terms.bundle.version == "yard-1"


@pytest.mark.parametrize(
    "settings",
    [
        {"bundle": "models:/room"}, {"bundle": "b", "camera_bundle": "models:/room@champion"},
        {"bundle": "b", "camera_bundle": "/models/{camera}"},
    ],
)  # fmt: skip
def test_settings_name_models_well(settings):
    with pytest.raises(ValueError, match=r"models:/|\{camera\}"):
        WorkerSettings(**settings)


def test_a_worker_notices_an_alias_that_moved_while_it_opened_its_bundles(made):
    settings = WorkerSettings(bundle="models:/room@champion")
    models = made.models()
    resolver = Resolver(opened, models)
    cameras = resolver.resolve(settings)
    made.registry.promote("room", 2)
    reloader = Reloader(settings, cameras, lambda: settings, resolver.resolve, models=models)
    for _ in range(2):
        reloader.look()
    assert reloader.take().detector.bundle.manifest.version == "room-2"
    for _ in range(3):
        reloader.look()
    assert reloader.take() is None


def test_a_version_that_is_refused_leaves_the_one_before_until_the_alias_moves_on(made, monkeypatch):
    settings = WorkerSettings(bundle="models:/room@champion")
    taken = []
    models = made.models()

    def open_detector(bundle):
        if bundle.manifest.version == "room-2":
            raise BundleError("scores that are not finite")
        return opened(bundle)

    resolver = Resolver(open_detector, models)
    reloader = Reloader(
        settings, resolver.resolve(settings), lambda: settings, resolver.resolve, on_reload=taken.append, models=models
    )
    made.registry.promote("room", 2)
    for _ in range(4):
        reloader.look()
    assert taken == [None]
    assert reloader.take() is None
    made.registry.rollback("room")
    for _ in range(3):
        reloader.look()
    assert reloader.take().detector.bundle.manifest.version == "room-1"


def test_a_cache_that_lost_everything_is_filled_again(made):
    models = made.models()
    models.folder(CHAMPION)
    shutil.rmtree(made.cache)
    assert version_in(models.folder(CHAMPION)) == "room-1"
    with pytest.raises(ConfigError, match="no models:/NAME@ALIAS"):
        models.folder(type(CHAMPION)("models:/room"))


def test_a_user_without_a_home_needs_one_for_the_registry_alone(tmp_path, monkeypatch):
    def expanduser(path):
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(type(tmp_path), "expanduser", expanduser)
    models = open_models(WorkerSettings(bundle=tmp_path))
    assert models.folder(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match="registry_cache ~"):
        models.folder(CHAMPION)
    with pytest.raises(ConfigError, match="registry ~"):
        Models(None, tmp_path).folder(CHAMPION)


def test_a_challenger_that_was_promoted_is_the_champion_and_no_frame_is_scored_twice(made):
    made.registry.set_alias("room", "challenger", 2)
    settings = WorkerSettings(bundle="models:/room@champion", challenger="models:/room@challenger")
    resolver = Resolver(opened, made.models())
    assert resolver.resolve(settings).profile("door", 0).challenger is not None
    made.registry.promote("room", 2)
    profile = resolver.resolve(settings).profile("door", 0)
    assert profile.terms.bundle.version == "room-2"
    assert profile.challenger is None


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_challenger_that_cannot_be_used_keeps_no_champion_away(made, caplog, is_gone):
    made.registry.set_alias("room", "challenger", 2)
    settings = WorkerSettings(bundle="models:/hall@champion", challenger="models:/room@challenger")
    refused = []

    def open_detector(bundle):
        if bundle.reference.digest in refused:
            raise BundleError("scores that are not finite")
        return opened(bundle)

    resolver = Resolver(open_detector, made.models())
    resolver.resolve(settings)
    other = made.registry.find("models:/room/1", with_metrics=False)
    if is_gone:
        made.registry._client().delete_registered_model_alias("room", "challenger")
    else:
        refused.append(other.digest)
        made.registry.set_alias("room", "challenger", 1)
    settings = settings.model_copy(update={"bundle": WorkerSettings(bundle="models:/room/2").bundle})
    profile = resolver.resolve(settings).profile("door", 0)
    assert profile.terms.bundle.version == "room-2"
    assert "challenger models:/room@challenger cannot be used" in caplog.text
