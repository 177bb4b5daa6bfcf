"""Fixtures that more than one package's tests use."""

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from contract.source import open_source
from deploy.broker import LocalBroker

# Of MLflow 3.17 on SQLAlchemy 2.1: a way of loading that will go. Of kafka-python 3.0: it reads its schemas through
# functions that Python 3.11 and 3.12 call deprecated, and leaves to the garbage collector a socket whose connection was
# refused, and the socket pair of a client that could not start.
_NOT_OURS = (
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
    "ignore:(read_text|open_text) is deprecated:DeprecationWarning",
    r"ignore:unclosed <socket[.]socket fd=\d+, family=1, :ResourceWarning",
    r"ignore:unclosed <socket[.]socket .*laddr=\('0[.]0[.]0[.]0', \d+\)>:ResourceWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in _NOT_OURS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """Undo what a command that ran in this process set up: levels that would hide another test's log lines."""
    loggers = [logging.getLogger(name) for name in ("", "kafka", "worker", "contract")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A running Kafka without topics; tests create their own, under names of their own, and leave it running."""
    with LocalBroker(log_path=tmp_path_factory.mktemp("broker") / "server.log") as started:
        yield started


@pytest.fixture(scope="session")
def new_registry(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes a new, empty model registry in a folder; MLflow's tables, which take seconds, are made once and copied."""
    from contract.registry import Registry

    folder = tmp_path_factory.mktemp("registry")
    Registry(str(folder))._client(create=True).search_registered_models()
    tables = (folder / "mlflow.db").read_bytes()

    def make(place: Path) -> Path:
        place.mkdir()
        (place / "mlflow.db").write_bytes(tables)
        return place

    return make


class TinyBundle(NamedTuple):
    """A really trained, really exported model of a made scene.

    Attributes:
        run: Run folder.
        bundle: Bundle.
        footage: Folder of 60 PNG frames, of which 40 to 49 hold something that was never there.
    """

    run: Path
    bundle: Path
    footage: Path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """A small model, trained and exported once for the session; do not change its files."""
    from exporter.build import build_bundle
    from tests.footage import tiny_settings, write_scene
    from trainer.fit import fit

    folder = tmp_path_factory.mktemp("tiny")
    scene = write_scene(folder / "normal", 120)
    fit(open_source(str(scene)), str(scene), tiny_settings(epochs=20), folder / "run", Console(quiet=True))
    build_bundle(folder / "run", folder / "bundle", name="tiny")
    footage = write_scene(folder / "footage", 60, anomalous=range(40, 50), seed=1)
    return TinyBundle(folder / "run", folder / "bundle", footage)


@pytest.fixture(scope="session")
def room_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle fitted for a few seconds to the empty stretches of the room clip; do not change its files."""
    from exporter.build import build_bundle
    from tests.footage import tiny_settings
    from trainer.disturb import PSEUDO_ANOMALIES
    from trainer.fit import fit

    folder = tmp_path_factory.mktemp("room")
    room = Path(__file__).resolve().parents[1] / "deploy" / "footage" / "room.mp4"
    source = f"{room}#0:60,203:227,452:501"
    model = {
        "height": 64, "width": 96, "widths": [16, 32, 64], "latent": 16,
        "bottleneck": "spatial", "motion": "flow-dis-fast-2", "comparator": [16, 32, 32],
    }  # fmt: skip
    settings = tiny_settings(epochs=6, pseudo_anomalies=PSEUDO_ANOMALIES, augment=True, model=model)
    fit(open_source(source), source, settings, folder / "run", Console(quiet=True))
    build_bundle(folder / "run", folder / "bundle", name="room")
    return folder / "bundle"


def pytest_sessionfinish() -> None:
    # The lines above hold until here; what is collected later would be an error of the session's end.
    gc.collect()
