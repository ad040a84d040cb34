"""What lets mmfreq run on stacks newer than OpenMMLab's last wheels.

`finder` supplies `mmcv._ext` on torchvision's kernels where no compiled one is installed, `safe_load` lets torch's safe
unpickler read mmengine's checkpoints, `facts` and `stack` look at what is installed and judge it (`python -m mmfreq.doctor`).
Importing this package loads nothing: `import mmfreq` passes through here and must stay light.
"""
