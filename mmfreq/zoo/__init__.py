"""The model zoo: one row for each config, with what is published of it, what its recipe is and what was measured here.

| module | |
|---|---|
| `rows` | rows, read from and written to `configs/<task>/<family>/metafile.yml` |
| `facts`, `pipelines` | the recipe that a config holds |
| `audit` | that against the recorded recipe |
| `measure` | parameters and FLOPs |
| `render` | `model_zoo.md` |
| `checkpoints`, `contents` | which checkpoint file belongs to which row |
| `data_roots` | where test data are |
| `reproduction`, `evaluation` | evaluates checkpoints, each in a process of its own |
| `results`, `verdicts`, `report` | what came out, against what is published |
| `measured_here` | results into the metafiles |
| `brief` | errors in one line |
"""

from mmfreq.zoo.rows import Row, load_rows

__all__ = ['Row', 'load_rows']
