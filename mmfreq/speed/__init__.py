"""Faster or smaller execution, always requested explicitly; outputs stay the same.

| module | contents |
|---|---|
| `optimizing` | `mmfreq.optimize`: a copy for inference with folded weights |
| `folded`, `folded_blocks`, `folded_affnet` | the modules that replace blocks in it |
| `fixed_size` | a copy whose filters are stored for one image size, also for export |
| `compiling` | `mmfreq.compile_blocks`: `torch.compile` for each block |
| `memory_efficient` | `memory_efficient=True`: recompute cheap functions in backward |
"""
