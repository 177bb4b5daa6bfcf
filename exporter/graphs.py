"""From PyTorch modules to checked, simplified ONNX graphs in the precision asked for."""

import copy
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import onnx
import onnxslim
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import nn

from contract.errors import FramewatchError
from trainer.detector import Detector

OPSET: Final = 20
# The graph's other products, of matrices, average errors over places.
_INT8_OPERATORS: Final = ("Conv", "Gemm")

Feed = dict[str, npt.NDArray[Any]]


def export_graph(
    module: nn.Module, example: torch.Tensor, input_name: str, output_names: Sequence[str]
) -> onnx.ModelProto:
    """Export one module with a dynamic batch, simplify and check it.

    Args:
        module: In evaluation mode, on CPU.
        example: Input of batch 2 or more.
        input_name: Name of the input.
        output_names: Names of the outputs, in order.

    Raises:
        FramewatchError: PyTorch cannot export it, or onnx finds a fault in the graph.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (example,),
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        assert program is not None  # noqa: S101 - only without dynamo
        model: onnx.ModelProto = onnxslim.slim(program.model_proto)
        check(model)
    except Exception as error:
        raise FramewatchError(f"export of {input_name} -> {output_names[0]} failed: {str(error)[:300]}") from error
    return model


def check(model: onnx.ModelProto) -> None:
    """Check a graph with onnx, shapes included, and that no weight lies outside of it.

    Raises:
        ValueError: A weight is kept in another file.
        onnx.checker.ValidationError: The graph is not valid.
    """
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ValueError("a weight is kept outside of the graph")
    onnx.checker.check_model(model, full_check=True)


class _Half(nn.Module):
    """A part that computes in fp16 between fp32 input and output."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.half()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.part(values.half())
        return output.float()


def halved(detector: Detector) -> Detector:
    """Copy a detector so that its networks compute in fp16; scaling, errors and calibration stay in fp32."""
    copied = copy.deepcopy(detector)
    copied.autoencoder.encoder = _Half(copied.autoencoder.encoder)  # type: ignore[assignment]
    copied.autoencoder.decoder = _Half(copied.autoencoder.decoder)  # type: ignore[assignment]
    if copied.comparator is not None:
        copied.comparator = _Half(copied.comparator)  # type: ignore[assignment]
    return copied


def quantized(model: onnx.ModelProto, feeds: Sequence[Feed], in_fp32: Collection[int] = ()) -> onnx.ModelProto:
    """Convert an fp32 graph's convolutions and fully connected layers to static int8, weights to 7 of its bits.

    So one bundle gives the same scores on every processor; see ONNX Runtime's documentation of quantization,
    "When and why do I need to try U8U8 or reduce_range".

    Args:
        model: An fp32 graph.
        feeds: Inputs whose activations set the ranges.
        in_fp32: Places, among the layers that could be converted, of those that are left as they are.

    Raises:
        FramewatchError: ONNX Runtime cannot quantize it, or onnx finds a fault in what it made.
    """
    try:
        converted = _quantize(model, feeds, in_fp32)
        check(converted)
    except Exception as error:
        raise FramewatchError(f"quantization failed: {str(error)[:300]}") from error
    return converted


def _quantize(model: onnx.ModelProto, feeds: Sequence[Feed], in_fp32: Collection[int]) -> onnx.ModelProto:
    layers = [node.name for node in model.graph.node if node.op_type in _INT8_OPERATORS]
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            _Feeds(feeds),
            op_types_to_quantize=list(_INT8_OPERATORS),
            nodes_to_exclude=[layers[place] for place in in_fp32],
            per_channel=True,
            # Processors without VNNI add pairs of 8-bit products in 16 bits, which full 8-bit weights overflow.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(after)


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._left: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)
