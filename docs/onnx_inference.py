"""Runs a file of tools/export_onnx.py on a picture, with onnxruntime, numpy and Pillow alone: no PyTorch, no OpenMMLab.

    python onnx_inference.py model.onnx picture.jpg [--out overlay.png]

A segmentor draws the classes over the picture, at its size, and prints their shares; a classifier prints its five best classes; of
maps the shapes are printed. Copy it and go on from there: everything it needs to know stands in the file's metadata.
"""

import argparse
import colorsys
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Model:
    """An exported file and what it says about itself."""

    def __init__(self, path, providers=('CPUExecutionProvider',)):
        self.session = onnxruntime.InferenceSession(str(path), providers=list(providers))
        told = self.session.get_modelmeta().custom_metadata_map
        self.task, self.output = told['task'], told['output']
        self.height, self.width = json.loads(told['size'])
        self.mean, self.std = (np.array(json.loads(told[key]), np.float32) for key in ('mean', 'std'))
        self.channels = told['channels']
        self.classes = json.loads(told['classes'])

    def prepare(self, picture):
        """An RGB picture as the input (1, 3, H, W): of a classifier the middle of it, else all of it, stretched."""
        size = (self.width, self.height)
        picture = (
            ImageOps.fit(picture, size, Image.BICUBIC) if self.task == 'classification' else picture.resize(size, Image.BILINEAR)
        )
        pixels = np.asarray(picture, np.float32)
        if self.channels == 'BGR':
            pixels = pixels[..., ::-1]
        return ((pixels - self.mean) / self.std).transpose(2, 0, 1)[None]

    def __call__(self, picture):
        """The outputs, a list of arrays."""
        return self.session.run(None, {self.session.get_inputs()[0].name: self.prepare(picture)})

    def name(self, index):
        return self.classes[index] if index < len(self.classes) else f'class {index}'


def label_map(model, outputs, size):
    """The class of each pixel (h, w) of a picture of `size` (width, height)."""
    labels = outputs[0][0] if model.output == 'labels' else outputs[0][0].argmax(0)
    return np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.NEAREST))


def colours(count):
    """RGB of each class: hues a golden section apart, in two brightnesses."""
    spread = [colorsys.hsv_to_rgb(0.618 * k % 1, 0.75, 0.95 if k % 2 else 0.65) for k in range(count)]
    return (255 * np.array(spread)).astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path)
    parser.add_argument('picture', type=Path)
    parser.add_argument('--out', type=Path, default=Path('overlay.png'), help='of a segmentor (default: %(default)s)')
    args = parser.parse_args()
    model = Model(args.model)
    picture = ImageOps.exif_transpose(Image.open(args.picture)).convert('RGB')
    outputs = model(picture)
    if model.task == 'segmentation':
        labels = label_map(model, outputs, picture.size)
        overlay = Image.fromarray(colours(labels.max() + 1)[labels])
        Image.blend(picture, overlay, 0.5).save(args.out)
        for index, count in sorted(enumerate(np.bincount(labels.ravel())), key=lambda item: -item[1]):
            if count:
                print(f'{100 * count / labels.size:5.1f} %  {model.name(index)}')
        print(f'overlay: {args.out}')
    elif model.task == 'classification':
        logits = outputs[0][0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        for index in scores.argsort()[::-1][:5]:
            print(f'{100 * scores[index]:5.1f} %  {model.name(index)}')
    else:
        for told, values in zip(model.session.get_outputs(), outputs):
            print(told.name, values.shape)


if __name__ == '__main__':
    main()
