"""A trained checkpoint as a folder that is ready to upload: weights, config, timm's config and a model card.

| file | content |
|---|---|
| `model.safetensors` | the weights alone; the names of the classes are in its metadata |
| `config.py` | the resolved config of the run |
| `config.json` | for `timm.create_model('local-dir:FOLDER')` and the Hugging Face Hub |
| `README.md` | the model card: what it is, its scores, data, recipe and license |
"""

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from mmengine.config import Config
from torch import Tensor

from mmfreq.apis.loading import dataset_meta_of
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.errors import UserError
from mmfreq.models._factory import backbone_class, classifier_class
from mmfreq.version import __version__
from mmfreq.weights.convert import fitting_archs, write_checkpoint
from mmfreq.weights.fit import AVERAGED, RAW, choose_entry, fit_content, is_of_mmengine
from mmfreq.weights.in_configs import pretrained_parts
from mmfreq.weights.load import count_not_finite, describe_not_finite, rows_of_head
from mmfreq.weights.store import local_file, sha256_of

WEIGHTS, CONFIG, TIMM_CONFIG, CARD = 'model.safetensors', 'config.py', 'config.json', 'README.md'
HASH_DIGITS = 8
NOT_SCORES = ('step', 'epoch', 'time', 'data_time')  # in a record of a validation
TASKS = {'mmseg': 'image-segmentation', 'mmdet': 'object-detection', 'mmpretrain': 'image-classification'}  # names of the Hub


@dataclass(frozen=True)
class Publication:
    """A model to publish.

    Attributes:
        name: of the folder, without the hash.
        state: the weights.
        meta: names of the classes and their colors.
        cfg: config of the run; None if there is none.
        arch: of the backbone; None if it is not one of mmfreq.
        num_classes: of the classifier's head; 0 for other tasks.
        task: on the Hugging Face Hub.
        metrics: name to value.
        license: identifier, such as 'apache-2.0'.
        averaged: whether the weights are averaged ones (EMA).
    """

    name: str
    state: dict[str, Tensor]
    meta: dict[str, Any]
    cfg: Config | None
    arch: str | None
    num_classes: int
    task: str
    metrics: Mapping[str, float]
    license: str
    averaged: bool


def publish(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    config: str | os.PathLike | None = None,
    name: str | None = None,
    arch: str | None = None,
    ema: bool = False,
    metrics: Mapping[str, float] | None = None,
    license: str = 'other',
) -> Path:
    """Write the folder `OUT/NAME-HASH8`; returns its path.

    Args:
        checkpoint: a source as in `load_weights`: of a training run, or published.
        out: the folder to write into.
        config: config file; by default the one that mmengine notes in the checkpoint.
        name: by default that of the config, or else of the arch.
        arch: of the backbone; by default that of the config, or the only arch whose shapes fit.
        ema: publish the averaged weights that are stored beside the raw ones. Of a run with mmengine's EMAHook, they are
            published in any case: it validates with them.
        metrics: name to value, for the card; added to those of the validation at this checkpoint, from the logs beside it.
        license: identifier for the card.

    Raises:
        UserError: the folder exists already, an invalid name, no such config, `ema` without averaged weights, or an unknown arch.
        CheckpointError: the file cannot be read, does not fit the arch, or has NaN or infinite values.
    """
    content = read_checkpoint(local_file(checkpoint))
    publication = describe(content, checkpoint, config, name, arch, ema, metrics or {}, license)
    if invalid := count_not_finite(publication.state):
        raise CheckpointError(f'{checkpoint}: {describe_not_finite(invalid)}. Give an earlier checkpoint.')
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{out} cannot be created as a folder to write into: {error.strerror}.') from error
    with tempfile.TemporaryDirectory(dir=out, prefix='.publish-') as temporary:
        folder = Path(temporary) / publication.name
        folder.mkdir()
        meta = {'dataset_meta': publication.meta} if publication.meta else {}
        write_checkpoint({'meta': meta, 'state_dict': publication.state}, folder / WEIGHTS)
        target = out / f'{publication.name}-{sha256_of(folder / WEIGHTS)[:HASH_DIGITS]}'
        if target.exists():
            raise UserError(f'{target} exists. Remove it, or give another folder.')
        if publication.cfg is not None:
            (folder / CONFIG).write_text(publication.cfg.pretty_text, encoding='utf-8')
        if publication.arch:
            (folder / TIMM_CONFIG).write_text(json.dumps(timm_config(publication), indent=2), encoding='utf-8')
        (folder / CARD).write_text(model_card(publication, target.name), encoding='utf-8')
        os.replace(folder, target)
    return target


def describe(content, checkpoint, config, name, arch, ema, metrics, license) -> Publication:
    """Everything that the files are written from; arguments and errors as in `publish`."""
    cfg = config_of(content, config)
    state, averaged = chosen_weights(content, ema)
    backbone = (cfg.model.get('backbone') or cfg.model) if cfg is not None else {}
    is_own = str(backbone.get('type')).startswith('mmfreq.')  # stock backbones have an `arch`, too
    noted = backbone.get('arch') if is_own and isinstance(backbone.get('arch'), str) else None
    arch = (arch or noted or found_arch(state) or '').replace('_', '-') or None
    if arch:
        check_arch(arch, state, backbone, str(checkpoint))
    name = name or (Path(config).stem if config else noted_name(content)) or arch
    if not name:
        raise UserError('Expected a config or an arch of mmfreq to name the folder after, found neither. Give --name NAME.')
    if not re.fullmatch(r'\w[\w.+-]*', name):
        raise UserError(f"Expected a name of letters, digits and '_.+-' for the folder, got '{name}'. Give another --name.")
    meta = dataset_meta_of(content.get('meta') or {}) if isinstance(content.get('meta'), Mapping) else {}
    meta = {key: value for key, value in meta.items() if key in ('classes', 'palette')}
    scope = cfg.get('default_scope') if cfg is not None else 'mmpretrain'
    rows = head_rows(arch, state) if arch else 0
    task = TASKS.get(scope, 'image-feature-extraction') if rows or scope != 'mmpretrain' else 'image-feature-extraction'
    scores = {**logged_scores(Path(checkpoint).parent, content, cfg), **metrics}
    return Publication(name, state, meta, cfg, arch, rows, task, scores, license, averaged)


def config_of(content: Any, config: str | os.PathLike | None) -> Config | None:
    """The config file, or the config that mmengine notes in a checkpoint; None for neither."""
    if config is not None and not Path(config).is_file():
        raise UserError(f'The config {config} does not exist.')
    if config is not None:
        return Config.fromfile(config)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    return Config.fromstring(text, '.py') if isinstance(text, str) and text.strip() else None


def logged_scores(work_dir: Path, content: Any, cfg: Config | None) -> dict[str, float]:
    """The scores of the validation at the checkpoint's iteration or epoch, from the logs in its folder; {} if there was none."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    by_epoch = 'Epoch' in str(((cfg or {}).get('train_cfg') or {}).get('type', ''))
    step = meta.get('epoch' if by_epoch else 'iter') if isinstance(meta, Mapping) else None
    if step is None:
        return {}
    scores: dict[str, float] = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text(encoding='utf-8').splitlines():
            with suppress(ValueError):  # an incomplete last line
                record = json.loads(line)
                if record.get('step') == step and 'iter' not in record:  # training records have both
                    scores |= {name: value for name, value in record.items() if name not in NOT_SCORES}
    return {name: value for name, value in scores.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def noted_name(content: Any) -> str:
    from mmfreq.zoo.evaluation import noted_config

    return noted_config(content)


def chosen_weights(content: Any, ema: bool) -> tuple[dict[str, Tensor], bool]:
    """(tensors, whether they are averaged).

    Raises:
        UserError: `ema` without averaged weights.
    """
    content = content if isinstance(content, Mapping) else {}
    averaged = any(isinstance(content.get(name), Mapping) for name in AVERAGED)
    if ema and not averaged:
        raise UserError('--ema needs averaged weights, and the checkpoint has none. Remove --ema.')
    if ema or is_of_mmengine(content):
        return choose_entry(content).state, averaged
    raw = next((name for name in RAW if isinstance(content.get(name), Mapping)), 'auto')
    return choose_entry(content, raw).state, False


def found_arch(state: Mapping[str, Tensor]) -> str | None:
    """The only arch whose backbone the tensors fill; None if there are several or none."""
    from functools import partial

    from mmfreq.models._factory import build_backbone, list_archs

    def on_meta(arch):
        with torch.device('meta'):
            return build_backbone(arch)

    archs = fitting_archs(state, {arch: partial(on_meta, arch) for arch in list_archs()})
    return archs[0] if len(archs) == 1 else None


def check_arch(arch: str, state: Mapping[str, Tensor], backbone: Mapping[str, Any], where: str) -> None:
    """Raise a CheckpointError if the tensors do not fill the backbone of the arch, or a UserError if there is no such arch."""
    try:
        cls = backbone_class(arch)
    except ValueError as error:
        raise UserError(str(error)) from error
    options = {key: backbone[key] for key in ('in_channels', 'out_indices') if key in backbone}
    with torch.device('meta'):
        model = cls(arch=arch, **options)
        if not backbone:
            model = cls(arch=arch, **found_options(model, state))
    fit_content(model, state, where)


def found_options(model: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of a backbone that tensors show: the channels of the images, and which stages have a norm at their output."""
    names = {name.removeprefix('backbone.'): value for name, value in state.items()}
    first = names.get(model.first_convolution())
    norms = tuple(i for i in range(4) if f'norm{i}.weight' in names)
    return ({'in_channels': first.shape[1]} if first is not None and first.dim() == 4 else {}) | (
        {'out_indices': norms} if norms else {}
    )


def head_rows(arch: str, state: Mapping[str, Tensor]) -> int:
    with torch.device('meta'):
        model = classifier_class(arch)(arch=arch)
    try:
        return rows_of_head(model, state) or 0
    except CheckpointError:
        return 0


def timm_config(publication: Publication) -> dict[str, Any]:
    """The content of `config.json`, as timm writes it."""
    import mmfreq.integrations.timm as integration

    arch = publication.arch or ''
    model = (publication.cfg or {}).get('model') or {}
    backbone = model.get('backbone') or model
    known = integration.config(arch, None)
    with torch.device('meta'):
        built = integration.model_class(arch)(arch, num_classes=publication.num_classes)
        found = found_options(built, publication.state)
    arguments = {'in_chans': found.get('in_channels', 3), 'img_size': backbone.get('img_size', built.img_size)}
    known['input_size'] = (arguments['in_chans'], arguments['img_size'], arguments['img_size'])
    known['pool_size'] = (built.stage_sides(arguments['img_size'])[-1],) * 2
    known |= normalization(model.get('data_preprocessor') or {}, arguments['in_chans'])
    classes = publication.num_classes
    out = dict(architecture=arch.replace('-', '_'), num_classes=classes, num_features=built.num_features)
    if changed := {key: value for key, value in arguments.items() if value != {'in_chans': 3, 'img_size': built.img_size}[key]}:
        out['model_args'] = changed
    if classes and publication.meta.get('classes'):
        out['label_names'] = list(publication.meta['classes'])
    return out | dict(pretrained_cfg={**known, 'num_classes': classes, 'license': publication.license})


def normalization(preprocessor: Mapping[str, Any], channels: int) -> dict[str, tuple]:
    """timm's mean and standard deviation, of values in 0..1, from a data preprocessor; {} if it has none for these channels."""
    given = {name: preprocessor.get(name) for name in ('mean', 'std')}
    if not all(isinstance(value, (list, tuple)) and len(value) == channels for value in given.values()):
        return {}
    return {name: tuple(round(each / 255, 6) for each in value) for name, value in given.items()}


def model_card(publication: Publication, folder: str) -> str:
    """The text of the model card: metadata of the Hugging Face Hub, and what a person needs to use the model."""
    cfg = publication.cfg
    data = data_of(cfg)
    results = [
        EvalResult(
            task_type=publication.task,
            dataset_type=data or 'unknown',
            dataset_name=data or 'unknown',
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in publication.metrics.items()
    ]
    header = ModelCardData(
        license=publication.license,
        library_name='mmfreq',
        tags=['mmfreq', *([publication.arch] if publication.arch else [])],
        pipeline_tag=publication.task,
        model_name=publication.name,
        eval_results=results or None,
    )
    scores = [f'| {name} | {value:g} |' for name, value in publication.metrics.items()]
    lines = [
        f'# {publication.name}',
        f'{publication.arch or "A model"} of mmfreq {__version__}'
        f'{", averaged weights (EMA)" if publication.averaged else ""}. License: {publication.license}.',
        '## Scores',
        '\n'.join(['| metric | value |', '|---|---|', *scores]) if scores else 'unknown: no scores were given.',
        '## Data and recipe',
        *recipe_lines(cfg, data, publication),
        '## Use',
        use_text(publication, folder),
    ]
    return str(ModelCard(f'---\n{header.to_yaml()}\n---\n\n' + '\n\n'.join(lines) + '\n'))


def data_of(cfg: Config | None) -> str:
    """The type of the training data set; '' if it is not known."""
    dataset = ((cfg or {}).get('train_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    return str(dataset.get('type', ''))


def recipe_lines(cfg: Config | None, data: str, publication: Publication) -> list[str]:
    if cfg is None:
        return ['unknown: the checkpoint notes no config.']
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    loop = cfg.get('train_cfg') or {}
    length = next(
        (f'{loop[key]} {unit}' for key, unit in (('max_iters', 'iterations'), ('max_epochs', 'epochs')) if loop.get(key)), 'unknown'
    )
    backbone = cfg.model.get('backbone') or cfg.model
    start = next((init['checkpoint'] for _, init in pretrained_parts({'init_cfg': backbone.get('init_cfg')})), 'random values')
    rows = {
        'model': f'{cfg.model.get("type", "unknown")} with {backbone.get("type", publication.arch)}',
        'starts from': cfg.get('load_from') or start,
        'data': data or 'unknown',
        'classes': ', '.join(map(str, publication.meta.get('classes', ()))) or str(publication.num_classes or 'unknown'),
        'optimizer': ', '.join(f'{key}={value}' for key, value in optimizer.items()) or 'unknown',
        'length': length,
        'images per process': (cfg.get('train_dataloader') or {}).get('batch_size', 'unknown'),
    }
    return [
        '\n'.join(['| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in rows.items())]),
        f'The complete config is `{CONFIG}`.',
    ]


def use_text(publication: Publication, folder: str) -> str:
    """Code for the ways to load the model; the folder is the one with this card."""
    python = ['import mmfreq', '']
    if publication.arch:
        python += [f"model = mmfreq.build_backbone('{publication.arch}', pretrained='{folder}/{WEIGHTS}')"]
    if publication.arch:
        features = '' if publication.num_classes else ', features_only=True'
        python += [
            '',
            'import mmfreq.integrations.timm, timm',
            f"model = timm.create_model('local-dir:{folder}', pretrained=True{features})",
        ]
    blocks = ['```python\n' + '\n'.join(python) + '\n```'] if publication.arch else []
    if publication.cfg is not None:
        blocks.append(f'```bash\npython tools/infer.py {folder}/{CONFIG} {folder}/{WEIGHTS} IMAGES\n```')
    blocks.append(f"In a config: `init_cfg=dict(type='Pretrained', checkpoint='{folder}/{WEIGHTS}')`.")
    return '\n\n'.join(blocks)
