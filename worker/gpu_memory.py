"""Memory of the GPUs that a worker sees, by NVIDIA's management library, from the extra ``cuda``.

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
                handles = [library.nvmlDeviceGetHandleByIndex(at) for at in range(library.nvmlDeviceGetCount())]
                return {library.nvmlDeviceGetUUID(one): library.nvmlDeviceGetMemoryInfo(one) for one in handles}
            except Exception:  # noqa: BLE001 - what it cannot say must not keep all else from being scraped
                return {}

    def _opened(self) -> Any:  # noqa: ANN401 - a library without types
        if self._library is None:
            library = importlib.import_module(_LIBRARY)
            library.nvmlInit()
            self._library = library
        return self._library
