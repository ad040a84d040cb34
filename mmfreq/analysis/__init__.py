"""Measures and figures of models, runs and predictions. Nothing is imported here, so that each module loads only what it needs.

| module | contents |
|---|---|
| `flops` | parameters and multiply-adds of a model, including Fourier transforms |
| `mmengine_flops` | the same for mmengine's FlopAnalyzer |
| `latency` | time of a forward pass, description of the hardware |
| `learned_filters`, `draw_layers` | what layers have learned and compute for an image: arrays, and figures of them |
| `receptive_field` | effective receptive fields, and a figure of them |
| `training_logs` | training curves of work directories, and a figure of them |
| `plot_style` | colors and helpers of all figures |
| `images` | image files as input of a model |
| `predictions` | predictions as files: masks, overlays, panels, boxes |
| `constant_predictor` | the best constant segmentation, a baseline for mIoU |
"""
