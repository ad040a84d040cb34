"""Configs made from others: with another backbone (`mix`), for other GPUs (`few_gpus`).

| module | |
|---|---|
| `mix`, `exchange`, `wiring` | one of our backbones in any segmentation or detection config |
| `feature_maps` | what backbones and necks give, found by running them |
| `few_gpus`, `total_batch`, `iteration_counts`, `batch_norms` | the same batch, or another learning rate |
| `base_config`, `config_difference` | what is inherited, and the leaf on top of it |
"""
