# UPerNet + HorNet of width 32 (7x7) on CamVid in small crops, from scratch: our own recipe for comparing token mixers.
_base_ = './hornet-dim32_upernet_1xb8-800_camvid-180x240.py'
model = dict(backbone=dict(arch=dict(global_filter=(False, False, False, False))))
