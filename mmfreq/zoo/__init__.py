"""The model zoo: one row for each config, with its published numbers, its recipe, and what was measured here.

| module | |
|---|---|
| `rows` | rows, read from and written to `configs/<task>/<family>/metafile.yml` |
| `recipes` | the recipe of a config, compared with the recorded one (`tools/reproduce.py --audit`) |
| `page` | parameters and FLOPs, `model_zoo.md` and `model-index.yml` (`tools/build_zoo.py`) |
| `checkpoints` | which checkpoint file belongs to which row |
| `data_roots` | where the test data of a row are |
| `evaluation` | one evaluation in a process of its own |
| `results` | the file of results, names of metrics, verdicts |
| `reproduction` | evaluates checkpoints of rows and compares with the published numbers (`tools/reproduce.py`) |
"""

from mmfreq.zoo.rows import Row, load_rows

__all__ = ['Row', 'load_rows']
