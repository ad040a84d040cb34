"""The list of published files: every arch exists, URLs are well-formed and unique, and the configs use no others."""

import re
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import mmfreq
from mmfreq.weights.files import TASKS, UNKNOWN, ZOO, find_weights, list_weights

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs'
ADDRESS = (
    r'https://(cloud\.tsinghua\.edu\.cn/f/[0-9a-f]{20}/\?dl=1|drive\.google\.com/file/d/[\w-]{33}/view'
    r'|github\.com/[\w-]+/[\w-]+/releases/download/[\w.-]+/[\w.-]+\.pth|download\.openmmlab\.com/[\w./-]+-[0-9a-f]{8}\.pth)'
)
METRICS = {
    'imagenet-1k': {'top1', 'top5'},
    'ade20k': {'miou', 'miou_ms'},
    'coco': {'box_ap', 'mask_ap'},
    'voc': {'miou'},
}


def test_every_published_file_is_listed():
    counts = Counter((each.repository.rpartition('/')[2], each.task) for each in ZOO)
    assert counts == {
        ('HorNet', 'imagenet-1k'): 6,
        ('HorNet', 'imagenet-22k'): 3,
        ('HorNet', 'pretraining-1k'): 6,
        ('HorNet', 'pretraining-22k'): 2,
        ('HorNet', 'ade20k'): 8,
        ('HorNet', 'coco'): 8,
        ('mmpretrain', 'imagenet-1k'): 6,
        ('mmpretrain', 'imagenet-22k'): 3,
        ('GFNet', 'imagenet-1k'): 7,
        ('dfformer', 'imagenet-1k'): 8,
        ('TokenMixers', 'imagenet-1k'): 3,
        ('TokenMixers', 'ade20k'): 3,
        ('TokenMixers', 'voc'): 3,
    }


def test_every_arch_and_task_exists():
    assert {each.arch for each in ZOO} <= set(mmfreq.list_archs())
    assert {each.task for each in ZOO} == set(TASKS)


def test_urls_are_well_formed_and_unique():
    addresses = [url for each in ZOO for url in (each.url, *each.mirrors)]
    known = [url for url in addresses if url != UNKNOWN]
    assert len(known) == len(set(known)) == 57 + 7
    assert [url for url in known if not re.fullmatch(ADDRESS, url)] == []
    assert addresses.count(UNKNOWN) == 9
    assert {each.repository for each in ZOO if each.url == UNKNOWN} == {'https://github.com/microsoft/TokenMixers'}
    assert all(urlsplit(each.repository).netloc == 'github.com' for each in ZOO)
    assert len({(each.arch, each.task, each.repository) for each in ZOO}) == len(ZOO)


def test_checksums_and_licences_are_stated_or_unknown():
    for each in ZOO:
        assert each.licence and each.weights_licence == UNKNOWN
        assert each.sha256 == UNKNOWN or re.fullmatch('[0-9a-f]{64}', each.sha256)
        in_name = re.search(r'-([0-9a-f]{8})\.pth$', each.url)
        assert each.sha256_prefix == (in_name[1] if in_name else UNKNOWN)


def test_metrics_belong_to_the_task_and_are_percentages():
    for each in ZOO:
        assert set(each.metrics) <= METRICS.get(each.task, set()), each
        assert all(20 < value < 100 for value in each.metrics.values()), each
    assert list_weights('hornet-large-gf', 'ade20k')[0].metrics == {'miou': 55.0, 'miou_ms': 55.2}
    assert all(not each.metrics for each in list_weights(task='pretraining-1k'))
    assert [each.arch for each in list_weights(task='imagenet-1k') if not each.metrics] == [
        arch for arch in mmfreq.list_archs('dfformer') if re.fullmatch('c?dfformer-[smb][13][68]', arch) and arch != 'cdfformer-b36'
    ]


def test_files_of_mmpretrain_match_its_metafile():
    import mmpretrain
    import yaml

    text = (Path(mmpretrain.__file__).parent / '.mim/configs/hornet/metafile.yml').read_text()
    # by file name, which ends with the hash, because OneDL's mmpretrain uses another host
    entries = {Path(each['Weights']).name: each for each in yaml.safe_load(text)['Models']}
    listed = {Path(each.url).name: each for each in ZOO if 'mmpretrain' in each.repository and each.metrics}
    assert listed.keys() == entries.keys() and len(listed) == 6
    for name, each in listed.items():
        scores = entries[name]['Results'][0]['Metrics']
        assert each.metrics == {'top1': scores['Top 1 Accuracy'], 'top5': scores['Top 5 Accuracy']}
        origin = entries[name]['Converted From']['Weights']
        assert [found.arch for found in ZOO if found.url == origin] == [each.arch]


def test_configs_start_from_listed_files_of_their_arch():
    found = 0
    for path in sorted(CONFIGS.rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        for name in re.findall(r"'mmfreq://(.+?)'", text):
            found += 1
            weights = find_weights(name)
            assert '/' in name, f'{path} must name the tag'
            assert f"arch='{weights.arch}'" in text or weights.arch in path.name, path
        assert not re.search(r'https?://', text), f'{path} must name a published file as mmfreq://ARCH/TAG'
    assert found > 60


def test_files_by_arch_and_task():
    assert mmfreq.list_weights is list_weights
    assert list_weights('hornet-tiny-gf', 'in1k') == [find_weights('hornet-tiny-gf/in1k')]
    assert list_weights() == list(ZOO)
    assert [each.task for each in list_weights('gfnet_h_ti')] == ['imagenet-1k']
    assert {each.arch for each in list_weights(task='voc')} == {'affnet-et', 'affnet-t', 'affnet'}
    assert len(list_weights('hornet-tiny-gf', 'imagenet-1k')) == 2
    assert list_weights('hornet-micro') == []
    with pytest.raises(ValueError, match=r"imagenet-1k.*'cityscapes'"):
        list_weights(task='cityscapes')


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        ZOO[0].url = 'elsewhere'
    with pytest.raises(TypeError):
        ZOO[0].metrics['top1'] = 99.0
