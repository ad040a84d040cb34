"""Backbones, one file per family and kind."""

from mmfreq.models.backbones.affnet import AFFNet
from mmfreq.models.backbones.dfformer import DFFormer
from mmfreq.models.backbones.gfnet import GFNet
from mmfreq.models.backbones.gfnet_cnn import GFNetCNN
from mmfreq.models.backbones.gfnet_pyramid import GFNetPyramid
from mmfreq.models.backbones.hornet import HorNet

__all__ = ['AFFNet', 'DFFormer', 'GFNet', 'GFNetCNN', 'GFNetPyramid', 'HorNet']
