"""The weights that the config of a run starts from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfreq.weights.load import pretrained_entries
from mmfreq.weights.store import is_named, local_file, read_note


def pretrained_parts(node: Any) -> Iterator[tuple[dict, dict]]:
    """Yield (config of the part, its init_cfg) for every `init_cfg` of type Pretrained in a nested model config."""
    if isinstance(node, dict):
        for each in pretrained_entries(node.get('init_cfg')):
            if each.get('checkpoint'):
                yield node, each
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from pretrained_parts(child)


def drop_pretrained(model: Any) -> None:
    """Remove every `init_cfg` of type Pretrained from a nested model config."""
    for part, init in list(pretrained_parts(model)):
        given = part.pop('init_cfg')
        if others := [each for each in given if each != init] if isinstance(given, (list, tuple)) else []:
            part['init_cfg'] = others


def named_sources(cfg: Any) -> list[str]:
    """What a run starts from and may have to download: published files, URLs and hub files."""
    sources = [cfg.get('load_from'), *(init['checkpoint'] for _, init in pretrained_parts(cfg.model))]
    return list(dict.fromkeys(str(source) for source in sources if source and is_named(source)))


def describe_start(cfg: Any) -> str:
    """A sentence about what the backbone of a run starts from."""
    if cfg.get('load_from'):
        return f'The run {"continues" if cfg.get("resume") else "starts from"} {cfg.load_from}.'
    model = cfg.model.get('detector') or cfg.model  # of a mean teacher
    whole = [model.get('backbone') or {}, model, cfg.model]  # an init_cfg of the backbone, or else of the whole model
    source = next((each['checkpoint'] for part in whole for each in pretrained_entries(part.get('init_cfg'))), None)
    if source is None:
        return 'The backbone starts from random values.'
    path = local_file(source)
    noted = read_note(Path(path))
    origin = f' (from {noted["url"]}, sha256 {noted["sha256"][:12]})' if noted.get('url') else ''
    return f'The backbone starts from {source}{"" if str(path) == str(source) else f", the file {path}"}{origin}.'
