"""Backbones of four stages in ConvNeXt's names: `downsample_layers.i`, `stages.i.j`, and an output norm `norm{i}`."""

from torch import Tensor, nn

from mmfreq.models.backbones.base import FrequencyBackbone

STRIDES = (4, 8, 16, 32)


class StagedBackbone(FrequencyBackbone):
    """Base of HorNet, GFNetCNN and DFFormer: what follows from the names. The class makes the modules."""

    downsample_layers: nn.ModuleList
    stages: nn.ModuleList

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        outs = []
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x = downsample(x)
            for block in stage:
                x = self.run_block(block, x)
            outs.append(x)
        return outs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = self.forward_stages(x)
        return tuple(getattr(self, f'norm{i}')(outs[i]) for i in self.out_indices)

    def stage_sides(self, side: int) -> tuple[int, ...]:
        return tuple(side // stride for stride in STRIDES)

    def drop_stages(self, keep: int) -> None:
        del self.downsample_layers[keep:], self.stages[keep:]
        self.built_stages = min(self.built_stages, keep)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        parts = (rf'(downsample_layers|stages)\.{i}\.' for i in range(self.built_stages, self.num_stages))
        return tuple((part, 'a stage after the last one that this model returns') for part in parts)

    def frozen_parts(self) -> list[nn.Module]:
        frozen = range(min(self.frozen_stages + 1, self.built_stages))
        norms = [getattr(self, f'norm{i}') for i in self.out_indices if i in frozen]
        return [m for i in frozen for m in (self.downsample_layers[i], self.stages[i])] + norms

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part == 'downsample_layers':
            return (int(index[0]), 0) if int(index[0]) else (-1, 0)
        return (int(index[0]), int(index[1])) if part == 'stages' else None
