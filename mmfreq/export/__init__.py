"""Models as files for other runtimes."""

from mmfreq.export.onnx_file import Exported, export_onnx
from mmfreq.export.verify import Difference, verify
from mmfreq.speed.fixed_size import at_fixed_size

__all__ = ['Difference', 'Exported', 'at_fixed_size', 'export_onnx', 'verify']
