"""Published checkpoints to ours and back: pure renaming, no value is touched.

A file of ours is a file of mmengine: `{'meta': {...}, 'state_dict': ...}`, which `load_from`, `init_cfg` and `load_weights` take.
Classifiers and backbones have bare names, whole models `backbone.` and OpenMMLab's names for the rest. What the file came from is
noted under `meta['mmfreq']`; a file without the note goes back to the authors' own layout.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.weights.fit import MODULE, choose_entry, our_names
from mmfreq.weights.load import check_fit
from mmfreq.weights.rules import RULES, Layout, describe

NOTE = 'mmfreq'
NOTE_VERSION = 1  # of the note's fields
KEPT_META = ('CLASSES', 'PALETTE', 'dataset_meta')  # what inference asks a file for


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint, and what was done.

    Attributes:
        checkpoint: the result.
        family, layout: of the published side.
        tensors: number of them.
        renamed: name before to name after, where they differ.
        left_out: what the file held beside the weights (optimizer, other entries) and the result does not.
    """

    checkpoint: dict[str, Any]
    family: str
    layout: str
    tensors: int
    renamed: dict[str, str] = field(repr=False)
    left_out: tuple[str, ...]


def to_mmfreq(checkpoint: Mapping[str, Any], arch: str | None = None, entry: str = 'auto') -> dict[str, Any]:
    """A checkpoint of ours; the arguments and errors of `convert_to_ours`."""
    return convert_to_ours(checkpoint, arch, entry).checkpoint


def to_published(converted: Mapping[str, Any]) -> dict[str, Any]:
    """The published checkpoint of one of ours; the errors of `convert_to_official`."""
    return convert_to_official(converted).checkpoint


def convert_to_ours(checkpoint: Mapping[str, Any], arch: str | None = None, entry: str = 'auto') -> Conversion:
    """Rename a checkpoint in any published layout to our names.

    Args:
        checkpoint: the content of a file.
        arch: noted in the result; not checked here.
        entry: as in `entries.choose_entry`.

    Raises:
        CheckpointError: converted already, no layout known here, a name that no rule knows, two that become one.
    """
    if note_of(checkpoint):
        raise CheckpointError('the checkpoint is converted already (meta says so); --invert, or `to_official`, takes it back')
    chosen = choose_entry(checkpoint, entry)
    family, layout = published_layout(chosen.state)
    _, names = our_names(chosen.state, RULES[family])
    refuse_unknown(names, family, layout)
    refuse_one_way(names, layout)
    note = dict(version=NOTE_VERSION, family=family, layout=layout.name, path=list(chosen.path), module=chosen.module, arch=arch)
    state = {ours: chosen.state[theirs] for theirs, ours in names.items()}
    kept = meta_of(checkpoint)
    left = tuple(key for key in chosen.left if not (key == 'meta' and kept))
    return Conversion({'meta': {NOTE: note, **kept}, 'state_dict': state}, family, layout.name, len(state), changed(names), left)


def convert_to_official(converted: Mapping[str, Any]) -> Conversion:
    """Rename a checkpoint of ours to the layout that its note tells, without one to the authors' own.

    Raises:
        CheckpointError: no layout of ours, a name that no rule knows, a note of another version.
    """
    chosen = choose_entry(converted)
    note = note_of(converted)
    if note and note.get('version') != NOTE_VERSION:
        raise CheckpointError(f'the note on the origin has version {note.get("version")}, expected {NOTE_VERSION}')
    family, layout = noted_layout(note) if note else official_layout(chosen.state)
    names = {layout.theirs(ours): ours for ours in chosen.state}
    refuse_unknown(names, family, layout)
    if len(names) < len(chosen.state) or not layout.recognises(names):
        raise CheckpointError(
            f'the names are not those of the {layout.name} layout of {family}; they look like {describe(chosen.state)}'
        )
    refuse_one_way(names, layout)
    prefix = MODULE if note.get('module') else ''
    out: dict[str, Any] = {prefix + theirs: chosen.state[ours] for theirs, ours in names.items()}
    path = note.get('path', [layout.wrapper] if layout.wrapper else [])
    for key in reversed(path):
        out = {key: out}
    kept = meta_of(converted)
    if path and kept:
        out['meta'] = kept
    renamed = changed({ours: theirs for theirs, ours in names.items()})
    return Conversion(out, family, layout.name, len(names), renamed, tuple(key for key in chosen.left if key != 'meta'))


def fitting_archs(state: Mapping[str, Tensor], builders: Mapping[str, Callable[[], nn.Module]]) -> list[str]:
    """Names of the backbones that a state dict fills strictly; those without resizing alone, if there are any.

    Args:
        state: a checkpoint of a classifier, backbone or whole model.
        builders: arch to what builds its backbone, best on the meta device.
    """
    resized = {}
    for arch, build in builders.items():
        try:
            resized[arch] = len(check_fit(build(), state).resized)
        except CheckpointError:
            continue
    return [arch for arch, count in resized.items() if not count] or list(resized)


def last_layer_width(checkpoint: Mapping[str, Any], last_layer: str) -> int:
    """Number of classes of a classifier of ours, from its last layer; 0 if the checkpoint has no such layer."""
    weight = choose_entry(checkpoint).state.get(f'{last_layer}.weight')
    return 0 if weight is None else weight.shape[0]


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Save a checkpoint, whole or not at all, over a file that may be there; returns its sha256."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        torch.save(checkpoint, temporary)
        digest = hashlib.sha256()
        with temporary.open('rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest.hexdigest()


def published_layout(names: Iterable[str]) -> tuple[str, Layout]:
    """(family, layout) of their names.

    Raises:
        CheckpointError: none, or layouts of several families.
    """
    names = list(names)
    found = [(family, layout) for family, rules in RULES.items() if (layout := rules.layout_of(names))]
    return single_layout(found, names)


def official_layout(names: Iterable[str]) -> tuple[str, Layout]:
    """(family, layout) of the authors that our names go back to; raises as `published_layout`."""
    names = list(names)
    found = {}
    for family, rules in RULES.items():
        for layout in (layout for layout in rules.layouts if layout.official and family not in found):
            if layout.recognises([layout.theirs(name) for name in names]):
                found[family] = layout
    return single_layout(list(found.items()), names)


def noted_layout(note: Mapping[str, Any]) -> tuple[str, Layout]:
    """(family, layout) of a note."""
    rules = RULES.get(note.get('family'))
    layout = next((layout for layout in rules.layouts if layout.name == note.get('layout')), None) if rules else None
    if layout is None:
        raise CheckpointError(
            f"the note on the origin tells a layout unknown here: '{note.get('layout')}' of '{note.get('family')}'"
        )
    return note['family'], layout


def single_layout(found: list[tuple[str, Layout]], names: list[str]) -> tuple[str, Layout]:
    if len(found) == 1:
        return found[0]
    told = f'layouts of several families: {", ".join(family for family, _ in found)}' if found else 'no layout known here'
    raise CheckpointError(
        f'the checkpoint has {told}; its {len(names)} names look like {describe(names)} (such as {", ".join(names[:3])}). '
        f'Families: {", ".join(RULES)}'
    )


def refuse_unknown(names: Mapping[str, str], family: str, layout: Layout) -> None:
    """Raise if one of our names, given by theirs, is not the family's; lists all of them."""
    unknown = set(RULES[family].unknown(names.values()))
    if unknown:
        theirs = [name for name, ours in names.items() if ours in unknown]
        raise CheckpointError(f'no rule of the {layout.name} layout of {family} knows {len(theirs)} name(s): {", ".join(theirs)}')


def refuse_one_way(names: Mapping[str, str], layout: Layout) -> None:
    """Raise if a name does not come back by the same rows."""
    lost = [theirs for theirs, ours in names.items() if layout.theirs(ours) != theirs or layout.ours(theirs) != ours]
    if lost:
        raise CheckpointError(f'renaming by the {layout.name} layout is not reversible for {", ".join(lost)}')


def changed(names: Mapping[str, str]) -> dict[str, str]:
    return {before: after for before, after in names.items() if before != after}


def note_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The note on the origin, {} if there is none."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return meta.get(NOTE) or {} if isinstance(meta, Mapping) else {}


def meta_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What inference asks a file's `meta` for."""
    meta = checkpoint.get('meta')
    return {key: meta[key] for key in KEPT_META if key in meta} if isinstance(meta, Mapping) else {}
