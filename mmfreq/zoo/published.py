"""The published files of the zoo's rows, what `tools/weights.py` prints about them, and the check of a folder of them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.errors import UserError
from mmfreq.models._factory import build_backbone, build_classifier
from mmfreq.weights.download import DownloadError
from mmfreq.weights.files import UNKNOWN, ZOO, Weights, list_weights, weights_at
from mmfreq.weights.fit import choose_entry, fit_content
from mmfreq.weights.load import rows_of_head
from mmfreq.weights.store import SUFFIXES, find_local, sha256_of, wanted
from mmfreq.zoo.rows import Row


@dataclass(frozen=True)
class Verified:
    """A file of a folder: its name, the published file that it is named after or '-', and the result."""

    file: str
    name: str
    result: str
    good: bool


BY_HAND = {'ImageNet-1k': 'in1k', 'ADE20K': 'ade20k', 'VOC 2012 + SBD': 'voc'}  # tags of AFFNet's files, which have no URL


def published_file(row: Row) -> Weights | None:
    """The published file of exactly the model of a row."""
    if row.weights:
        return weights_at(row.weights)
    if row.family != 'affnet' or not row.metrics:
        return None
    return next((each for each in list_weights(row.arch) if each.tag == BY_HAND.get(row.dataset)), None)


def metrics_text(weights: Weights) -> str:
    return ', '.join(f'{name} {value}' for name, value in weights.metrics.items()) or '-'


def local_path(weights: Weights) -> Path | None:
    """The file on this machine; None if it is not here, or another one than published."""
    try:
        return find_local(wanted(weights.name))
    except DownloadError:
        return None


def describe_size(weights: Weights) -> str:
    """The size of the file if it is here; published sizes are not known."""
    path = local_path(weights)
    return f'{path.stat().st_size / 2**20:.1f} MiB' if path else UNKNOWN


def describe_place(weights: Weights) -> str:
    """The path of the file, or the URL that serves it, or the page to download it from by hand."""
    path = local_path(weights)
    return str(path or next(iter(weights.urls), '') or f'by hand: {weights.pages[0]}')


def verify(folder: Path) -> list[Verified]:
    """Check every checkpoint in a folder: complete, with the published sha256 where one is known, and fitting its arch.

    Raises:
        UserError: not a folder.
    """
    if not folder.is_dir():
        raise UserError(f'Expected a folder with weights, but {folder.absolute()} is not a folder.')
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise UserError(f'Expected files with weights in {folder.absolute()}, found none that ends with {", ".join(SUFFIXES)}.')
    return [verify_file(path) for path in files]


def verify_file(path: Path) -> Verified:
    weights = published_as(path)
    try:
        content = read_checkpoint(path)
        tensors = len(choose_entry(content).state)
    except CheckpointError as error:
        return Verified(path.name, weights.name if weights else '-', str(error), False)
    if weights is None:
        return Verified(path.name, '-', f'complete, {tensors} tensors; its name is not that of a published file', True)
    stated = next((each for each in (weights.sha256, weights.sha256_prefix) if each != UNKNOWN), '')
    digest = sha256_of(path)
    if not digest.startswith(stated):
        return Verified(path.name, weights.name, f'another file: sha256 {digest[:8]}, published {stated}', False)
    try:
        resized = check_arch(weights, content, path.name)
    except CheckpointError as error:
        return Verified(path.name, weights.name, str(error), False)
    what = f'fits {weights.arch}{f", {resized} filters of another grid" if resized else ""}'
    return Verified(
        path.name,
        weights.name,
        f'{tensors} tensors, {what}, sha256 {digest[:8]} {"as published" if stated else "(the published one is unknown)"}',
        True,
    )


def published_as(path: Path) -> Weights | None:
    """The published file that a file is named after."""
    return next((each for each in ZOO if path.name in (wanted(each.name).filename, *wanted(each.name).other_names)), None)


def check_arch(weights: Weights, content: dict, where: str) -> int:
    """The number of resized tensors; raises a CheckpointError if the content does not fit the arch."""
    with torch.device('meta'):
        if weights.model == 'classifier' and not weights.task.startswith('pretraining'):
            rows = rows_of_head(build_classifier(weights.arch), content)
            model = build_classifier(weights.arch, num_classes=rows or 0)
        else:
            model = build_backbone(weights.arch)
    return len(fit_content(model, content, where).resized)
