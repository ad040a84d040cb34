"""docs/deployment.md: each cell of its table of features is tested, its outputs exist, and its Python code runs."""

import json
import re
import traceback
from pathlib import Path

import pytest
import torch

import mmfreq
from mmfreq.apis.loading import load_model
from mmfreq.apis.preprocessing import RULES
from mmfreq.export import export_onnx
from mmfreq.export.graphs import OUTPUTS
from mmfreq.export.metadata import metadata_of

pytest.importorskip('onnx', reason='extra [export] is not installed')

PAGE = (Path(__file__).resolve().parents[2] / 'docs' / 'deployment.md').read_text(encoding='utf-8')
SIZE = (64, 96)
BACKENDS = ('matmul', 'fft')


def table(header):
    """Cells of the table whose header row starts with `header`."""
    lines = PAGE[PAGE.index(f'\n| {header}') :].strip().split('\n\n')[0].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


def largest_error(actual, expected):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(actual, expected, strict=True))


def exported(shapes, other):
    """torch.export, and the program applied to images of another shape."""

    def attempt(model, images, folder):
        with torch.no_grad():
            program = torch.export.export(model, (images,), dynamic_shapes=shapes)
            return largest_error(program.module()(other), model(other))

    return attempt


def compiled(model, images, folder):
    torch._dynamo.reset()
    with torch.no_grad():
        return largest_error(torch.compile(model, fullgraph=True, backend='aot_eager')(images), model(images))


def compiled_in_training(model, images, folder):
    torch._dynamo.reset()
    outs = torch.compile(model.train(), fullgraph=True, backend='aot_eager')(images)
    sum(out.square().mean() for out in outs).backward()
    assert all(p.grad is not None for p in model.parameters())
    return 0.0


def traced(model, images, folder):
    with torch.no_grad():
        found = torch.jit.trace(model, images, check_trace=False, strict=False)
        return largest_error(found(images), model(images))


def scripted(model, images, folder):
    torch.jit.script(model)
    return 0.0


def onnx_without_fourier(model, images, folder):
    backend = next(m.spectral for m in model.modules() if hasattr(m, 'spectral'))
    if export_onnx(model, SIZE, folder / 'm.onnx', backend=backend).spectral:
        raise RuntimeError('Fourier operators')
    return 0.0


AUTO = torch.export.Dim.AUTO
HORNET, GFNET, DFFORMER, AFFNET = 'hornet-micro', 'gfnet-h-micro', 'dfformer-micro', 'affnet-micro'
# feature -> test function, archs for 'matmul', archs for 'fft'. The row of any image size also tests any number of images;
# test_onnx_file.py exports every family at one size; tests/models compiles every family.
ROWS = {
    '`torch.export.export`, one size': (exported(None, torch.randn(2, 3, *SIZE)), [HORNET], [DFFORMER]),
    '`torch.export.export`, any number of images': (
        *(exported(({0: torch.export.Dim('batch', min=1)},), torch.randn(5, 3, *SIZE)), [AFFNET], [GFNET]),
    ),
    '`torch.export.export`, any size of images (`Dim.AUTO`)': (
        *(exported(({0: AUTO, 2: AUTO, 3: AUTO},), torch.randn(3, 3, 96, 128)), [HORNET], [GFNET, AFFNET]),
    ),
    '`torch.compile(fullgraph=True)`': (compiled, [HORNET], [GFNET]),
    '`torch.compile(fullgraph=True)`, training': (compiled_in_training, [AFFNET], [DFFORMER]),
    '`torch.jit.trace`': (traced, [HORNET, DFFORMER], [GFNET, AFFNET]),
    '`torch.jit.script`': (scripted, [HORNET], [AFFNET]),
    '`export_onnx` without Fourier operators': (onnx_without_fourier, [GFNET], [HORNET]),
}
# the function whose frame raises the expected error of a 'no', so that another error does not pass for it
REJECTED_IN = {
    '`torch.jit.script`': torch.jit._recursive.create_script_module.__code__,
    '`export_onnx` without Fourier operators': onnx_without_fourier.__code__,
}


def test_table_lists_the_tested_features():
    assert [row[0] for row in table('what | `spectral')] == list(ROWS)


CASES = [
    (feature, arch, backend) for feature, (_, *archs) in ROWS.items() for backend, chosen in zip(BACKENDS, archs) for arch in chosen
]


@pytest.mark.slow
@pytest.mark.parametrize(('feature', 'arch', 'backend'), CASES)
def test_features_work_or_fail_as_documented(feature, arch, backend, tmp_path):
    documented = {row[0]: dict(zip(BACKENDS, row[1:])) for row in table('what | `spectral')}[feature][backend]
    assert documented in ('yes', 'no')
    attempt = ROWS[feature][0]
    model = mmfreq.build_backbone(arch, spectral=backend).eval()
    if documented == 'yes':
        assert attempt(model, torch.randn(2, 3, *SIZE), tmp_path) < 1e-4
    else:
        with pytest.raises(Exception) as rejected:
            attempt(model, torch.randn(2, 3, *SIZE), tmp_path)
        frames = [frame.f_code for frame, _ in traceback.walk_tb(rejected.tb)]
        code = REJECTED_IN[feature]
        assert code in frames if 'jit' in feature else frames[-1] is code, rejected.value


def test_documented_outputs_exist():
    tasks = {'arch': ('classification', 'features'), 'classification': ('classification',), 'segmentation': ('segmentation',)}
    found = {}
    for source, output, _ in table('source | `--output`'):
        found.setdefault(source.split()[0], []).append(re.match(r'`(\w+)`', output).group(1))
    for source, outputs in found.items():
        assert outputs == [output for task in tasks.get(source, ('detection',)) for output in OUTPUTS[task]], source
    assert len(found) == 4


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'^```python\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, 'deployment.md', 'exec'), {})


def test_documented_metadata_keys_are_those_of_a_file(tmp_path):
    loaded = load_model('gfnet-h-micro')
    metadata = export_onnx(loaded.model, (32, 32), tmp_path / 'm.onnx', metadata=metadata_of(loaded)).metadata
    documented = [key for row in table('key | meaning') for key in re.findall(r'`(\w+)`', row[0])]
    assert sorted(documented) == sorted(metadata)
    preprocessing = next(row[1] for row in table('key | meaning') if row[0] == '`preprocessing`')
    assert set(re.findall(r'`(\w+)`:', preprocessing)) == set(json.loads(metadata['preprocessing']))


def test_documented_resize_rules_are_those_of_the_code():
    assert {row[0].strip('`'): row[1] for row in table('rule | sides after it')} == RULES
