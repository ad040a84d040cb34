"""README.md and the tables of docs/ are true: Python runs, paths exist, numbers are those of models, metafiles and measurements."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch

import mmfreq
from mmfreq.models._factory import FAMILIES, backbone_class

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
MODELS_PAGE = (ROOT / 'docs' / 'models.md').read_text(encoding='utf-8')


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.MULTILINE | re.DOTALL)


def rows(header, page=README):
    """Cells of the table whose header row starts with `header`."""
    lines = page[page.index(f'\n| {header}') :].strip().split('\n\n')[0].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    from mmengine.config import Config

    monkeypatch.chdir(tmp_path)
    torch.save({'model': mmfreq.build_classifier('hornet-tiny-gf').state_dict()}, 'hornet_tiny_gf.pth')
    found = blocks('python')
    assert len(found) >= 3
    spaces = []
    for block in found:
        exec(compile(block, 'README.md', 'exec'), space := {})
        spaces.append(space)
        if space.get('model', {}) and isinstance(space['model'], dict):
            base = tmp_path / 'base.py'
            base.write_text("_base_ = 'mmseg::_base_/models/upernet_r50.py'\n" + block)
            assert Config.fromfile(base).model.backbone == dict(
                type='mmfreq.HorNet', arch='hornet-tiny-gf', img_size=384, drop_path_rate=0.4
            )
    got = {name: value for space in spaces for name, value in space.items()}
    assert [f.shape[1] for f in got['features']] == [128, 256, 512]
    assert got['report'].loaded == len(got['classifier'].state_dict())
    assert got['channels'] == [128, 256, 512]
    assert got['mixer'](torch.zeros(1, 64, 20, 30)).shape == (1, 128, 20, 30)


def expand(pattern):
    """'a-{b,c}' is a-b, a-c."""
    parts = [part.split(',') for part in re.split(r'[{}]', pattern)]
    return {''.join(choice) for choice in product(*parts)}


@pytest.mark.slow
def test_table_of_backbones_names_every_arch_and_its_size():
    named = {}
    for kind, archs, _, sizes in rows('type | archs', MODELS_PAGE):
        names = {name for pattern in re.findall(r'`([^`]+)`', archs) for name in expand(pattern)}
        named[kind.strip('`')] = names
        with torch.device('meta'):
            counts = [sum(p.numel() for p in mmfreq.build_classifier(name).parameters()) for name in names]
        assert sizes == f'{min(counts) / 1e6:.1f}M to {max(counts) / 1e6:.1f}M', kind
        assert {backbone_class(name).__name__ for name in names} == {kind.strip('`').removeprefix('mmfreq.')}
    assert set().union(*named.values()) == {arch for arch in mmfreq.list_archs() if 'micro' not in arch}


def test_named_files_exist():
    named = set(re.findall(r'(?:tools|configs|mmfreq|docs|tests)/[\w./-]*\w', README))
    named |= set(re.findall(r'\]\(([\w./-]+)\)', README))
    assert len(named) > 15
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_the_layout_of_contributing_names_every_package():
    page = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    named = ' '.join(cell for row in rows('in `mmfreq/`', page) for cell in row)
    packages = [p.parent.name for p in (ROOT / 'mmfreq').glob('*/__init__.py')]
    assert len(packages) >= 9
    assert not [p for p in packages if f'`{p}/`' not in named]


RESULT = re.compile(r'\[([\d.]+)\]\((configs/[\w./-]+)\.py\)')


def test_the_results_are_those_of_the_metafiles():
    from mmfreq.zoo import load_rows

    zoo = {row.entry['Config'].removesuffix('.py'): row for row in load_rows()}
    table = rows('model | params, M')
    assert len(table) >= 8
    for model, parameters, flops, *scores in table:
        assert any(RESULT.search(score) for score in scores), model
        for metric, cell in zip(('Top 1 Accuracy', 'mIoU', 'box AP'), scores):
            if found := RESULT.search(cell):
                assert float(found[1]) == zoo[found[2]].entry['Results'][0]['Metrics'][metric], (model, metric)
        arch = model.lower().replace('(', '').replace(')', '').replace(' ', '-')
        arch = {'hornet-t-gf': 'hornet-tiny-gf', 'hornet-s-gf': 'hornet-small-gf', 'hornet-b-gf': 'hornet-base-gf'}.get(arch, arch)
        (own,) = [row.entry['Metadata'] for path, row in zoo.items() if re.match(rf'configs/cls/\w+/{arch}_', path)]
        assert (parameters, flops) == (f'{own["Parameters"] / 1e6:.2f}', f'{own["FLOPs"] / 1e9:.2f}'), model


def test_every_decoder_is_named():
    """What the registries hold beside the backbones and the classifier."""
    from mmfreq.registry import MODELS, TASK_UTILS

    named = {name for row in rows('type | what', MODELS_PAGE) for name in re.findall(r'`mmfreq\.(\w+)`', ' '.join(row))}
    backbones = {row[0].strip('`').removeprefix('mmfreq.') for row in rows('type | archs', MODELS_PAGE)}
    for registry in (MODELS, TASK_UTILS):
        registry.import_from_location()
    assert {*MODELS.module_dict, *TASK_UTILS.module_dict} == named | backbones | {'FrequencyImageClassifier'}


def test_every_tool_is_named():
    page = (ROOT / 'docs' / 'tools.md').read_text(encoding='utf-8')
    tools = {path.name for path in (ROOT / 'tools').iterdir() if path.suffix in ('.py', '.sh') and not path.name.startswith('_')}
    assert not {tool for tool in tools if f'tools/{tool}' not in page} - {'env.sh'}


def test_what_works_with_every_family_is_tested_with_every_family():
    named = rows('what | tested in', MODELS_PAGE)
    assert len(named) >= 6
    for what, where in named:
        paths = re.findall(r'`(tests/[\w/]+\.py)`', where)
        assert paths, what
        for path in paths:
            text = (ROOT / path).read_text(encoding='utf-8')
            every = 'list_archs(' in text or 'in FAMILIES' in text
            assert every or all(re.search(rf'\b{family}\b', text) for family in FAMILIES), (what, path)


def measured(page, *row):
    """The cells after those of `row` in the first row of a page of measurements that begins with them."""
    text = (ROOT / 'docs' / 'measurements' / page).read_text(encoding='utf-8')
    line = next(line for line in text.splitlines() if line.startswith(f'| {" | ".join(row)} |'))
    return [cell.strip() for cell in line.strip('|').split('|')][len(row) :]


def test_the_pages_cite_the_measurements():
    sizes, cookbook, speed = (
        ' '.join((ROOT / 'docs' / name).read_text(encoding='utf-8').split())
        for name in ('image_sizes.md', 'cookbook.md', 'performance.md')
    )
    text = (ROOT / 'docs/measurements/filter_resizing_cpu.md').read_text(encoding='utf-8')
    hornet, gfnet = re.findall(r'^\| 2 \| 540x720 \| (.+) \|$', text, re.MULTILINE)
    (bilinear, _, _, modes), (_, bicubic, _, gfnet_modes) = hornet.split(' | '), gfnet.split(' | ')
    assert f'has {modes} % mIoU with `modes` and {bilinear} % with `bilinear`' in sizes
    assert f'has {gfnet_modes} % with `modes` and {bicubic} % with `bicubic`' in sizes
    plain, *gnconv = (
        measured('camvid_decoders_cpu.md', f'`{name}`') for name in ('upernet', 'horfpn-7x7-upernet', 'gnconv-7x7-upernet')
    )
    assert 'have a higher mIoU with every seed' in cookbook
    assert all(min(map(float, each[:2])) > max(map(float, plain[:2])) for each in gnconv)
    grows = {
        arch: measured('growth_cpu.md', arch, form, 'inference', 'fp32', '2048x2048')[1].split()[0]
        for arch, form in (
            *((arch, 'mmfreq') for arch in ('hornet-tiny-gf', 'hornet-tiny-7x7', 'dfformer-s18', 'cdfformer-s18', 'affnet')),
            *((arch, 'timm') for arch in ('convnext_tiny', 'convformer_s18', 'caformer_s18')),
        )
    }
    paragraph = speed[speed.index('## Image size') : speed.index('## How to measure')]
    assert re.findall(r'[\d.]+x\b(?!\d)', paragraph) == [*dict.fromkeys(grows.values())]


def test_it_is_short():
    assert len(README.splitlines()) <= 130


def means(page, heading):
    """Cells of the row 'geometric mean' of a summary table of a page of measurements, by column."""
    text = (ROOT / 'docs' / 'measurements' / page).read_text(encoding='utf-8')
    header, _, *lines = text[text.index(f'| {heading} |') :].split('\n\n')[0].splitlines()
    names, cells = ([cell.strip() for cell in line.strip('|').split('|')] for line in (header, lines[-1]))
    assert cells[0] == 'geometric mean'
    return dict(zip(names, cells))


def test_the_figures_of_speed_are_those_of_the_measurements():
    """Geometric means of wall clock and of memory, as the committed page has them, in the paragraph that cites them."""
    paragraph = next(part for part in README.split('\n- ') if 'against the reference' in ' '.join(part.split()))
    found = means('levers_cpu.md', '512x512, fp32')
    wanted = [
        *(found[column].split(' / ')[0] for column in ('inference: `plain`', 'inference: `optimize`', 'training: `plain`')),
        found['saved by `memory_efficient`'],
        found['training: `memory_efficient`'].split(' / ')[0],
    ]
    assert re.findall(r'[\d.]+x\b', paragraph)[: len(wanted)] == wanted


def test_the_tables_of_the_performance_page_are_those_of_the_measurements():
    page = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    tables = [part for part in page.split('\n\n') if re.match(r'\| \d+x\d+, ', part)]
    measured = ''.join(path.read_text(encoding='utf-8') for path in (ROOT / 'docs' / 'measurements').glob('levers_*.md'))
    assert len(tables) == 2
    assert not [table for table in tables if table.strip() not in measured]
