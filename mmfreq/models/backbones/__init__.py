"""Backbones, one file per family."""

from mmfreq.models.backbones.hornet import HorNet

__all__ = ['HorNet']
