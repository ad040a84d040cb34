"""Whole detectors as modules without data-dependent Python code: from images to a fixed number of boxes.

| module | contents |
|---|---|
| `priors` | anchors and points of every level, from the shapes of the maps |
| `boxes` | decoders of box offsets, and the choice of boxes: top-k, NMS, padding |
| `dense` | one-stage detectors |
| `two_stage`, `roi`, `roi_pooling` | two-stage detectors: RPN and the whole, RoI heads, pooling from a pyramid |
| `parts` | which parts of a detector the graphs can replace; others are rejected by name |
| `reference` | mmdetection's own prediction, with which files are compared |

mmdetection's own `predict` filters with boolean masks, so its shapes depend on the values in the maps. Here low scores are masked
instead, and the same boxes remain.
"""
