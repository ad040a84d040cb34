"""The metafiles have one row for each config, are canonical, and agree with the configs, the published files and the counts."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

import mmfreq
from mmfreq.analysis.flops import build_for_counting, count
from mmfreq.models._factory import FAMILIES
from mmfreq.weights import files as published_files
from mmfreq.zoo.page import FIELDS, Agreement, agreements, index_text, is_own, measure, pages
from mmfreq.zoo.recipes import Difference, audit
from mmfreq.zoo.rows import load_rows, metafile_text, metafiles, read_metafile
from tests.configs.reading import check_each, configs_parsed_once, read_config

ROOT = Path(mmfreq.__file__).parents[1]
ROWS = load_rows(ROOT)
LEAFS = sorted(path for task in ('cls', 'seg', 'det') for path in (ROOT / 'configs' / task).glob('*/*.py'))
# counted again in the fast tests
QUICK = ('gfnet-h-ti_8xb128-300e_in1k', 'hornet-micro_upernet_1xb8-400_toy-128x128', 'affnet-et_ssdlite_8xb16-200e_coco-320x320')
TASKS_AND_FAMILIES = sorted({(row.task, row.family) for row in ROWS})
NOT_COUNTED = ('data_preprocessor', 'drop_path_rate', 'init_cfg', 'test_cfg', 'train_cfg', 'with_cp')  # keys of a model's config
TASKS = {
    'cls': {'imagenet-1k': {'top1': 'Top 1 Accuracy', 'top5': 'Top 5 Accuracy'}},
    'seg': {'ade20k': {'miou': 'mIoU', 'miou_ms': 'mIoU(ms+flip)'}, 'voc': {'miou': 'mIoU'}},
    'det': {'coco': {'box_ap': 'box AP', 'mask_ap': 'mask AP'}},
}
DATASETS = {'imagenet-1k': 'ImageNet-1k', 'ade20k': 'ADE20K', 'voc': 'VOC 2012 + SBD', 'coco': 'COCO'}


@pytest.fixture(autouse=True)
def parsed_once():
    with configs_parsed_once():
        yield


def check_each_row(check, rows=ROWS):
    check_each(rows, check, label=lambda row: row.name)


def test_every_config_has_one_row():
    assert sorted(row.config for row in ROWS) == LEAFS
    assert [row.name for row in ROWS] == [row.config.stem for row in ROWS] and len({row.name for row in ROWS}) == len(ROWS)
    assert {row.family for row in ROWS} == set(FAMILIES)


def test_number_of_published_rows():
    """As many as in the papers' tables and the authors' configs."""
    published = [row for row in ROWS if not is_own(row)]
    patterns = ['hornet.*upernet.*ade20k', 'hornet.*cascade', 'hornet-small-7x7_mask-rcnn', 'gfnet-h.*_fpn_', 'dfformer.*_fpn_']
    patterns += ['dfformer.*_retinanet_', 'affnet.*_deeplabv3_.*ade20k', 'affnet.*_deeplabv3_.*voc', 'affnet.*_ssdlite_']
    assert [sum(bool(re.search(pattern, row.name)) for row in published) for pattern in patterns] == [10, 8, 3, 3, 6, 6, 3, 3, 3]


def test_metafiles_are_canonical():
    check_each(metafiles(ROOT), check_metafile, label=str)


def check_metafile(path):
    contents = read_metafile(path)
    assert path.read_text(encoding='utf-8') == metafile_text(contents)
    (collection,) = contents['Collections']
    assert {model['In Collection'] for model in contents['Models']} == {collection['Name']}
    assert (ROOT / collection['README']).is_file()


def test_the_index_lists_every_metafile():
    text = (ROOT / 'model-index.yml').read_text(encoding='utf-8')
    assert text == index_text(ROOT)
    imported = [ROOT / path for path in yaml.safe_load(text)['Import']]
    assert imported == metafiles(ROOT) and set(imported) == set((ROOT / 'configs').rglob('metafile.yml'))
    assert len(imported) == 3 * len(FAMILIES)


@pytest.mark.parametrize('name', ['model_zoo.md', 'model-index.yml', 'README.md'])
def test_the_pages_are_up_to_date(name):
    assert (ROOT / name).read_text(encoding='utf-8') == pages(ROOT, ROWS)[name]


@pytest.mark.slow
def test_configs_follow_the_recorded_recipes():
    check_each_row(check_recipe)


def check_recipe(row):
    assert audit(row).differences == ()


def test_a_wrong_recipe_is_found():
    row = next(row for row in ROWS if row.name.startswith('hornet-tiny-gf_upernet_8xb2-160k'))
    entry = {**row.entry, 'Recipe': {**row.entry['Recipe'], 'lr': 6e-5, 'teacher': 'none'}}
    del entry['Recipe']['batch']
    found = audit(type(row)(entry, row.task, row.root))
    assert not found.agrees and found.compared == (16, 0)
    assert set(found.differences) == {
        Difference('lr', 1e-4, 6e-5),
        Difference('teacher', 'missing', 'none'),
        Difference('batch', 16, 'missing'),
    }


def test_own_choices_are_marked():
    check_each_row(check_own_choices)


def check_own_choices(row):
    assert set(row.own_choices) <= set(row.recipe) and row.published['Source']
    if is_own(row):
        assert row.own_choices == list(row.recipe) and not row.metrics and not row.weights
    else:
        assert row.metrics or row.published.get('Note'), 'the note must explain why no metric is given'
    words = row.config.read_text(encoding='utf-8').lower()
    assert not row.own_choices or re.search(r'\bour\b|choice|not published|unknown|neither the recipe', words), (
        'the config must mark what no source gives'
    )


def test_metrics_and_weights_agree_with_the_list_of_files():
    check_each_row(check_metrics_and_weights)


def check_metrics_and_weights(row):
    known = [
        (each, names)
        for task, names in TASKS[row.task].items()
        for each in published_files.list_weights(row.arch, task)
        if DATASETS[task] == row.dataset and 'mmpretrain' not in each.repository
    ]
    if row.metrics and not second_hand(row):
        ((each, names),) = known
        assert row.metrics == {names[name]: value for name, value in each.metrics.items()}
    if row.weights:
        assert row.weights in {each.url for each, _ in known}
    linked = {each.url for each, _ in known if each.url != published_files.UNKNOWN}
    assert bool(row.weights) == bool(linked and (row.metrics or (row.task, row.family) == ('cls', 'dfformer')))


def second_hand(row):
    """Whether the numbers have no file, and so are not in the list of files."""
    text = row.published['Source'] + row.published.get('Note', '')
    return 'second-hand' in text or 'recalled' in text


def test_published_numbers_are_in_the_config_header():
    check_each_row(check_head_of_config)


def check_head_of_config(row):
    head = row.config.read_text(encoding='utf-8').partition('_base_')[0]
    assert [value for value in row.metrics.values() if f'{value:.1f}' not in head] == []


def test_counts_agree_with_published_numbers_or_are_explained():
    check_each_row(check_agreement)


def check_agreement(row):
    assert all(field in row.entry['Metadata'] for field in FIELDS)
    assert all(each.holds for each in agreements(row)) or row.published['Note']


def test_mim_can_read_the_metadata():
    check_each_row(check_for_mim)


def check_for_mim(row):
    """`mim search` joins lists as strings, and reads the last word in brackets of a title as a unit."""
    for key, value in row.entry['Metadata'].items():
        assert isinstance(value, (str, int, float)), key
    assert all({'Task', 'Dataset', 'Metrics'} == set(result) for result in row.entry.get('Results', ()))


def test_published_numbers_that_disagree():
    """These have notes; any other would mean a counting error."""
    off = Counter((row.task, row.family, each.name) for row in ROWS for each in agreements(row) if not each.holds)
    assert off == {
        ('cls', 'affnet', 'Parameters'): 2,
        ('cls', 'gfnet', 'FLOPs'): 3,
        ('cls', 'hornet', 'Parameters'): 3,
        ('seg', 'affnet', 'Parameters'): 2,
        ('seg', 'gfnet', 'Parameters'): 3,
        ('seg', 'gfnet', 'FLOPs'): 3,
        ('det', 'affnet', 'Parameters'): 2,
    }
    assert sum(len(agreements(row)) for row in ROWS) > 70


@pytest.mark.slow
@pytest.mark.parametrize(
    'row', [row for row in ROWS if row.name.startswith('gfnet-h-') and '_fpn_' in row.name], ids=lambda row: row.name
)
def test_note_of_the_gfnet_segmentors_holds(row):
    """The published numbers include a classifier's norm and head, and omit the convolutions between the stages."""
    model, _ = build_for_counting(str(row.config))
    report = count(model, tuple(row.published['Size']))
    width = model.backbone.out_channels[-1]
    norm_and_head = 2 * width + (width + 1) * 1000
    with_head = Agreement('Parameters', row.published['Parameters'], report.params + norm_and_head)
    between = sum(report.modules[f'backbone.patch_embed.{i}'].macs.conv_matmul for i in (1, 2, 3))
    assert with_head.holds and abs(with_head.difference) < 0.002
    assert Agreement('FLOPs', row.published['FLOPs'], report.macs.conv_matmul - between).holds


def counted_alike(rows):
    """Groups of rows whose models and image sizes are equal in all that affects the counts."""

    def counted(node):
        if isinstance(node, dict):
            return {key: counted(value) for key, value in node.items() if key not in NOT_COUNTED}
        return [counted(child) for child in node] if isinstance(node, (list, tuple)) else node

    groups = {}
    for row in rows:
        size = row.published.get('Size', row.entry['Metadata']['Image size'])
        groups.setdefault((repr(counted(read_config(row.config).model.to_dict())), str(size)), []).append(row)
    return list(groups.values())


def measured(row):
    return {field: row.entry['Metadata'][field] for field in FIELDS}


def check_measured(rows):
    """Count the first of the rows again; the others have the same numbers."""
    assert [measured(row) for row in rows] == [measure(rows[0])] * len(rows)


def test_some_rows_counted_again():
    check_each([[row] for row in ROWS if row.name in QUICK], check_measured, label=lambda rows: rows[0].name)


@pytest.mark.slow
@pytest.mark.parametrize(('task', 'family'), TASKS_AND_FAMILIES, ids=map('-'.join, TASKS_AND_FAMILIES))
def test_rows_counted_again(task, family):
    rows = [row for row in ROWS if (row.task, row.family) == (task, family) and row.name not in QUICK]
    check_each(counted_alike(rows), check_measured, label=lambda rows: rows[0].name)


@pytest.mark.slow
def test_configs_name_the_file_of_their_row():
    """`published_checkpoint` of the classification configs; if the file has a head for other classes, the row has no weights."""
    for row in (row for row in ROWS if row.task == 'cls'):
        name = read_config(row.config).get('published_checkpoint')
        file = published_files.find_weights(name.removeprefix('mmfreq://')) if name else None
        assert row.weights == (file.url if file and file.task == 'imagenet-1k' else None), row.name
