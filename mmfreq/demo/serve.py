"""From what a person named, or nothing, to a page that is served."""

import ipaddress
from contextlib import suppress
from pathlib import Path

from mmfreq.demo.models import UNTRAINED, Models, find_sources, one_source
from mmfreq.demo.server import DemoServer

DEFAULT_FOLDER = Path('work_dirs')
NOTHING_FOUND = (
    'No trained checkpoint was found in {folders}. Run "bash tools/quickstart.sh" to train a small one in some minutes, then start '
    'this page again; or name a folder with --models, or a config and its checkpoint. Until then there is a model with random '
    'weights to look around with.'
)


def make_server(
    config: Path | None = None,
    checkpoint: Path | None = None,
    folders: list[Path] | None = None,
    device: str = 'cpu',
    plain: bool = False,
    **options,
) -> DemoServer:
    """A server of one pair and of those found in `folders` (None without a pair: in `work_dirs`); options as of `DemoServer`.

    Models are optimised with `mmfreq.optimize` unless `plain`.

    Raises:
        UserError: a file or folder that was named does not exist, or the address cannot be had.
    """
    sources = [one_source(config, checkpoint)] if config and checkpoint else []
    named = folders if folders is not None else [] if sources else [DEFAULT_FOLDER]
    found, alone = find_sources([folder for folder in named if folders is not None or folder.is_dir()])
    sources = list(dict.fromkeys(sources + found))
    notes = [] if sources else [NOTHING_FOUND.format(folders=', '.join(map(str, named)))]
    if alone:
        some = ', '.join(map(str, alone[:3])) + (', ...' if len(alone) > 3 else '')
        notes.append(f'Left out, because no config beside it is clearly its own: {some}.')
    return DemoServer(Models(sources or [UNTRAINED], device, plain=plain), note=' '.join(notes), **options)


def serve(**arguments) -> None:
    """Answers until Ctrl-C; arguments and errors as of `make_server`."""
    with make_server(**arguments) as server:
        count = sum(source.checkpoint is not None for source in server.models.sources.values())
        print(f'{count} checkpoint{"s" if count != 1 else ""} to choose from, on {server.models.device}.')
        if server.note:
            print(server.note)
        if not ipaddress.ip_address(server.server_address[0].split('%')[0]).is_loopback:
            print('Everyone who can reach this machine can use the page.')
        print(f'Open {server.url} in a browser; Ctrl-C ends.', flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    with suppress(KeyboardInterrupt):  # of the impatient
        server.models.close()
    print()
