"""tools/weights.py: lists the published files, gets one, verifies a folder."""

from dataclasses import replace

import pytest
import torch

import mmfreq
from mmfreq.weights import files
from mmfreq.weights.files import ZOO, Weights, list_weights
from mmfreq.zoo import published
from tests.weights.loopback import Resource, saved, serving


@pytest.fixture
def tool(tool_main, tmp_path, monkeypatch, capsys):
    """`tool(*arguments)`: (exit status, standard output, standard error), in an empty folder and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.delenv('MMFREQ_WEIGHTS', raising=False)

    def call(*arguments):
        try:
            status = tool_main('weights')(list(map(str, arguments)))
        except SystemExit as error:
            status = error.code
        out = capsys.readouterr()
        return status or 0, out.out, out.err

    return call


@pytest.fixture
def micro(monkeypatch):
    """A published file of hornet-micro with a URL of a loopback server, which is yielded with it."""
    with serving() as server:
        model = mmfreq.build_classifier('hornet-micro')
        server.files['/f/1/?dl=1'] = Resource(saved({'model': model.state_dict()}))
        entry = Weights('hornet-micro', 'imagenet-1k', server.url('/f/1/?dl=1'), 'https://github.com/of/it', 'MIT')
        for module in (files, published):
            monkeypatch.setattr(module, 'ZOO', (*ZOO, entry))
        yield entry, server


def test_list_shows_every_file(tool):
    status, printed, _ = tool('list')
    assert status == 0 and f'{len(ZOO)} published files' in printed
    shown = {line.split()[1] for line in printed.splitlines() if '/' in line and line.startswith('│')}
    assert {f'{each.arch}/{each.tag}' for each in ZOO} <= shown
    status, printed, _ = tool('list', 'affnet')
    assert status == 0 and 'by hand' in printed and '79.8' in printed and 'hornet' not in printed
    assert tool('list', '--task', 'in22k-dense')[1].count('hornet-large') == 2
    assert len([line for line in tool('list', 'gfnet')[1].splitlines() if 'gfnet-' in line]) == 7  # a family; URLs are not cut
    status, _, error = tool('list', 'hornet-tinygf')
    assert status == 2 and 'nearest: hornet-tiny-gf' in error
    status, _, error = tool('list', '--task', 'cityscapes')
    assert status == 2 and 'imagenet-1k' in error


def test_get_downloads_once_and_prints_the_path(tool, micro, tmp_path):
    _, server = micro
    status, printed, progress = tool('get', 'hornet-micro/in1k')
    path = tmp_path / 'torch/hub/checkpoints/hornet-micro_in1k.pth'
    assert (status, printed) == (0, f'{path}\n') and 'Downloading mmfreq://hornet-micro/in1k' in progress
    status, printed, _ = tool('get', 'mmfreq://hornet-micro', '--out', 'given')
    assert printed == 'given/hornet-micro_in1k.pth\n' and (tmp_path / printed.strip()).read_bytes() == path.read_bytes()
    assert len([asked for _, asked in server.requests if not asked]) == 1
    assert str(path) in tool('list', 'hornet-micro')[1].replace('\n', '') or 'MiB' in tool('list', 'hornet-micro')[1]


def test_get_of_what_is_not_published(tool):
    status, _, error = tool('get', 'hornet-tiny-fg')
    assert status == 2 and 'nearest: hornet-tiny-gf' in error
    status, _, error = tool('get', 'affnet')
    assert status == 2 and 'affnet_in1k.pth' in error and 'https://github.com/microsoft/TokenMixers' in error


def test_verify(tool, micro, tmp_path, monkeypatch):
    entry, server = micro
    folder = tmp_path / 'weights'
    folder.mkdir()
    data = server.files['/f/1/?dl=1'].data
    (folder / 'hornet-micro_in1k.pth').write_bytes(data)
    (folder / 'mine.pth').write_bytes(data)
    status, printed, _ = tool('verify', folder)
    assert status == 0 and 'fits hornet-micro' in printed and 'not that of a published file' in printed
    torch.save(mmfreq.build_classifier('gfnet-micro').state_dict(), folder / 'hornet-micro_in1k.pth')
    (folder / 'mine.pth').write_bytes(data[:-100])
    status, printed, _ = tool('verify', folder)
    assert status == 1 and 'of them with a fault: 2' in printed and 'GFNet' in printed and 'truncated' in printed
    (folder / 'hornet-micro_in1k.pth').write_bytes(data)
    changed = replace(entry, sha256_prefix='0' * 8)
    for module in (files, published):
        monkeypatch.setattr(module, 'ZOO', (*ZOO, changed))
    assert 'another file: sha256' in tool('verify', folder)[1]
    assert tool('verify', tmp_path / 'none')[0] == 2


def test_the_zoo_page_has_the_name_of_every_file_of_a_row():
    from mmfreq.zoo.page import page_text
    from mmfreq.zoo.rows import load_rows

    rows = load_rows()
    page = page_text(rows)
    for row in rows:
        file = published.published_file(row)
        (line,) = (line for line in page.splitlines() if line.startswith(f'| [{row.name}]('))
        cell = line.rstrip(' |').rpartition('| ')[2]
        assert cell == 'none' if file is None else f'{file.arch}/{file.tag}' in cell, row.name
        if file is not None:
            assert file in list_weights(row.arch) and (file.url in cell if file.urls else 'by hand' in cell)
    linked = [file for row in rows if (file := published.published_file(row))]
    dense = [each for each in ZOO if each.tag in ('ade20k', 'coco', 'voc')]
    assert all(each in linked for each in dense)
