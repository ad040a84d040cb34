"""Which local file a source is: the folder MMFREQ_WEIGHTS, the cache, then the URLs. One process downloads; faults are named."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import mmfreq
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.weights import files, hub
from mmfreq.weights.download import DownloadError
from mmfreq.weights.files import ZOO, Weights, find_weights
from mmfreq.weights.store import MissingWeightsError, local_file, unavailable, wanted
from tests.weights.loopback import PAGE, Resource, saved, serving, sha256

WEIGHTS = saved({'state_dict': {'weight': torch.arange(1000.0)}})
NAME = 'mmfreq://hornet-tiny-gf/in1k-dense'
LINK = '/f/5/?dl=1'  # a shared link, which has no file name


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server; torch.hub's folder is temporary, `server.cache`; no URL of a published file is asked."""
    for name in ('http_proxy', 'https_proxy', 'all_proxy', 'MMFREQ_OFFLINE', 'MMFREQ_WEIGHTS', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    with serving() as made:
        made.cache = tmp_path / 'torch' / 'hub' / 'checkpoints'
        made.files['/w.pth'] = made.files[LINK] = Resource(WEIGHTS)
        yield made


@pytest.fixture
def publish(server, monkeypatch):
    """Gives the published file `NAME` other fields: url and mirrors are paths of the server."""

    def change(url=LINK, mirrors=(), **fields):
        changed = replace(
            find_weights(NAME.removeprefix('mmfreq://')), url=server.url(url), mirrors=tuple(map(server.url, mirrors)), **fields
        )
        zoo = tuple(changed if (each.arch, each.tag) == (changed.arch, changed.tag) else each for each in ZOO)
        monkeypatch.setattr(files, 'ZOO', zoo)
        return changed

    return change


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != '.lock') if folder.is_dir() else []


def full(server):
    """The requests that were no probes."""
    return [path for path, asked in server.requests if not asked or asked.endswith('-')]


def test_names():
    assert find_weights('hornet-tiny-gf').tag == 'in1k-dense' and find_weights('hornet_large_gf').tag == 'in22k-dense'
    assert find_weights('gfnet-h-ti').tag == 'in1k' and find_weights('dfformer-s18/in1k').url.endswith('/dfformer_s18.pth')
    assert find_weights('hornet-tiny-7x7/in1k-openmmlab').sha256_prefix == '0e8eedff'
    with pytest.raises(CheckpointError, match=r"'hornet-tiny-fg' are published; nearest: hornet-tiny-gf"):
        find_weights('hornet-tiny-fg')
    with pytest.raises(CheckpointError, match=r"'in22k' of hornet-tiny-gf.* tags in1k, in1k-dense, ade20k, coco"):
        find_weights('hornet-tiny-gf/in22k')
    assert len({each.name for each in ZOO}) == len(ZOO)
    assert all(find_weights(each.name.removeprefix('mmfreq://')) is each for each in ZOO)


def test_every_published_file_has_its_own_file_name():
    found = [wanted(each.name).filename for each in ZOO]
    assert len(set(found)) == len(found) > 50
    assert wanted('mmfreq://dfformer-s18').filename == 'dfformer_s18.pth'
    assert wanted(NAME).filename == 'hornet-tiny-gf_in1k-dense.pth'
    assert wanted(find_weights('hornet-tiny-gf').url) == wanted(NAME)  # a published file by its URL


def test_paths_and_other_schemes_stay_as_they_are(tmp_path):
    for given in ('weights.pth', tmp_path / 'a', 's3://bucket/a.pth', 'torchvision://resnet50'):
        assert local_file(given) is given


def test_a_published_folder_is_the_file_in_it(tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(b'x')
    assert local_file(tmp_path) == local_file(str(tmp_path)) == tmp_path / 'model.safetensors'


def test_the_folder_comes_first_then_the_cache_then_the_url(server, publish, tmp_path, monkeypatch):
    publish()
    assert local_file(NAME) == server.cache / 'hornet-tiny-gf_in1k-dense.pth'
    assert full(server) == [LINK] and local_file(NAME).read_bytes() == WEIGHTS and full(server) == [LINK]
    folder = tmp_path / 'given'
    folder.mkdir()
    monkeypatch.setenv('MMFREQ_WEIGHTS', str(folder))
    assert local_file(NAME) == server.cache / 'hornet-tiny-gf_in1k-dense.pth'
    given = folder / 'hornet-tiny-gf_in1k-dense.safetensors'
    given.write_bytes(WEIGHTS)
    assert local_file(NAME) == given
    given.write_bytes(PAGE)
    with pytest.raises(DownloadError, match=r'in1k-dense\.safetensors cannot be used.*HTML'):
        local_file(NAME)
    monkeypatch.setenv('MMFREQ_WEIGHTS', str(tmp_path / 'none'))
    with pytest.raises(MissingWeightsError, match='none is not a folder'):
        local_file(NAME)


def test_a_url_has_the_name_of_torch_hub(server):
    path = local_file(server.url('/w.pth'))
    assert path == server.cache / 'w.pth' and names(server.cache) == ['w.pth', 'w.pth.json']
    assert torch.hub.load_state_dict_from_url(server.url('/w.pth'), weights_only=True)['state_dict']['weight'].sum() == 499500
    assert full(server) == ['/w.pth']


def test_the_first_mirror_that_answers_is_used(server, publish):
    publish('/gone/?dl=1', mirrors=('/page/', LINK))
    server.files['/page/'] = Resource(PAGE)
    assert local_file(NAME).read_bytes() == WEIGHTS and full(server) == [LINK]
    noted = json.loads((server.cache / 'hornet-tiny-gf_in1k-dense.pth.json').read_text())
    assert noted['url'] == server.url(LINK) and noted['sha256'] == sha256(WEIGHTS)


def test_nothing_answers(server, publish):
    published = publish('/gone/?dl=1', mirrors=('/page/',))
    server.files['/page/'] = Resource(PAGE)
    with pytest.raises(MissingWeightsError) as error:
        local_file(NAME)
    for part in (
        NAME,
        '404',
        'page of HTML',
        published.pages[0],
        'name it hornet-tiny-gf_in1k-dense.pth',
        'MMFREQ_WEIGHTS',
        str(server.cache),
    ):
        assert part in str(error.value)
    assert names(server.cache) == [] and not server.cache.exists()
    assert unavailable([NAME]) == str(error.value)


def test_a_file_without_a_url_is_by_hand(server):
    with pytest.raises(
        MissingWeightsError, match=r'(?s)mmfreq://affnet/in1k are not on this machine\..*by hand from https://github.com/microsoft'
    ):
        local_file('mmfreq://affnet')
    assert not server.requests


def test_offline(server, publish, monkeypatch):
    publish()
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    with pytest.raises(MissingWeightsError, match='MMFREQ_OFFLINE forbids connections'):
        local_file(NAME)
    monkeypatch.delenv('MMFREQ_OFFLINE')
    path = local_file(NAME)
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    assert local_file(NAME) == path and len(full(server)) == 1


@pytest.mark.parametrize('field', ['sha256', 'sha256_prefix'])
def test_a_file_with_another_sha256_than_published_is_not_kept(server, publish, field):
    expected = '0' * (64 if field == 'sha256' else 8)
    publish(**{field: expected})
    with pytest.raises(MissingWeightsError, match=f'Expected the sha256 {expected}.* as published.*{sha256(WEIGHTS)}'):
        local_file(NAME)
    assert [name for name in names(server.cache) if not name.endswith('.failed')] == []


def test_the_sha256_of_the_first_download_is_remembered(server, publish):
    publish()
    path = local_file(NAME)
    path.unlink()
    server.files[LINK] = Resource(saved({'state_dict': {'weight': torch.zeros(7)}}))
    with pytest.raises(MissingWeightsError, match=rf'{sha256(WEIGHTS)} as at the first download.*delete .*dense\.pth\.json'):
        local_file(NAME)
    assert not path.exists()
    (server.cache / f'{path.name}.json').unlink()
    assert read_checkpoint(local_file(NAME))['state_dict']['weight'].shape == (7,)


def test_a_cached_file_that_changed_is_refused(server, publish):
    publish()
    path = local_file(NAME)
    path.write_bytes(b'changed by the user')
    with pytest.raises(DownloadError, match=f'(?s){sha256(WEIGHTS)}.*Move it away'):
        local_file(NAME)
    assert path.read_bytes() == b'changed by the user'


def test_a_cached_file_of_another_program_is_verified(server, publish):
    publish(sha256_prefix=sha256(WEIGHTS)[:8])
    server.cache.mkdir(parents=True)
    path = server.cache / 'hornet-tiny-gf_in1k-dense.pth'
    path.write_bytes(WEIGHTS[:-100])
    with pytest.raises(DownloadError, match='Expected the sha256'):
        local_file(NAME)
    path.write_bytes(WEIGHTS)
    assert local_file(NAME) == path and not full(server)


@pytest.mark.parametrize(
    'data',
    [b'\x80\x02c' + b'posix\nsystem\n.', WEIGHTS[: len(WEIGHTS) // 2], WEIGHTS[:2000] + b'\xff' + WEIGHTS[2001:]],
    ids=['code', 'cut', 'damage'],
)
def test_what_is_not_a_checkpoint_is_not_kept(server, data):
    server.files['/w.pth'] = Resource(data)
    with pytest.raises(DownloadError, match='was not kept: it is not a checkpoint'):
        local_file(server.url('/w.pth'))
    assert [name for name in names(server.cache) if not name.endswith('.failed')] == []
    server.files['/w.pth'] = Resource(WEIGHTS, etag='"v2"')
    assert local_file(server.url('/w.pth')).read_bytes() == WEIGHTS


def test_two_urls_with_the_same_file_name(server):
    """As of every repository's `resolve/main/pytorch_model.bin`."""
    other = saved({'state_dict': {'weight': torch.zeros(1000)}})
    server.files['/alice/model.pth'], server.files['/bob/model.pth'] = Resource(WEIGHTS), Resource(other)
    for _ in range(2):
        assert local_file(server.url('/alice/model.pth')).read_bytes() == WEIGHTS
        assert local_file(server.url('/bob/model.pth')).read_bytes() == other
    assert full(server) == ['/alice/model.pth', '/bob/model.pth']


def test_mmengines_loader_of_urls_is_the_same(server, monkeypatch):
    from mmengine.runner import CheckpointLoader

    assert set(CheckpointLoader.load_checkpoint(server.url(LINK))) == {'state_dict'}
    server.files['/page.pth'] = Resource(PAGE)
    with pytest.raises(MissingWeightsError, match='a page of HTML instead of the file'):
        CheckpointLoader.load_checkpoint(server.url('/page.pth'))
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    count = len(server.requests)
    with pytest.raises(MissingWeightsError, match='MMFREQ_OFFLINE forbids connections'):
        CheckpointLoader.load_checkpoint(server.url('/w.pth'))
    assert len(server.requests) == count


def test_a_message_names_a_url_once(server):
    server.files['/page.pth'] = Resource(PAGE)
    with pytest.raises(MissingWeightsError) as error:
        local_file(server.url('/page.pth'))
    lines = str(error.value).splitlines()
    assert lines[1].count('http') == 1 and '..' not in lines[1]


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / 'torch').write_text('a file where the folder should be')
    with pytest.raises(DownloadError, match=r'w\.pth cannot be saved in .*Set TORCH_HOME'):
        local_file(server.url('/w.pth'))


FETCH = """
import os, sys
from mmfreq.weights.store import local_file
for rank in range(int(sys.argv[2])):
    if os.fork() == 0:
        os.environ['LOCAL_RANK'] = str(rank)
        try:
            text = str(local_file(sys.argv[1]))
        except Exception as error:
            text = f'{type(error).__name__}: {error}'.partition(chr(10))[0]
        os.write(1, text.encode() + bytes([10]))  # one write, as other processes print, too
        os._exit(0)
for _ in range(int(sys.argv[2])):
    os.wait()
"""


def start(url, server, processes):
    """A process that imports mmfreq and then forks; each process prints the path of its file, or its error."""
    environment = {**os.environ, 'TORCH_HOME': str(server.cache.parents[1])}
    command = [sys.executable, '-c', FETCH, url, str(processes)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
def test_of_several_processes_one_downloads(server):
    process = start(server.url('/w.pth'), server, processes=4)
    assert process.communicate(timeout=120)[0].splitlines() == [str(server.cache / 'w.pth')] * 4
    assert full(server) == ['/w.pth']


@pytest.mark.slow
def test_the_others_learn_of_a_failure(server):
    server.files['/w.pth'] = Resource(WEIGHTS[:-50])
    begun = time.monotonic()
    process = start(server.url('/w.pth'), server, processes=4)
    lines = process.communicate(timeout=120)[0].splitlines()
    assert len(lines) == 4 and all('Error' in line for line in lines)
    assert full(server) == ['/w.pth'] and time.monotonic() - begun < 60


@pytest.mark.slow
def test_a_killed_download_is_continued(server):
    data = saved({'state_dict': {'weight': torch.arange(300_000.0)}})
    server.files['/w.pth'] = Resource(data, breaks=len(data) // 2, stalls=True)
    process = start(server.url('/w.pth'), server, processes=1)
    try:
        deadline = time.monotonic() + 60
        while not any(name.endswith('.download') for name in names(server.cache)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert 'w.pth' not in names(server.cache)
    server.release.set()
    server.files['/w.pth'] = Resource(data)
    assert local_file(server.url('/w.pth')).read_bytes() == data
    assert int(server.requests[-1][1].removeprefix('bytes=').removesuffix('-')) > 0
    assert not any(name.endswith('.download') for name in names(server.cache))


def test_load_weights_init_cfg_and_mmengine_take_a_url_and_a_name(server, monkeypatch):
    model = mmfreq.build_backbone('hornet-micro')
    server.files['/micro.pth'] = Resource(saved(model.state_dict()))
    url = server.url('/micro.pth')
    added = Weights('hornet-micro', 'pretraining-1k', url, 'https://github.com/of/it', 'MIT')
    monkeypatch.setattr(files, 'ZOO', (*ZOO, added))
    assert mmfreq.load_weights(mmfreq.build_backbone('hornet-micro'), url).source == url
    built = [mmfreq.build_backbone('hornet-micro', pretrained=value) for value in (True, 'in1k-dense', 'mmfreq://hornet-micro')]
    for source in (url, 'mmfreq://hornet-micro', 'mmfreq://hornet_micro/in1k-dense'):
        built.append(mmfreq.build_backbone('hornet-micro', init_cfg=dict(type='Pretrained', checkpoint=source)))
        built[-1].init_weights()
    for other in built:
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    from mmengine.runner import CheckpointLoader

    assert CheckpointLoader.load_checkpoint('mmfreq://hornet-micro').keys() == model.state_dict().keys()
    assert len(full(server)) == 1


def test_a_hub_that_does_not_answer_is_found_out_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr('huggingface_hub.file_download.constants.ENDPOINT', 'http://127.0.0.1:9')
    message = unavailable(['hf-hub:me/hornet@v2'], seconds=1.0)
    assert (
        'hf-hub:me/hornet@v2 is not on this machine, and the Hub does not answer' in message and '/me/hornet/resolve/v2/' in message
    )
    (tmp_path / 'models--me--hornet/snapshots/c0ffee').mkdir(parents=True)
    (tmp_path / 'models--me--hornet/snapshots/c0ffee/model.safetensors').write_bytes(WEIGHTS)
    assert unavailable(['hf-hub:me/hornet@c0ffee'], seconds=1.0) == ''
    with serving() as server:  # it answers, if only that the file is not there
        monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', server.url(''))
        monkeypatch.setattr(
            'huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE', server.url('/{repo_id}/resolve/{revision}/{filename}')
        )
        assert unavailable(['hf-hub:me/hornet@v2'], seconds=1.0) == ''


def test_hub_files(monkeypatch, tmp_path):
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    class MissingEntry(EntryNotFoundError):
        def __init__(self, message):  # the real one needs an answer of the server
            Exception.__init__(self, message)

    asked = []

    def hf_hub_download(repository, name, revision=None, local_files_only=False):
        asked.append((repository, name, revision, local_files_only))
        if name != 'pytorch_model.bin':
            raise LocalEntryNotFoundError('404') if local_files_only else MissingEntry('404')
        path = tmp_path / 'snapshots' / 'c0ffee' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WEIGHTS)
        return str(path)

    logged = []
    monkeypatch.setattr('huggingface_hub.hf_hub_download', hf_hub_download)
    monkeypatch.setattr(hub, 'print_log', lambda message, **_: logged.append(message))
    assert local_file('hf-hub:me/hornet@v2').read_bytes() == WEIGHTS
    assert asked[0] == ('me/hornet', 'model.safetensors', 'v2', False) and 'commit c0ffee' in logged[0]
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    local_file('hf-hub:me/hornet')
    assert asked[-1] == ('me/hornet', 'pytorch_model.bin', None, True)
    with pytest.raises(MissingWeightsError, match=r'Expected hf-hub:OWNER/NAME'):
        local_file('hf-hub:nonsense')
