"""The page with models of gray, 16-bit and multi-band images: uploads become what the model takes, or are refused."""

import base64
import zlib

import cv2
import numpy as np
import pytest

from mmfreq.apis.inference import load_predictor
from mmfreq.demo.server import make_server
from mmfreq.demo.uploads import read_upload
from mmfreq.errors import DataError, UserError
from tests.broken_images import encode, pixels
from tests.other_channels import KINDS, expected_prediction, models_by_kind, segmentor, write_model


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """`models(kind)`: config, checkpoint, image file and its values."""
    return models_by_kind(tmp_path_factory)


@pytest.fixture
def predicted(models):
    """`predicted(kind, data)`: the labels (H, W) in the response for an upload."""

    def predict(kind, data):
        config, checkpoint, *_ = models(kind)
        with make_server(config, checkpoint, port=0, plain=True) as server:
            response = server.predict('0', data)
        plane = zlib.decompress(base64.b64decode(response['labels']))
        return np.frombuffer(plane, np.uint8).reshape(response['size'][::-1])

    return predict


@pytest.mark.parametrize('kind', KINDS)
def test_file_of_the_models_kind_is_predicted_as_by_the_test_pipeline(predicted, models, kind):
    config, checkpoint, path, _ = models(kind)
    expected = expected_prediction(config, checkpoint, path).pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(predicted(kind, path.read_bytes()), expected)


def test_color_upload_becomes_gray(predicted, models):
    data = encode(pixels())
    read_as_gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    converted = cv2.cvtColor(pixels(), cv2.COLOR_BGR2GRAY)
    for kind, gray in (('gray', read_as_gray), ('16 bits', converted.astype(np.float32))):
        np.testing.assert_array_equal(predicted(kind, data), load_predictor(*models(kind)[:2])(gray))


@pytest.mark.parametrize('data', [encode(pixels()), encode(pixels()[..., 0])])
def test_upload_without_the_bands_of_the_model_is_refused_in_one_sentence(predicted, data):
    with pytest.raises(DataError, match=r'^The model takes images with 4 channels: choose a TIFF file with 4 bands\.$'):
        predicted('4 bands', data)


def test_upload_that_needs_another_package_names_it(predicted, tmp_path, monkeypatch):
    monkeypatch.setattr('mmfreq.compat.decoders.find_spec', lambda name: None)
    config, checkpoint = write_model(tmp_path, segmentor('5 bands'))
    with make_server(config, checkpoint, port=0) as server, pytest.raises(UserError, match='pip install tifffile'):
        server.predict('0', encode(pixels(), '.tif'))


def test_large_upload_is_scaled_down_with_all_channels(models):
    for kind, channels in (('gray', ()), ('4 bands', (4,)), ('5 bands', (5,))):
        config, checkpoint, path, _ = models(kind)
        upload = read_upload(path.read_bytes(), 48, load_predictor(config, checkpoint).read)
        assert upload.image.shape == (32, 48, *channels) and upload.size == (96, 64)


def test_tiff_with_many_pixels_is_refused_by_its_header():
    tifffile = pytest.importorskip('tifffile')
    from io import BytesIO

    tifffile.imwrite(file := BytesIO(), np.zeros((8000, 8000, 5), bool), photometric='minisblack', planarconfig='contig',
                     compression='deflate')  # fmt: skip
    with pytest.raises(DataError, match='8000 x 8000 pixels'):
        read_upload(file.getvalue(), 48)
