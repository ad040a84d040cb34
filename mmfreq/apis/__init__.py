"""Load a trained model, and predict with it.

| module | what it has |
|---|---|
| `loading` | `load_model`: a model with its weights, image size, classes and normalization, as a `LoadedModel` |
| `reading` | `ImageReader`: image files as the model of a config gets them, whatever their channels |
| `preprocessing` | from an image to the input of a model as plain data, for programs without OpenMMLab |
| `inference` | `load_predictor`: a segmentor or detector as a function from an image to its prediction, a `Predictor` |

Example:
    >>> from mmfreq.apis import load_model, load_predictor
    >>> loaded = load_model('gfnet-h-micro')
    >>> loaded.task, loaded.size
    ('classification', (224, 224))
    >>> predict = load_predictor('CONFIG.py', 'CHECKPOINT.pth')  # doctest: +SKIP
    >>> label_map = predict(predict.read('photo.jpg'))  # doctest: +SKIP
"""

from mmfreq.apis.inference import Predictor, load_predictor
from mmfreq.apis.loading import LoadedModel, Normalization, load_model
from mmfreq.apis.reading import ImageReader

__all__ = ['ImageReader', 'LoadedModel', 'Normalization', 'Predictor', 'load_model', 'load_predictor']
