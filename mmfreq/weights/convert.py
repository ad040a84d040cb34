"""Published layouts to the mmfreq layout and back: only names change, values do not.

A file in the mmfreq layout is a checkpoint of mmengine, `{'meta': {...}, 'state_dict': ...}`, for `load_from`, `init_cfg` and
`load_weights`. Classifiers and backbones have bare names; in whole models the backbone is below `backbone.`. `meta['mmfreq']` notes
the layout that the file came from; without this note it goes back to the authors' own layout.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfreq.compat.safe_load import SAFETENSORS_META, CheckpointError
from mmfreq.weights.fit import MODULE, choose_entry, mmfreq_names
from mmfreq.weights.load import check_fit
from mmfreq.weights.rules import RULES, Layout, describe
from mmfreq.weights.store import sha256_of

NOTE = 'mmfreq'  # key in `meta`
NOTE_VERSION = 1  # of the note's fields
KEPT_META = ('CLASSES', 'PALETTE', 'dataset_meta')  # what inference reads


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint, and what was done.

    Attributes:
        checkpoint: the result.
        family, layout: of the published side.
        tensors: number of them.
        renamed: name before to name after, where they differ.
        dropped: what else the file had (optimizer, other entries); the result does not have it.
    """

    checkpoint: dict[str, Any]
    family: str
    layout: str
    tensors: int
    renamed: dict[str, str] = field(repr=False)
    dropped: tuple[str, ...]


def to_mmfreq(checkpoint: Mapping[str, Any], arch: str | None = None, entry: str = 'auto') -> Conversion:
    """Rename a checkpoint in any published layout to the mmfreq layout.

    Args:
        checkpoint: content of a file.
        arch: noted in the result, not checked.
        entry: as in `fit.choose_entry`.

    Raises:
        CheckpointError: converted already, unknown layout, a name that no rule knows, or two names that become one.
    """
    if note_of(checkpoint):
        raise CheckpointError(
            "Expected a published layout, but the checkpoint is already in the mmfreq layout (meta['mmfreq']). "
            'Use --invert to convert it back.'
        )
    chosen = choose_entry(checkpoint, entry)
    family, layout = published_layout(chosen.state)
    _, names = mmfreq_names(chosen.state, RULES[family])
    refuse_unknown(names, family, layout)
    refuse_one_way(names, layout)
    state = {name: chosen.state[published] for published, name in names.items()}
    origin = dict(family=family, layout=layout.name, path=list(chosen.path), module=chosen.module_prefix)
    note = dict(version=NOTE_VERSION, **origin, arch=arch)
    meta = kept_meta(checkpoint)
    dropped = tuple(key for key in chosen.other_keys if not (key == 'meta' and meta))
    return Conversion({'meta': {NOTE: note, **meta}, 'state_dict': state}, family, layout.name, len(state), changed(names), dropped)


def to_published(converted: Mapping[str, Any]) -> Conversion:
    """Rename a checkpoint in the mmfreq layout to the layout in its note, or to the authors' own.

    Raises:
        CheckpointError: not the mmfreq layout, a name that no rule knows, or a note of another version.
    """
    chosen = choose_entry(converted)
    note = note_of(converted)
    if note and note.get('version') != NOTE_VERSION:
        raise CheckpointError(
            f"Expected version {NOTE_VERSION} of the note meta['mmfreq'], found version {note.get('version')}. Update mmfreq."
        )
    family, layout = noted_layout(note) if note else official_layout(chosen.state)
    names = {layout.to_published(name): name for name in chosen.state}
    refuse_unknown(names, family, layout)
    if len(names) < len(chosen.state) or not layout.recognises(names):
        raise CheckpointError(
            f'Expected names of the {layout.name} layout of {family}, found names that look like {describe(chosen.state)}.'
        )
    refuse_one_way(names, layout)
    prefix = MODULE if note.get('module') else ''
    out: dict[str, Any] = {prefix + published: chosen.state[name] for published, name in names.items()}
    path = note.get('path', [layout.wrapper] if layout.wrapper else [])
    for key in reversed(path):
        out = {key: out}
    meta = kept_meta(converted)
    if path and meta:
        out['meta'] = meta
    renamed = changed({name: published for published, name in names.items()})
    return Conversion(out, family, layout.name, len(names), renamed, tuple(key for key in chosen.other_keys if key != 'meta'))


def fitting_archs(state: Mapping[str, Tensor], builders: Mapping[str, Callable[[], nn.Module]]) -> list[str]:
    """Archs whose backbone a state dict fills strictly; only those without resizing, if there are any.

    Args:
        state: a checkpoint of a classifier, backbone or whole model.
        builders: arch to a function that builds its backbone, best on the meta device.
    """
    resized = {}
    for arch, build in builders.items():
        try:
            resized[arch] = len(check_fit(build(), state).resized)
        except CheckpointError:
            continue
    return [arch for arch, count in resized.items() if not count] or list(resized)


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Save a checkpoint atomically, replacing an existing file; returns its sha256.

    A file named `.safetensors` gets the tensors, and the names of classes and the note of the layout in its metadata.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        if path.suffix == '.safetensors':
            temporary.write_bytes(safetensors_bytes(checkpoint))  # safetensors' save_file makes it unreadable for others
        else:
            torch.save(checkpoint, temporary)
        digest = sha256_of(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def safetensors_bytes(checkpoint: Mapping[str, Any]) -> bytes:
    """The content of a safetensors file: contiguous copies of the tensors, because the format refuses shared and strided ones."""
    from safetensors.torch import save

    state = choose_entry(checkpoint).state
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    note = note_of(checkpoint)
    meta = {**kept_meta(checkpoint), **({NOTE: note} if note else {})}
    content = save(tensors, {'format': 'pt', **({SAFETENSORS_META: json.dumps(meta, default=list)} if meta else {})})
    length = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:length])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))  # safetensors writes it in an order that varies
    ordered = json.dumps(header, separators=(',', ':')).encode()
    ordered += b' ' * (-len(ordered) % 8)
    return len(ordered).to_bytes(8, 'little') + ordered + content[length:]


def published_layout(names: Iterable[str]) -> tuple[str, Layout]:
    """(family, layout) of names in a published layout.

    Raises:
        CheckpointError: none, or layouts of several families.
    """
    names = list(names)
    found = {family: layout for family, rules in RULES.items() if (layout := rules.layout_of(names))}
    return single_layout(found, names)


def official_layout(names: Iterable[str]) -> tuple[str, Layout]:
    """(family, the authors' layout) of names in the mmfreq layout; raises as `published_layout`."""
    names = list(names)
    found: dict[str, Layout] = {}
    for family, rules in RULES.items():
        for layout in rules.layouts:
            if layout.official and family not in found and layout.recognises([layout.to_published(name) for name in names]):
                found[family] = layout
    return single_layout(found, names)


def noted_layout(note: Mapping[str, Any]) -> tuple[str, Layout]:
    """(family, layout) of a note.

    Raises:
        CheckpointError: unknown ones.
    """
    family, name = str(note.get('family')), note.get('layout')
    layout = next((layout for layout in RULES[family].layouts if layout.name == name), None) if family in RULES else None
    if layout is None:
        raise CheckpointError(f"Expected a known layout in meta['mmfreq'], found layout '{name}' of family '{family}'.")
    return family, layout


def single_layout(found: Mapping[str, Layout], names: list[str]) -> tuple[str, Layout]:
    if len(found) == 1:
        return next(iter(found.items()))
    what = f'layouts of several families ({", ".join(found)})' if found else 'no layout known here'
    raise CheckpointError(
        f'Expected a checkpoint of one of the families {", ".join(RULES)}, found {what}. Its {len(names)} names look like '
        f'{describe(names)}, such as {", ".join(names[:3])}.'
    )


def refuse_unknown(names: Mapping[str, str], family: str, layout: Layout) -> None:
    """Raise if a name in the mmfreq layout, given by its published name, is not the family's; lists all of them."""
    unknown = set(RULES[family].unknown(names.values()))
    if unknown:
        listed = [published for published, name in names.items() if name in unknown]
        raise CheckpointError(f'No rule of the {layout.name} layout of {family} knows {len(listed)} name(s): {", ".join(listed)}.')


def refuse_one_way(names: Mapping[str, str], layout: Layout) -> None:
    """Raise if the rename rows do not lead a name back to itself."""
    lost = [old for old, name in names.items() if layout.to_published(name) != old or layout.to_mmfreq(old) != name]
    if lost:
        raise CheckpointError(f'Renaming by the {layout.name} layout is not reversible for {", ".join(lost)}.')


def changed(names: Mapping[str, str]) -> dict[str, str]:
    return {before: after for before, after in names.items() if before != after}


def note_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The note in `meta`, {} for none."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return meta.get(NOTE) or {} if isinstance(meta, Mapping) else {}


def kept_meta(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    meta = checkpoint.get('meta')
    return {key: meta[key] for key in KEPT_META if key in meta} if isinstance(meta, Mapping) else {}
