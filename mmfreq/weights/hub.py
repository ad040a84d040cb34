"""Weights in a repository of the Hugging Face Hub, `hf-hub:OWNER/NAME[@REVISION]`, through `huggingface_hub` and its cache."""

import re
from importlib.util import find_spec
from pathlib import Path

from mmengine.logging import print_log

from mmfreq.weights.download import OFFLINE, MissingWeightsError, is_offline

HUB = 'hf-hub:'
HUB_NAME = re.compile(r'hf-hub:([\w.-]+/[\w.-]+?)(?:@(.+))?')
HUB_OFFLINE = 'HF_HUB_OFFLINE'
HUB_FILES = ('model.safetensors', 'pytorch_model.safetensors', 'pytorch_model.bin', 'pytorch_model.pth', 'model.pth')


def hub_urls(source: str) -> list[str]:
    """URLs of what may be the weights in a repository of the Hub; none if they are here, or if `hub_file` asks nobody."""
    found = HUB_NAME.fullmatch(source)
    if not found or is_offline(HUB_OFFLINE) or not find_spec('huggingface_hub'):
        return []
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    repository, revision = found.groups()
    if any(isinstance(try_to_load_from_cache(repository, name, revision=revision), str) for name in HUB_FILES):
        return []
    return [hf_hub_url(repository, name, revision=revision) for name in HUB_FILES]


def hub_file(source: str) -> Path:
    """The weights in a repository of the Hugging Face Hub, in the hub's own cache; the commit is logged.

    Raises:
        MissingWeightsError: not a repository's name, no such repository or revision, no file of weights in it, or no connection.
    """
    found = HUB_NAME.fullmatch(source)
    if not found:
        raise MissingWeightsError(f"Expected {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION, got '{source}'.")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingWeightsError(f'{source} needs the package huggingface_hub. Run pip install huggingface_hub.') from error
    repository, revision = found.groups()
    forbidden = next((name for name in (OFFLINE, HUB_OFFLINE) if is_offline(name)), '')
    for name in HUB_FILES:
        try:
            path = Path(hf_hub_download(repository, name, revision=revision, local_files_only=bool(forbidden)))
        except LocalEntryNotFoundError as error:
            if forbidden:  # another of the names may be in the cache
                continue
            raise MissingWeightsError(f'{source} is not on this machine, and the Hub does not answer: {error}') from error
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise MissingWeightsError(f'{source} could not be downloaded: {type(error).__name__}: {error}') from error
        print_log(f'{source} is {name} of commit {path.parent.name}', logger='current')
        return path
    why = f'{forbidden} forbids connections, and its cache has' if forbidden else 'the repository has'
    raise MissingWeightsError(f'{source} has no weights: {why} none of {", ".join(HUB_FILES)}.')
