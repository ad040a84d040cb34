"""A local web page that shows predictions of checkpoints on an image, and the filters they learned: `tools/demo.py` starts it.

| module | contents |
|---|---|
| `server` | `serve`, which the tool calls; the routes |
| `uploads` | reading of uploaded images |
| `checkpoints` | which checkpoints the page offers, and a bounded number of them loaded |
| `responses` | predictions, learned filters and sample scenes as data for JSON |
| `page.html` | the whole page; it loads nothing from other hosts |
"""
