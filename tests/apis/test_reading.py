"""Image files are read as the loading transform of a config reads them, whatever their channels, and shown as RGB."""

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import TRANSFORMS, BaseTransform

import mmfreq  # noqa: F401
from mmfreq.apis.reading import ImageReader, check_channels, loads_an_image
from mmfreq.errors import InputError, UserError
from tests.broken_images import READABLE, UNREADABLE, pixels
from tests.other_channels import KINDS, TIFFFILE, write_image


@pytest.fixture
def save(tmp_path):
    def write(data, name='image'):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def loader(**options):
    return {'type': 'LoadImageFromFile', **options}


def test_by_default_files_are_read_as_color_bitwise_as_opencv_reads_them(save):
    read = ImageReader()
    assert read.color and read.bgr and not read.keeps_values
    for case, data in READABLE.items():
        image, expected = read(save(data)), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image.dtype == np.uint8 and (image == expected).all(), case
        assert (read.shown(image) == expected[..., ::-1]).all() and (read.bands(save(data)) == expected[..., ::-1]).all(), case


@pytest.mark.parametrize(
    'options',
    [
        dict(color_type='grayscale'),
        dict(color_type='unchanged'),
        dict(color_type='unchanged', to_float32=True),
        dict(color_type='color_ignore_orientation'),
        dict(imdecode_backend='pillow'),
        dict(imdecode_backend='pillow', color_type='grayscale', backend_args=dict(backend='petrel')),
    ],
)
def test_options_of_the_loader_take_effect(save, options):
    kinds = {key: options[key] for key in ('color_type', 'imdecode_backend') if key in options}
    for case in ('gray', 'RGBA', '16 bits', 'turned upside down by EXIF'):
        image = ImageReader(loader(**options))(save(READABLE[case]))
        expected = mmcv.imfrombytes(READABLE[case], kinds.get('color_type', 'color'), backend=kinds.get('imdecode_backend'))
        assert image.dtype == (np.float32 if 'to_float32' in options else expected.dtype), case
        np.testing.assert_array_equal(image, expected, case)


TRUNCATED = {
    *('truncated JPEG', 'JPEG without its last bytes', 'only the head of a JPEG', 'truncated PNG', 'PNG without its end'),
    *('truncated BMP', 'truncated WebP', 'truncated TIFF'),
}


@pytest.mark.parametrize('case', UNREADABLE)
@pytest.mark.parametrize('color_type', ['color', 'grayscale'])
def test_error_describes_a_file_that_is_not_an_image(save, case, color_type):
    data, pattern = UNREADABLE[case]
    if case in TRUNCATED:
        pattern = rf'(JPEG|PNG|BMP|WebP|TIFF) image that is truncated \({len(data)} bytes\)\. Copy or download it again'
    if case == 'TIFF of real numbers':
        pattern = f"32 bits per sample, which OpenCV cannot read with color_type='{color_type}'. Set color_type='unchanged' or "
    path = save(data)
    with pytest.raises(InputError, match=rf'cannot be read as an image: it is .*({pattern}).*(?<!\.)\.$') as error:
        ImageReader(loader(color_type=color_type))(path)
    assert str(error.value).startswith(str(path))


def test_every_truncated_file_is_found_and_no_other():
    assert {case for case in UNREADABLE if 'truncated' in case} < TRUNCATED < set(UNREADABLE)


class OneBand(BaseTransform):
    def transform(self, results):
        return {'img': np.loadtxt(results['img_path'])}


def test_own_loader_is_used(tmp_path):
    TRANSFORMS.register_module(module=OneBand, name='LoadOneImageBand', force=True)
    np.savetxt(tmp_path / 'a.txt', [[0, 100], [200, 400]])
    read = ImageReader({'type': 'LoadOneImageBand'}, 'mmengine', 1)
    assert loads_an_image(read.step) and read.keeps_values and read(tmp_path / 'a.txt').tolist() == [[0, 100], [200, 400]]
    assert read.shown(read(tmp_path / 'a.txt'))[..., 1].tolist() == [[0, 64], [128, 255]]
    with pytest.raises(InputError, match=r'b\.txt cannot be read.*missing \(LoadOneImageBand: FileNotFoundError'):
        read(tmp_path / 'b.txt')


def test_loaders_of_several_files_are_no_loaders_of_an_image():
    several = ('LoadMultipleRSImageFromFile', 'mmdet.LoadMultiChannelImageFromFiles', 'LoadImageFromNDArray', 'LoadAnnotations')
    assert not any(loads_an_image({'type': name}) for name in (*several, 'Resize'))
    assert all(loads_an_image({'type': name}) for name in ('mmcv.LoadImageFromFile', 'LoadSingleRSImageFromFile', OneBand)[:2])


@pytest.mark.parametrize('kind', KINDS)
def test_values_of_the_file_are_kept(tmp_path, kind):
    if kind == '5 bands':
        pytest.importorskip('tifffile')
    channels, step, *_ = KINDS[kind]
    path, values = write_image(tmp_path, kind)
    read = ImageReader(step, 'mmengine', channels)
    image = read(path)
    assert image.dtype == values.dtype and (image == values).all()
    assert read.bands(path).shape == (*values.shape[:2], channels)
    shown = read.shown(image)
    assert shown.dtype == np.uint8 and shown.shape == (*values.shape[:2], 3) and shown.std() > 20


def test_missing_tifffile_is_named_with_the_command(save, monkeypatch):
    monkeypatch.setattr('mmfreq.compat.decoders.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'tifffile is not installed\. Run: pip install tifffile'):
        ImageReader(TIFFFILE, 'mmengine', 5)(save(READABLE['TIFF']))


def test_loader_that_cannot_be_built_is_named(save):
    for name, reason in (('LoadNoSuchImage', 'LoadNoSuchImage'), ('LoadSingleRSImageFromFile', 'gdal')):
        with pytest.raises(UserError, match=rf'loads images with {name}, which cannot be built.*{reason}.*tifffile'):
            ImageReader({'type': name}, 'mmseg', 5)(save(READABLE['TIFF']))


def test_bands_that_opencv_does_not_read_are_named(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    five = np.zeros((5, 40, 56), np.uint16)
    tifffile.imwrite(tmp_path / 'five.tif', five.transpose(1, 2, 0), photometric='minisblack', planarconfig='contig')
    tifffile.imwrite(tmp_path / 'first.tif', five, photometric='minisblack', planarconfig='separate')
    tifffile.imwrite(tmp_path / 'pages.tif', np.zeros((2, 40, 56, 3), np.uint8), photometric='rgb')
    with pytest.raises(InputError, match=r'five\.tif.*TIFF image with 5 channels, and the model takes 3.*tifffile'):
        ImageReader()(tmp_path / 'five.tif')
    read = ImageReader(TIFFFILE, 'mmengine', 5)
    with pytest.raises(InputError, match=r'first\.tif has the shape \(5, 40, 56\): its bands come first.*contig'):
        read(tmp_path / 'first.tif')
    with pytest.raises(InputError, match=r'pages\.tif has the shape \(2, 40, 56, 3\)'):
        read(tmp_path / 'pages.tif')
    with pytest.raises(InputError, match=r'text.*LoadImageFromFile: TiffFileError'):
        (tmp_path / 'text').write_text('hello')
        read(tmp_path / 'text')


UNCHANGED = loader(color_type='unchanged')
# name -> (channels of the image, of the model, the loader, regular expression)
CHANNELS = {
    'color for a gray model': (3, 1, loader(), r'of a\.png is 3, but the model takes 1 .*Convert.*{key}=grayscale\.'),
    'gray for a color model': (1, 3, loader(color_type='grayscale'), r'is 1, but the model takes 3 .*Convert.*{key}=color\.'),
    'alpha for a color model': (4, 3, None, r'of a\.png is 4, but the model takes 3 .*{key}=color\.'),
    'color for a model of five bands': (3, 5, loader(), r'of a\.png is 3, but the model takes 5 .*image with 5 bands.*tifffile'),
    'color for a gray model of 16 bits': (3, 1, UNCHANGED, r'takes 1 \([^.]*\)\. Give a file with 1 channel, as in training\.$'),
    'alpha for an unchanged color model': (4, 3, UNCHANGED, r'takes 3 \([^.]*\)\. Give a file with 3 channels, as in training\.$'),
    'gray for a model of TIFF files': (1, 5, TIFFFILE, r'takes 5 .*Give a file with 5 channels, as in training\.$'),
}


@pytest.mark.parametrize('case', CHANNELS)
def test_error_of_other_channels_has_both_numbers_and_the_remedy(case):
    found, expected, step, pattern = CHANNELS[case]
    with pytest.raises(InputError, match=pattern.replace('{key}', r'test_dataloader\.dataset\.pipeline\.0\.color_type')):
        check_channels(found, expected, 'of a.png', step)


def test_color_images_are_converted_for_gray_models_only():
    color = pixels()
    gray = ImageReader(loader(color_type='grayscale'), channels=1).of_color_image(color)
    np.testing.assert_array_equal(gray, cv2.cvtColor(color, cv2.COLOR_BGR2GRAY))
    assert ImageReader().of_color_image(color) is color
    assert ImageReader(loader(to_float32=True)).of_color_image(color).dtype == np.float32
    assert (ImageReader(TIFFFILE).of_color_image(color) == color[..., ::-1]).all()
    with pytest.raises(InputError, match='3 channels, but the model takes 5'):
        ImageReader(TIFFFILE, channels=5).of_color_image(color)


def test_gray_is_repeated_and_values_beyond_8_bits_are_scaled():
    read = ImageReader(loader(color_type='unchanged'), channels=1)
    gray = np.array([[0, 100], [200, 30]], np.uint8)
    for image in (gray, gray[..., None], gray.astype(np.float32)):
        assert (read.shown(image) == gray[..., None]).all()
    assert read.shown(np.array([[1000, 2000], [3000, 5000]], np.uint16))[..., 0].tolist() == [[0, 64], [128, 255]]
    assert read.shown(np.array([[0.5, np.nan], [np.inf, 1.5]], np.float32))[..., 2].tolist() == [[0, 0], [0, 255]]
    assert not read.shown(np.full((2, 2), 7, np.uint16)).any() and not read.shown(np.full((2, 2), np.nan)).any()


def test_first_three_of_many_bands_are_each_scaled():
    bands = np.zeros((2, 2, 5), np.uint16)
    bands[0, 0, :4] = 10, 1000, 60000, 7
    shown = ImageReader(TIFFFILE, channels=5).shown(bands)
    assert shown[0, 0].tolist() == [255] * 3 and not shown[1].any()
    two = ImageReader(TIFFFILE, channels=2).shown(np.dstack([np.eye(2, dtype=np.uint8), np.zeros((2, 2), np.uint8)]))
    assert (two == np.eye(2, dtype=np.uint8)[..., None]).all()
    rgb = pixels()
    assert (ImageReader(TIFFFILE).shown(rgb) == rgb).all()  # in the order of the file
