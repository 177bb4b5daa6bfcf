"""Where a fit runs: the device, its arithmetic, and the processes that share it."""

import os
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from lightning_fabric import Fabric

from contract.errors import ConfigError, FramewatchError
from trainer.settings import FitSettings

_T = TypeVar("_T")


def start_fabric(settings: FitSettings) -> Fabric:
    """Choose the device and precision and join the other processes, if ``torchrun`` started any.

    Raises:
        ConfigError: CUDA was asked for and cannot be used.
    """
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise ConfigError(
            "device: cuda was asked for and no CUDA device can be used; see nvidia-smi, or say --device cpu"
        )
    accelerator = "cuda" if cuda and settings.device != "cpu" else "cpu"
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and _bf16_is_faster(accelerator))
    on_this_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // on_this_node
    fabric = Fabric(
        accelerator=accelerator,
        devices=on_this_node,
        num_nodes=nodes,
        precision="bf16-mixed" if bf16 else "32-true",
    )
    fabric.launch()
    return fabric


def _bf16_is_faster(accelerator: str) -> bool:
    """Whether the device multiplies bf16 by itself; emulated, it is slower than fp32."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def on_first(fabric: Fabric, act: Callable[[], _T]) -> _T:
    """Do something on the first process alone and give its result to every process.

    Raises:
        FramewatchError: What the first process raised, on every process.
    """
    outcome: tuple[_T | None, FramewatchError | None] = (None, None)
    if fabric.is_global_zero:
        try:
            outcome = act(), None
        except FramewatchError as error:
            outcome = None, error
    result, failed = fabric.broadcast(outcome)
    if failed is not None:
        raise failed
    return cast("_T", result)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or this machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
