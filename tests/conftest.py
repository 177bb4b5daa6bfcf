"""Fixtures that more than one package's tests use."""

from collections.abc import Iterator

import pytest

from deploy.broker import LocalBroker

# Of kafka-python 3.0: it reads its schemas through functions that Python 3.11 and 3.12 call deprecated, and leaves a
# socket whose connection was refused to the garbage collector.
_NOT_OURS = (
    "ignore:(read_text|open_text) is deprecated:DeprecationWarning",
    r"ignore:unclosed <socket[.]socket .*laddr=\('0[.]0[.]0[.]0', \d+\)>:ResourceWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in _NOT_OURS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A running Kafka without topics; tests create their own, under names of their own, and leave it running."""
    with LocalBroker(log_path=tmp_path_factory.mktemp("broker") / "server.log") as started:
        yield started
