"""Export of models to ONNX files for one image size or for any, without Fourier operators.

| module | contents |
|---|---|
| `onnx_file` | `export_onnx`: trace a module, check its operators, write the file with metadata |
| `open_size` | a model as it is traced for images of any size: every size in the graph is computed from the shape |
| `graphs` | the module to export for a task and an output: logits, labels, boxes, feature maps, raw outputs of a dense head |
| `detectors` | whole detectors of mmdetection with fixed shapes: from images to boxes and masks |
| `metadata` | `metadata_of`: preprocessing, classes, colors and thresholds, for programs that run the file |
| `gelu` | `reorder_gelus`: GELU in the form that runtimes fuse |
| `program` | `folded_program`: a program of `torch.export` with stored bases, for LiteRT and Core ML |
| `verify`, `verify_boxes` | compare a file in onnxruntime with the model, or a detector's boxes with mmdetection's one to one |

Where FFT is kept out of ONNX: `at_fixed_size` (mmfreq/speed/fixed_size.py) resizes the filters and sets `spectral='matmul'` on
every spectral layer of a copy of the model; `for_open_size` (open_size.py) sets the backend only. With that backend
mmfreq/ops/spectral.py computes the transforms as products with real matrices, constant or made from the shape. `export_onnx`
(onnx_file.py) raises an error if the graph still has a DFT, STFT or complex operator.
"""

from mmfreq.export.onnx_file import Exported, export_onnx
from mmfreq.export.verify import Difference, verify
from mmfreq.speed.fixed_size import at_fixed_size

__all__ = ['Difference', 'Exported', 'at_fixed_size', 'export_onnx', 'verify']
