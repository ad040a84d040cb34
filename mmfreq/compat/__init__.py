"""What lets mmfreq run on PyTorch versions newer than OpenMMLab's last wheels.

| module | what it does |
|---|---|
| `finder`, `mmcv_ops` | supply `mmcv._ext` on torchvision's kernels where no compiled one is installed |
| `safe_load` | read checkpoints, mmengine's included, with torch's safe unpickler |
| `stack` | collect what is installed and judge whether it fits together (`python -m mmfreq.doctor`) |
| `file_type` | describe what a file contains, for error messages |
| `onedl` | two fixes that onedl-mmengine needs |
| `mmdet_ssd` | a fix that mmdet's SSDHead needs |

Importing this package loads nothing, because `import mmfreq` imports it and must stay light.
"""
