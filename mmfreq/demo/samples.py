"""Scenes to try without a picture of one's own, in the style of the toy data that the quickstart trains on."""

import cv2
import numpy as np

from mmfreq.datasets.toy_scene import draw_scene

SIZE = (160, 240)  # (H, W); shapes about as large as those of the toy sets, in pixels
SEEDS = (5, 13, 8, 3)


def sample_scenes() -> list[bytes]:
    """PNG files, the same at every call."""
    scenes = (draw_scene(np.random.default_rng([seed, 4]), SIZE).image for seed in SEEDS)
    return [cv2.imencode('.png', np.ascontiguousarray(scene[..., ::-1]))[1].tobytes() for scene in scenes]
