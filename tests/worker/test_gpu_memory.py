"""A GPU's memory is reported where there is one, and never in the way of a scrape."""

import sys
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest

from worker.telemetry import Metrics


class Nvml:
    """Two devices; or none, where the driver is gone."""

    def __init__(self):
        self.fails = False
        self.silent = set()
        self.begun = 0

    def nvmlInit(self):  # noqa: N802
        self.begun += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        if self.fails:
            raise RuntimeError("Driver Not Loaded")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        if handle in self.silent:
            raise RuntimeError("Not Supported")
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=(handle + 1) * 2**30, total=80 * 2**30)


def scraped(metrics):
    return generate_latest(metrics.registry).decode()


@pytest.fixture
def nvml(monkeypatch):
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_each_gpu_has_its_memory(nvml):
    metrics = Metrics()
    metrics.gpu_memory.wanted = True
    text = scraped(metrics)
    assert 'framewatch_gpu_memory_used_bytes{gpu="GPU-0"} 1.073741824e+09' in text
    assert 'framewatch_gpu_memory_used_bytes{gpu="GPU-1"} 2.147483648e+09' in text
    assert 'framewatch_gpu_memory_total_bytes{gpu="GPU-1"} 8.589934592e+10' in text
    scraped(metrics)
    assert nvml.begun == 1


def test_a_driver_that_goes_takes_its_figures_along_and_no_others(nvml):
    metrics = Metrics()
    metrics.gpu_memory.wanted = True
    nvml.fails = True
    text = scraped(metrics)
    assert "framewatch_gpu_memory_used_bytes{" not in text
    assert "framewatch_build_info{" in text


def test_a_gpu_that_does_not_say_keeps_no_other_from_being_shown(nvml):
    metrics = Metrics()
    metrics.gpu_memory.wanted = True
    nvml.silent = {0}
    text = scraped(metrics)
    assert 'used_bytes{gpu="GPU-0"}' not in text
    assert 'used_bytes{gpu="GPU-1"}' in text


def test_a_worker_on_the_cpu_asks_nobody(nvml):
    assert "framewatch_gpu_memory_used_bytes{" not in scraped(Metrics())
    assert nvml.begun == 0


def test_without_the_library_nothing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    metrics = Metrics()
    metrics.gpu_memory.wanted = True
    assert "framewatch_gpu_memory_used_bytes{" not in scraped(metrics)
