"""Runs a file written by tools/export_onnx.py on an image, with onnxruntime, numpy and Pillow only: no PyTorch, no OpenMMLab.

    python onnx_inference.py model.onnx image.jpg [--out overlay.png]

For a segmentor it draws the classes over the image and prints their areas; for a classifier it prints the five best classes; for
feature maps it prints the shapes. Copy this file and adapt it: all it needs to know is in the metadata of the ONNX file.
"""

import argparse
import colorsys
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Model:
    """An exported file and its metadata."""

    def __init__(self, path, providers=('CPUExecutionProvider',)):
        self.session = onnxruntime.InferenceSession(str(path), providers=list(providers))
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.task, self.output = metadata['task'], metadata['output']
        self.height, self.width = json.loads(metadata['size'])
        self.mean, self.std = (np.array(json.loads(metadata[key]), np.float32) for key in ('mean', 'std'))
        self.channels = metadata['channels']  # RGB, BGR, gray, or bands for other numbers of channels
        self.keeps_values = metadata.get('pixels') == 'as in the file'  # otherwise pixels are 0..255
        self.classes = json.loads(metadata['classes'])

    def convert(self, image):
        """The image in the mode of the model's channels: RGB, L, or for gray pixels of any range F.

        Raises ValueError for images whose channels or range of pixels the model does not take.
        """
        if self.channels == 'bands':
            raise ValueError(f'the model takes {len(self.mean)} channels, which Pillow does not read: change Model.preprocess')
        if self.channels == 'gray' and self.keeps_values and len(image.getbands()) == 1 and image.mode != 'P':
            return Image.fromarray(np.asarray(image, np.float32))
        if image.mode.startswith(('I', 'F')):
            raise ValueError(f'expected 8 bits per channel, got an image of mode {image.mode}: convert it as for training')
        return image.convert('L' if self.channels == 'gray' else 'RGB')

    def preprocess(self, image):
        """Convert an image to the input (1, C, H, W): a center crop for a classifier, otherwise the whole image, stretched."""
        image, size = self.convert(image), (self.width, self.height)
        image = ImageOps.fit(image, size, Image.BICUBIC) if self.task == 'classification' else image.resize(size, Image.BILINEAR)
        pixels = np.asarray(image, np.float32).reshape(self.height, self.width, -1)
        if self.channels == 'BGR':
            pixels = pixels[..., ::-1]
        return ((pixels - self.mean) / self.std).transpose(2, 0, 1)[None]

    def __call__(self, image):
        """The outputs, a list of arrays."""
        return self.session.run(None, {self.session.get_inputs()[0].name: self.preprocess(image)})

    def class_name(self, index):
        return self.classes[index] if index < len(self.classes) else f'class {index}'


def label_map(model, outputs, size):
    """The class of each pixel (h, w) of an image of `size` (width, height)."""
    labels = outputs[0][0] if model.output == 'labels' else outputs[0][0].argmax(0)
    return np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.NEAREST))


def shown(image):
    """The image as RGB, 16-bit or real pixels scaled from their own range."""
    if image.mode.startswith(('I', 'F')):
        pixels = np.asarray(image, np.float32)
        pixels = 255 * (pixels - pixels.min()) / max(np.ptp(pixels), 1e-9)
        image = Image.fromarray(pixels.round().astype(np.uint8))
    return image.convert('RGB')


def class_colors(count):
    """RGB of each class: hues at golden-ratio steps, alternating between two brightnesses."""
    colors = [colorsys.hsv_to_rgb(0.618 * k % 1, 0.75, 0.95 if k % 2 else 0.65) for k in range(count)]
    return (255 * np.array(colors)).astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path)
    parser.add_argument('image', type=Path)
    parser.add_argument('--out', type=Path, default=Path('overlay.png'), help='file for a segmentor (default: %(default)s)')
    args = parser.parse_args()
    model = Model(args.model)
    image = ImageOps.exif_transpose(Image.open(args.image))
    try:
        outputs = model(image)
    except ValueError as error:
        raise SystemExit(f'error: {args.image}: {error}') from None
    if model.task == 'segmentation':
        labels = label_map(model, outputs, image.size)
        overlay = Image.fromarray(class_colors(labels.max() + 1)[labels])
        Image.blend(shown(image), overlay, 0.5).save(args.out)
        for index, count in sorted(enumerate(np.bincount(labels.ravel())), key=lambda item: -item[1]):
            if count:
                print(f'{100 * count / labels.size:5.1f} %  {model.class_name(index)}')
        print(f'overlay: {args.out}')
    elif model.task == 'classification':
        logits = outputs[0][0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        for index in scores.argsort()[::-1][:5]:
            print(f'{100 * scores[index]:5.1f} %  {model.class_name(index)}')
    else:
        for output, values in zip(model.session.get_outputs(), outputs):
            print(output.name, values.shape)


if __name__ == '__main__':
    main()
