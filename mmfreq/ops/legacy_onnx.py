"""PyTorch's legacy ONNX exporter, `torch.onnx.export(dynamo=False)`, which timm's and mmdeploy's scripts call.

It records a trace, without Fourier or complex operators. With `dynamic_axes` the file is for other sizes too, and the model does
not know it: in every such trace sizes are treated as open (`mmfreq.ops.open_size`).
"""

import torch


def is_legacy_export() -> bool:
    """Whether the legacy ONNX exporter is tracing."""
    return torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()


def refuse_legacy_export(option: str) -> None:
    """Raise a ValueError in the legacy exporter, for an option that needs Fourier transforms."""
    if is_legacy_export():
        raise ValueError(
            f'Expected a model without Fourier transforms, which torch.onnx.export(dynamo=False) cannot write, got {option}. '
            'Export with tools/export_onnx.py or mmfreq.export.export_onnx, which call torch.onnx.export(dynamo=True).'
        )
