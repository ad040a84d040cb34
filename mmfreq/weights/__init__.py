"""Published weights: what exists, downloading, loading and converting.

| module | |
|---|---|
| `files` | the published files as data: name, URL, arch, task, metrics, license |
| `download` | the transfer from a URL: resumed, complete, and nothing else in its place |
| `store` | **which local file a source is**: paths, names of published files, URLs, repositories of the Hub |
| `hub` | files of the Hugging Face Hub |
| `loaders` | the same sources in mmengine's own loader |
| `in_configs` | the sources that a config names |
| `rules` | the rename rules of the published layouts, as data |
| `fit` | from a checkpoint to a model's state dict, in steps; **why a checkpoint was refused** |
| `load` | `mmfreq.load_weights`, its report, `pretrained=`, and the check in runs |
| `convert` | published layouts to the mmfreq layout and back |

The mmfreq layout has the authors' parameter names, below `backbone.` in a segmentor or detector, in a file with the entries
`meta` and `state_dict`. The published layouts are those of released files: the authors' entries and names, mmpretrain's names,
CVNets' names.

Why was my checkpoint refused? The docstring of `fit` lists the steps in order. The step that fails raises a CheckpointError; the
last one lists every name that does not fit. docs/weights.md explains the messages.
"""
