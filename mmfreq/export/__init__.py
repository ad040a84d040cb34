"""Models as files for other runtimes."""

from mmfreq.export.fixed_size import at_fixed_size
from mmfreq.export.onnx_file import Exported, export_onnx
from mmfreq.export.verify import Difference, verify

__all__ = ['Difference', 'Exported', 'at_fixed_size', 'export_onnx', 'verify']
