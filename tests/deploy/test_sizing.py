import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.sizing import Costs, plan, simulate
from worker.settings import BatchSettings

COSTS = Costs(kafka=0.3, prepare=2.0, model=2.5, other=0.2, broker=0.0, frame_bytes=30_000)


def told(**changes):
    one = {
        "frames_per_second": 400.0, "worker_cpu_ms": 5.0, "broker_cores": 0.02,
        "stage_cpu_ms": {"kafka": 0.3, "decode": 0.4, "motion": 1.6, "model": 2.5},
    }  # fmt: skip
    return {"frame_bytes": 30_000, "presets": {"balanced": {**one, **changes}}}


def test_one_core_is_busy_all_the_time():
    assert simulate(COSTS, 1).frames_per_second == pytest.approx(1000 / COSTS.worker, rel=0.03)


def test_a_worker_on_more_cores_does_more_until_one_of_its_threads_is_behind():
    rates = [simulate(COSTS, cores).frames_per_second for cores in (1, 2, 4)]
    assert 1.8 < rates[1] / rates[0] <= 2.01
    assert 3 < rates[2] / rates[0] <= 4.01
    # Fetching is one thread's.
    slow_fetch = Costs(kafka=5.0, prepare=0.1, model=0.1, other=0.0, broker=0.0, frame_bytes=1.0)
    assert simulate(slow_fetch, 16).frames_per_second == pytest.approx(200, rel=0.03)
    assert simulate(slow_fetch, 16, workers=2).frames_per_second == pytest.approx(400, rel=0.03)


def test_python_s_own_work_is_one_thread_s_at_a_time():
    python = Costs(kafka=1.0, prepare=0.5, model=0.5, other=1.0, broker=0.0, frame_bytes=1.0)
    assert simulate(python, 32).frames_per_second == pytest.approx(500, rel=0.05)
    assert simulate(python, 32, workers=4).frames_per_second == pytest.approx(2000, rel=0.05)


def test_what_comes_is_done_if_there_is_time_and_waits_for_the_deadline():
    calm = simulate(COSTS, 2, rate=50)
    assert calm.frames_per_second == pytest.approx(50, rel=0.05)
    batch = BatchSettings(deadline_ms=1)
    alone = simulate(COSTS, 2, rate=50, batch=batch)
    assert np.median(alone.delays_ms) == pytest.approx(COSTS.worker + 3.5, abs=0.6)
    assert np.median(calm.delays_ms) > np.median(alone.delays_ms) + 15
    assert max(calm.delays_ms) < BatchSettings().deadline_ms + 40


def test_costs_are_read_from_what_the_benchmark_printed():
    costs = Costs.of_bench(told(), "balanced")
    assert costs.prepare == pytest.approx(2.0)
    assert costs.other == pytest.approx(0.2)
    assert costs.broker == pytest.approx(0.05)
    assert costs.worker == pytest.approx(5.0)


def test_ten_times_the_cameras_need_ten_times_the_workers():
    few, many = (plan(cameras, 5, COSTS, 2) for cameras in (1000, 10_000))
    assert few.frames_per_second == 5000
    assert 0.66 < 5000 / few.workers / simulate(COSTS, 2).frames_per_second <= 0.7
    assert many.workers == pytest.approx(10 * few.workers, abs=10)
    assert many.partitions >= many.workers
    assert few.megabytes_per_second == pytest.approx(150)
    assert few.terabytes_per_day == pytest.approx(12.96)
    assert few.p99_ms < 200


def test_the_command_prints_a_row_for_each_number_of_cameras(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(told()))
    done = run("--costs", str(tmp_path / "bench.json"), "--cores", "4")
    assert done.returncode == 0, done.stderr
    assert next(line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| 1")) == "10"
    assert "| 10,000 | 50,000 |" in done.stdout


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), ("{", "cannot be read"), ("{}", "holds no 'presets'")]
)
def test_a_mistake_is_one_line_and_exit_2(tmp_path, content, said):
    path = tmp_path / "bench.json"
    if content is not None:
        path.write_text(content)
    done = run("--costs", str(path))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def run(*arguments):
    command = [sys.executable, "-m", "deploy.sizing", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
