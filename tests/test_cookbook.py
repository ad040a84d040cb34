"""What docs/cookbook.md says is so: scripts print what stands under them, configs train, tables are counted again.

`python tests/test_cookbook.py` writes the measured outputs and tables into the page.
"""

import contextlib
import importlib
import inspect
import io
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import mmfreq  # before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is
from mmfreq.layers import GnConv

ROOT = Path(mmfreq.__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'cookbook.md'
TEXT = PAGE.read_text(encoding='utf-8')
FENCE_OR_TABLE = re.compile(r'^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$|^(?P<table>(?:\|[^\n]*\n)+)', re.MULTILINE | re.DOTALL)
HEADER = re.compile(
    r'\| `model\.(?P<part>\w+)` \| parameters \| GMACs at (?P<size>\d+x\d+) \| parameters, whole model \| GMACs, whole model \|'
)
STOCK, ABOVE = 'stock', 'as above'


@dataclass(frozen=True)
class Piece:
    kind: str
    body: str
    line: int

    def __str__(self):
        return f'{self.kind} at line {self.line}'


def pieces(text):
    """Every fenced block and every table, in order.

    Raises:
        ValueError: a block of a kind that nothing here runs.
    """
    found = []
    for match in FENCE_OR_TABLE.finditer(text):
        language, body = ('table', match['table']) if match['table'] else (match['language'], match['body'])
        if language == 'python':
            language = 'config' if '_base_ =' in body else 'script'
        if language not in ('script', 'config', 'bash', 'text', 'table'):
            raise ValueError(f'nothing runs a block of kind {language!r}')
        found.append(Piece(language, body, text[: match.start()].count('\n') + 1))
    return found


FOUND = pieces(TEXT)
SCRIPTS = [piece for piece in FOUND if piece.kind == 'script']
CONFIGS = [piece for piece in FOUND if piece.kind == 'config']
COMMANDS = [piece for piece in FOUND if piece.kind == 'bash']
TABLES = [piece for piece in FOUND if piece.kind == 'table']
each = lambda found: pytest.mark.parametrize('piece', found, ids=str)  # noqa: E731


def before(piece, kind):
    """The last piece of a kind before this one."""
    return [other for other in FOUND[: FOUND.index(piece)] if other.kind == kind][-1]


# Scripts


@cache
def ran(script):
    """(output, namespace) of a script run in a namespace of its own."""
    space = {'__name__': '__main__'}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile('\n' * script.line + script.body, PAGE, 'exec'), space)
    return out.getvalue(), space


# Configs and their tables


def base_of(config):
    return next(line for line in config.splitlines() if line.startswith('_base_ ='))


def sources(table):
    """(row's label, text of the config that the row counts): the base, the config above, or the base with one part changed."""
    above, part = before(table, 'config').body, HEADER.match(table.body)['part']
    for label in (row.split('|')[1].strip() for row in table.body.splitlines()[2:]):
        changed = f'model = dict({part}=dict({label.strip("`")}))'
        yield label, {STOCK: base_of(above), ABOVE: above}.get(label, f'{base_of(above)}\n{changed}\n')


@cache
def cost_of(source, folder):
    """(count of the model, (H, W)) of a config's text; files that it names are looked for in `folder`."""
    from mmfreq.analysis.flops import build_for_counting, count

    path = folder / 'my_config.py'
    path.write_text(source, encoding='utf-8')
    model, size = build_for_counting(str(path))
    return count(model, size), size


def counted(table, folder):
    """The table with fresh numbers."""
    header, rule, *_ = table.body.splitlines()
    rows = []
    for label, source in sources(table):
        report, (height, width) = cost_of(source, folder)
        assert HEADER.match(header)['size'] == f'{height}x{width}'
        modules = (report.modules[HEADER.match(header)['part']], report.modules[''])
        cells = [cell for m in modules for cell in (f'{m.params / 1e6:.2f}M', f'{m.macs.total / 1e9:.1f}')]
        rows.append(f'| {label} | {" | ".join(cells)} |')
    return '\n'.join((header, rule, *rows)) + '\n'


def run_commands(folder):
    """Run the page's shell blocks in `folder`."""
    lines = '\n'.join(piece.body for piece in COMMANDS)
    lines = lines.replace('python tools/', f'{shlex.quote(sys.executable)} {shlex.quote(str(ROOT))}/tools/')
    done = subprocess.run(['bash', '-euc', lines], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('cookbook')


@pytest.fixture(scope='module')
def commanded(folder):
    run_commands(folder)


def folder_for(source, request):
    """The folder to run a config in, with the files that the page's commands write if it names one."""
    if "'./" in base_of(source):
        request.getfixturevalue('commanded')
    return request.getfixturevalue('folder')


# Training


def without_downloads(node):
    if isinstance(node, dict):
        if (node.get('init_cfg') or {}) and 'Pretrained' in str(node['init_cfg']):
            node['init_cfg'] = None
        if node.get('pretrained'):
            node['pretrained'] = None
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        without_downloads(child)


def trainable(source, folder):
    """(model with its libraries' initial weights, scope), small enough in its inputs for a CPU."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    from mmfreq.engine.processes import sync_to_batch_norm

    path = folder / 'my_config.py'
    path.write_text(source, encoding='utf-8')
    cfg = Config.fromfile(path)
    without_downloads(cfg.model)
    sync_to_batch_norm(cfg.model)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (64, 64)
    elif 'rpn_proposal' in cfg.model.train_cfg:
        cfg.model.train_cfg.rpn_proposal.max_per_img = 50
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model.train(), cfg.default_scope


def batch(scope, with_mask):
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[2, 2], num_classes=80, with_mask=with_mask)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 19, (1, 64, 64)))) for _ in range(2)]
    for sample in samples:
        sample.set_metainfo(dict(ori_shape=(64, 64), img_shape=(64, 64), pad_shape=(64, 64)))
    return dict(inputs=[torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


def test_every_block_and_table_is_looked_at():
    assert len(SCRIPTS) == 6 and len(CONFIGS) == 8 and len(COMMANDS) == 1 and len(TABLES) == 8
    assert TEXT.count('\n```') == 2 * (len(FOUND) - len(TABLES))
    with pytest.raises(ValueError, match="kind 'console'"):
        pieces('```console\n$ ls\n```\n')
    for piece, following in zip(FOUND, [*FOUND[1:], None]):
        expected = {'script': 'text', 'config': 'table'}.get(piece.kind)
        assert expected is None or following.kind == expected, piece
        assert (piece.kind == 'table') == bool(HEADER.match(piece.body)), piece


@pytest.mark.slow
@each(SCRIPTS)
def test_script_prints_what_stands_below(piece):
    assert ran(piece)[0] == FOUND[FOUND.index(piece) + 1].body


@pytest.mark.slow
def test_unet_of_the_page_learns():
    (space,) = [ran(script)[1] for script in SCRIPTS if 'class UNet' in script.body]
    torch.manual_seed(0)
    net = space['UNet'](space['gnconv_block'])
    images = torch.randn(2, 3, 24, 24)
    truth = (images.mean(1) > 0).long()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        losses.append(nn.functional.cross_entropy(net(images), truth))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert not [name for name, p in net.named_parameters() if not p.grad.any()]


@pytest.mark.slow
@each(TABLES)
def test_table_is_counted_anew(piece, request):
    assert counted(piece, folder_for(before(piece, 'config').body, request)) == piece.body


TRAINED = {f'line {table.line}, {label}': source for table in TABLES for label, source in sources(table) if label != STOCK}


@pytest.mark.slow
@pytest.mark.parametrize('name', TRAINED)
def test_config_trains(name, request):
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import DefaultScope

    model, scope = trainable(TRAINED[name], folder_for(TRAINED[name], request))
    gated = {f'{at}.{own}': p for at, m in model.named_modules() if isinstance(m, GnConv) for own, p in m.named_parameters()}
    before = {name: p.detach().clone() for name, p in gated.items()}
    model.requires_grad_(False)  # the rest would only take time
    for p in gated.values():
        p.requires_grad_(True)
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1e-3)))
    with DefaultScope.overwrite_default_scope(scope):
        losses = model.train_step(batch(scope, hasattr(model, 'roi_head')), wrapper)
    assert losses and all(torch.isfinite(value).all() for value in losses.values())
    assert gated and not [name for name, p in gated.items() if torch.equal(p, before[name])]


def test_commands_write_what_configs_are_based_on(commanded, folder):
    written = {name for config in CONFIGS for name in re.findall(r"'\./(\S+)'", config.body)}
    assert written and all((folder / name).stat().st_size > 0 for name in written)


def test_the_counting_command_prints_the_numbers_of_the_tables(folder, monkeypatch, capsys):
    command = re.search(r'`python tools/get_flops\.py (my_config\.py .*?)`', TEXT)[1].split()
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setenv('COLUMNS', '160')
    monkeypatch.chdir(folder)
    cost_of.cache_clear()
    report, _ = cost_of(CONFIGS[0].body, folder)
    importlib.import_module('get_flops').main(command)
    printed = [cell.strip() for cell in re.split('[│┃]', capsys.readouterr().out)]
    assert f'{report.macs.total / 1e9:.2f} G' in printed and f'{report.modules["neck"].macs.conv_matmul / 1e9:.2f} G' in printed


@pytest.mark.slow
def test_a_wrong_number_is_noticed(request):
    table, script = TABLES[0], SCRIPTS[1]
    wrong = re.sub(r'\d(?=M \|)', lambda digit: str((int(digit[0]) + 1) % 10), table.body, count=1)
    assert wrong != table.body and counted(table, folder_for(before(table, 'config').body, request)) != wrong
    changed = Piece('script', script.body.replace('(512, 256)', '(512, 128)'), script.line)
    assert ran(changed)[0] != ran(script)[0]


def test_prose_states_no_measurement():
    """Decimals, percentages and counts in M or G stand in tables and outputs, where they are checked."""
    prose = re.sub(r'`[^`\n]*`', '', re.sub(r'\]\([^)]*\)', ']', FENCE_OR_TABLE.sub('', TEXT)))
    assert len(prose) > 3000
    assert not re.findall(r'\d[.,]\d|\d ?%|\d+ ?[kMG]\b', prose)


def test_what_initializes_the_decoders():
    from mmengine.registry import MODELS, DefaultScope

    head = dict(in_channels=[16, 32], num_classes=5, in_index=[0, 1], channels=16)
    kinds = {
        'GnFPN': ('mmdet', dict(in_channels=[16, 32], out_channels=16, num_outs=2)),
        'GnUPerHead': ('mmseg', head),
        'GnFPNHead': ('mmseg', dict(head, feature_strides=[4, 8])),
    }
    drawn = {}
    for kind, (scope, args) in kinds.items():
        with DefaultScope.overwrite_default_scope(scope):
            decoder = MODELS.build(dict(type=f'mmfreq.{kind}', **args))
            inside = [
                conv for m in decoder.modules() if isinstance(m, GnConv) for conv in m.modules() if isinstance(conv, nn.Conv2d)
            ]
            before = [conv.weight.detach().clone() for conv in inside]
            decoder.init_weights()
        drawn[kind] = {decoder.init_cfg['type'] for conv, old in zip(inside, before) if not torch.equal(conv.weight, old)}
        assert inside
    assert drawn == {'GnFPN': {'Xavier'}, 'GnUPerHead': set(), 'GnFPNHead': set()}


def test_published_settings_are_those_that_the_page_tells():
    """Orders 2 to 5 in the backbone; order 2, kernel 7 or grid 32 in the decoders; clipping with UPerNet's filter alone."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    with torch.device('meta'):
        stages = mmfreq.build_backbone('hornet-small-7x7').stages
    assert [len(stage[0].gnconv.dims) for stage in stages] == [2, 3, 4, 5]
    linked = re.findall(r'\]\(\.\./(configs/[^)]+)\)', TEXT)
    assert len(linked) == 4
    for path in linked:
        cfg = Config.fromfile(ROOT / path)
        part = cfg.model.neck if 'mask-rcnn' in path else cfg.model.decode_head
        kind = dict(grid=32) if 'horfpn-gf' in path else dict(kernel_size=7)
        assert part.gnconv_cfg == dict(order=2, proj_out=True, **kind), path
        assert bool(cfg.optim_wrapper.get('clip_grad')) == ('horfpn-gf-upernet' in path), path
    for head in ('RetinaHead', 'RPNHead'):
        assert inspect.signature(MODELS.get(head).__init__).parameters['init_cfg'].default['std'] == 0.01


def test_names_on_the_page_exist():
    from mmfreq.registry import MODELS

    for name in set(re.findall(r'mmfreq\.(Gn\w+|RPNHead)', TEXT)):
        assert MODELS.get(name), name
    paths = set(re.findall(r'\]\((\.\./[^)#]+)', TEXT)) | {f'../{path}' for path in re.findall(r'\b(?:tools|tests)/\w+\.py', TEXT)}
    assert len(paths) >= 9 and not [path for path in paths if not (PAGE.parent / path).exists()]
    anchors = {re.sub(r'[^\w -]', '', title).lower().replace(' ', '-') for title in re.findall(r'^##? (.*)', TEXT, re.MULTILINE)}
    links = set(re.findall(r'\]\(#([^)]+)\)', TEXT))
    assert links and links <= anchors


def test_modules_that_are_said_to_take_a_conv_cfg_do():
    from mmdet.utils import register_all_modules as register_mmdet
    from mmengine.registry import MODELS
    from mmseg.utils import register_all_modules as register_mmseg

    register_mmdet(init_default_scope=False)
    register_mmseg(init_default_scope=False)
    said = re.findall(r'`([\w.]+)`', re.search(r'Tested with this `conv_cfg`: (.*?)\.\s', TEXT, re.DOTALL)[1])
    assert len(said) >= 10
    for name in said:
        kinds = [MODELS.get(name)] if '.' in name else [MODELS.get(f'{library}.{name}') for library in ('mmseg', 'mmdet')]
        kinds = [kind for kind in kinds if kind is not None]
        assert kinds, name
        for kind in kinds:
            assert any('conv_cfg' in inspect.signature(cls.__init__).parameters for cls in kind.__mro__), kind


def fresh_page():
    """The page with measured outputs and tables."""
    with tempfile.TemporaryDirectory() as folder:
        run_commands(folder)
        text = TEXT
        for piece in reversed(FOUND):
            if piece.kind == 'text':
                new = ran(before(piece, 'script'))[0]
            elif piece.kind == 'table':
                new = counted(piece, Path(folder))
            else:
                continue
            lines = text.splitlines(keepends=True)
            start = piece.line if piece.kind == 'text' else piece.line - 1
            lines[start : start + piece.body.count('\n')] = [new]
            text = ''.join(lines)
    return text


if __name__ == '__main__':
    PAGE.write_text(fresh_page(), encoding='utf-8')
