"""A program of `torch.export` with everything stored that does not depend on the images: for LiteRT and Core ML.

The bases of the transforms are computed in float64 from the image size. `torch.onnx.export` stores them as constants, but
`torch.export` does not, and converters for mobile runtimes reject their operators (`cos` in float64, `|` of booleans).
"""

import warnings

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram, default_decompositions
from torch.fx.experimental.const_fold import split_const_subgraphs

DECOMPOSED = ('aten.addcmul.default',)  # not known to coremltools 9.0


@torch.no_grad()
def folded_program(graph: nn.Module, images: Tensor) -> ExportedProgram:
    """Export `graph` for images of one size, with its constant parts computed once.

    Args:
        graph: a module in eval mode for this size, such as `Exported.model`.
        images: an input of the module.
    """
    table = {operator: rule for operator, rule in default_decompositions().items() if str(operator) in DECOMPOSED}
    program = torch.export.export(graph.eval(), (images,)).run_decompositions(table)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Attempted to insert a get_attr Node|Failed to fetch module')
        folded = split_const_subgraphs(program.module())
        folded.run_folding()
        for name, stored in folded.named_parameters():
            if 'FX_CONST_FOLDED' in name:  # ExecuTorch rejects weights of another memory layout
                stored.data = stored.data.contiguous()
        return torch.export.export(_Unpacked(folded, isinstance(graph(images), Tensor)), (images,))


class _Unpacked(nn.Module):
    """Returns a tensor as the exported module does, not a tuple of one tensor."""

    def __init__(self, folded: nn.Module, single: bool):
        super().__init__()
        self.folded, self.single = folded, single

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.folded(images)
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        return outputs[0] if self.single else outputs
