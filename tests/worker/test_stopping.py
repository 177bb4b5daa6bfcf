"""Stopping on signals ends within its bound, whatever the broker does."""

import signal
import threading
import time

import pytest

from contract.errors import DeliveryError
from worker.stopping import StopSignals


def raise_soon(number, seconds):
    timer = threading.Timer(seconds, signal.pthread_kill, (threading.main_thread().ident, number))
    timer.daemon = True
    timer.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_for_a_stop_and_raises_nothing(number):
    stopped = threading.Event()
    before = signal.getsignal(number)
    with StopSignals(stopped.set, 30) as signals:
        assert signals.seconds_left(10) == 10
        signal.raise_signal(number)
        assert stopped.is_set()
        assert 29 < signals.seconds_left(60) <= 30
        assert signals.seconds_left(10) == 10
    assert signal.getsignal(number) == before


def test_what_waits_for_the_broker_is_interrupted_in_time_for_closing():
    began = time.monotonic()
    with StopSignals(lambda: None, 2) as signals:
        raise_soon(signal.SIGTERM, 0.1)
        with pytest.raises(DeliveryError, match="nothing unconfirmed is committed"):
            threading.Event().wait(60)
        assert 1 < time.monotonic() - began < 2
        assert 0.5 <= signals.seconds_left(60) <= 0.8


def test_a_second_signal_ends_it_at_once():
    began = time.monotonic()
    with StopSignals(lambda: None, 60):
        raise_soon(signal.SIGTERM, 0.1)
        raise_soon(signal.SIGTERM, 0.3)
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(60)
    assert time.monotonic() - began < 5


def test_a_stop_in_time_is_not_interrupted_afterwards():
    with StopSignals(lambda: None, 0.5):
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.6)
