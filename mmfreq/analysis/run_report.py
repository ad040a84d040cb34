"""The last lines of an inference run: what was done, what was skipped, seconds per image and peak memory, and the problems."""

import sys

import torch

from mmfreq.analysis.inputs import VIDEO_SUFFIXES, Found
from mmfreq.analysis.results import Written


def report_run(results: list[Written], found: Found, seconds: float, place: str) -> tuple[str, str]:
    """The lines for stdout, and those about problems, empty if there are none.

    Args:
        seconds: time of the run without loading the model.
        place: where the results are, as a phrase.
    """
    problems = found.problems + [result.problem for result in results if result.problem]
    lines = [f'{_done(results)} done, results {place}']
    lines += [found.summary()] if found.skipped or found.other_suffixes else []
    drawn = [file for result in results for file in result.files[::-1] if file.suffix == '.png']
    lines += [f'for example {drawn[0]}'] if drawn else []
    lines += [_costs(results, seconds)] if results else []
    if not problems:
        return '\n'.join(lines), ''
    kind = 'files' if any(map(_is_video, results)) else 'images'
    count = sum(bool(result.problem) for result in results)
    heading = f'error: {count} of {len(results)} {kind} {"has" if count == 1 else "have"} a problem'
    heading += f', and {len(found.problems)} folder(s)' if found.problems else ''
    return '\n'.join(lines), '\n'.join([f'{heading}:', *problems])


def _is_video(result):
    return result.image.suffix.lower() in VIDEO_SUFFIXES


def _done(results):
    parts = []
    for name, group in (('images', [r for r in results if not _is_video(r)]), ('videos', [r for r in results if _is_video(r)])):
        if group or not (parts or results):
            parts.append(f'{sum(bool(result.files) for result in group)} of {len(group)} {name}')
    return ' and '.join(parts)


def _costs(results, seconds):
    count = sum(result.frames for result in results if result.files)
    name = 'images and frames' if any(map(_is_video, results)) else 'image' if count == 1 else 'images'
    each = f' ({seconds / count:.3f} s each, with reading and writing)' if count else ''
    memory = [f'{size / 2**20:.0f} MiB of {where}' for where, size in (('RAM', peak_memory()), ('GPU memory', _gpu())) if size]
    return f'{count} {name} in {seconds:.1f} s{each}' + (f'; peak: {", ".join(memory)}' if memory else '')


def peak_memory() -> int:
    """The largest resident memory of this process in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == 'darwin' else size * 1024


def _gpu():
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
