import subprocess
import sys
import time

import pytest

from worker.watchdog import Watchdog

STUCK = """
import time
from worker.watchdog import Watchdog
with Watchdog() as watchdog, watchdog.limit("a step", 0.3):
    time.sleep(60)
"""


def test_a_process_that_is_stuck_ends_with_a_line_that_says_where():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30, check=False)
    assert time.monotonic() - began < 15
    assert done.returncode == 1
    assert done.stderr.strip() == "stuck, the process ends: a step took longer than 0.3 s; nothing is lost"


def test_only_what_is_late_ends_the_process():
    ended, now = [], 0.0
    watchdog = Watchdog(lambda: ended.append(now), lambda: now)
    with watchdog.limit("long", 10), watchdog.limit("short", 2):
        now = 1.9
        watchdog.look()
    now = 5.0
    watchdog.look()
    assert ended == []
    with watchdog.limit("long", 10):
        now = 15.1
        watchdog.look()
    assert ended == [15.1]


def test_a_block_that_fails_is_watched_no_more():
    ended, now = [], 0.0
    watchdog = Watchdog(lambda: ended.append(now), lambda: now)
    with pytest.raises(ValueError), watchdog.limit("fails", 1):  # noqa: PT011
        raise ValueError
    now = 5.0
    watchdog.look()
    assert ended == []
