"""Configs made from other configs, as a leaf config that inherits from the base.

| module | contents |
|---|---|
| `mix` | another backbone in any segmentation or detection config (`tools/mix.py`) |
| `wiring` | necks and heads of a config, fitted to the feature maps of another backbone |
| `feature_maps` | channels and strides of the feature maps of backbones and necks |
| `few_gpus` | the same total batch, or a scaled learning rate, on fewer GPUs (`tools/few_gpus.py`) |
| `iteration_counts` | everything in a config that counts iterations, multiplied |
| `options` | `--cfg-options` that replace a backbone |
| `leaf` | the leaf config that turns a base into another config, and its differences |
| `meta_model` | models on the meta device |
| `reading` | configs, paths and types by name |
"""
