"""FLOPs of a model as the counters of its paper's authors saw it, of which each left out something else.

| | convolutions and matrix products, and |
|---|---|
| GFNet's and HorNet's classifiers | `cost.published_fft_cost` for each transform |
| AFFNet's classifiers | `cost.published_adaptive_filter_cost` in place of each mixer's matrix products |
| all else | nothing (mmcv's counter; the tables of DFFormer) |
"""

from torch import nn

from mmfreq.analysis.complexity_report import Complexity
from mmfreq.layers import AdaptiveFrequencyFilter
from mmfreq.ops import cost


def paper_macs(model: nn.Module, report: Complexity, family: str, classifier: bool) -> int:
    """Multiply-adds of a counted model of a family, in its authors' counting."""
    if not classifier or family == 'dfformer':
        return report.macs.conv_matmul
    return _affnets_profiler(model, report) if family == 'affnet' else report.published


def _affnets_profiler(model, report):
    total, side = report.macs.conv_matmul, report.inputs[0][2]
    for name, mixer in model.named_modules():
        if not isinstance(mixer, AdaptiveFrequencyFilter):
            continue
        blocks, width = mixer.w1.shape[1:3]
        _, _, level = name.partition('layer_')  # of stride 2^level
        grid = side // 2 ** int(level.partition('.')[0])
        total += cost.published_adaptive_filter_cost(blocks * width, blocks, grid, grid)
        total -= report.modules[name].macs.conv_matmul
    return total
