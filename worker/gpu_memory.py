"""Memory of the GPUs that NVIDIA's management library shows a worker, from the extra ``cuda``.

In a container those are the ones it is given, on a bare machine all there are, whatever ``CUDA_VISIBLE_DEVICES`` says.

Where there is no such device, driver or library, nothing is reported, and no scrape fails.
"""

import importlib
import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_LIBRARY = "pynvml"


class GpuMemory(Collector):
    """Asks at each scrape.

    Attributes:
        wanted: Whether anything is to be reported: not for a worker that runs on the CPU of a node with a GPU.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._library: Any = None
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give bytes used, by all processes, and there at all, of each device."""
        used = GaugeMetricFamily(
            "framewatch_gpu_memory_used_bytes", "Bytes of a GPU's memory in use, by all its processes", labels=["gpu"]
        )
        total = GaugeMetricFamily("framewatch_gpu_memory_total_bytes", "Bytes of a GPU's memory", labels=["gpu"])
        for name, memory in self._ask().items():
            used.add_metric([name], memory.used)
            total.add_metric([name], memory.total)
        yield used
        yield total

    def _ask(self) -> dict[str, Any]:
        if not self.wanted:
            return {}
        with self._lock:
            try:
                library = self._opened()
                count = library.nvmlDeviceGetCount()
            except Exception:  # noqa: BLE001 - what it cannot say must not keep all else from being scraped
                return {}
            return {name: memory for at in range(count) for name, memory in _memory_of(library, at)}

    def _opened(self) -> Any:  # noqa: ANN401 - a library without types
        if self._library is None:
            library = importlib.import_module(_LIBRARY)
            library.nvmlInit()
            self._library = library
        return self._library


def _memory_of(library: Any, index: int) -> list[tuple[str, Any]]:  # noqa: ANN401
    """Name and memory of one device; nothing where it does not say, as one that is divided may not."""
    try:
        device = library.nvmlDeviceGetHandleByIndex(index)
        return [(library.nvmlDeviceGetUUID(device), library.nvmlDeviceGetMemoryInfo(device))]
    except Exception:  # noqa: BLE001 - the other devices' are worth having
        return []
