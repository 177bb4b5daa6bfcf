import pytest


@pytest.fixture
def make_console(tmp_path):
    """Makes consoles without Kafka from settings."""
    # Not before the warnings that kafka-python gives when it is imported are told to be ignored.
    from tests.worker.console.without_kafka import Console
    from worker.console.settings import ConsoleSettings

    made = []

    def make(**settings):
        made.append(Console(ConsoleSettings(database=tmp_path / f"console-{len(made)}.sqlite", **settings)))
        return made[-1]

    yield make
    for console in made:
        console.store.close()


@pytest.fixture
def console(make_console):
    return make_console()
