"""Plain technical English: phrases that made readers stop, and what to write instead."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('mmfreq', 'tools', 'benchmarks', 'configs', 'docs', 'tests', '.github', '.ci')
DATED = ('docs/measurements/', 'docs/generated/', 'docs/_build/')  # records of a day stay as they were written
SUFFIXES = ('.py', '.md', '.sh', '.html', '.yml', '.toml')

# pattern -> what to write instead
INSTEAD = {
    r'\bmend(s|ed|ing)?\b|\bput right\b': 'fix',
    r'\b(is|are|be|was|were|been) told\b|\btold (what|that|which|with|once|apart|here|by)\b': 'reported, logged, printed, raised',
    r'\bsays? of (it|itself|them|what)\b|\bsay so\b|\bsays so\b': 'what it reports; state the fact itself',
    r'(?<!--)\bpictures?\b(?!/)': 'image',
    r'\b(the )?(ours|theirs)\b': 'this implementation, the reference implementation',
    r'\bpublished form(ulation)?s?\b': 'the reference implementation',
    r'\bfused forms?\b|\bplain forms?\b': 'optimized, eager',
    r'\bkept for (the )?backward\b|\bkeeps? for (the )?backward\b': 'saved for backward',
    r'\bhas not (a|an|the|any)\b|\bhave not (a|an|the|any)\b|\b(has|have)( it)? no more\b': 'does not have, no longer has',
    r'\bby hand of\b|\bof yours\b|\bof your own making\b': 'manually; your',
    r'\blooked at before\b': 'validated before',
    r'\bof no use\b|\bas it must be\b|\bas they must be\b': 'incompatible, invalid',
    r'\b[\d}]+\. time\b': '(occurrence 3)',
    r'\bfor want of\b': 'because ... is not available',
    r'\banew\b|\bonce more\b|\bat one time\b': 'again, at a time',
    r'\b(is|are) passed over\b|\bpass(es)? over\b|\bwithout a word\b': 'skip, silently',
    r'\bout of a worker\b|\bnobody can tell\b': 'from a worker; it is not known',
    r'\bawaken\w*|\bthe_one\b': 'a name that says what the function does',
}


def files(*names):
    """The texts of the project, or those below the given paths."""
    roots = [ROOT / name for name in names or FOLDERS]
    found = [*ROOT.glob('*.md'), *(ROOT / name for name in ('pyproject.toml', 'setup.py'))] if not names else []
    for root in roots:
        inside = [root] if root.is_file() else root.rglob('*')
        found += [path for path in inside if path.suffix in SUFFIXES or path.parent.name == '.ci']
    skipped = ('.mim', '__pycache__', 'golden', '.git')
    found = {path for path in found if path.is_file() and not set(skipped) & set(path.parts)}
    relative = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in relative if not name.startswith(DATED) and name != 'tests/test_words.py']


def faults(text):
    """[(line number, phrase, what to write instead)]"""
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, instead in INSTEAD.items():
            out += [(number, match.group(), instead) for match in re.finditer(pattern, line, re.IGNORECASE)]
    return out


def report(names):
    return [
        f'{name}:{number}: "{phrase}"; write: {instead}'
        for name in names
        for number, phrase, instead in faults((ROOT / name).read_text(encoding='utf-8'))
    ]


def test_the_project_is_written_in_plain_english():
    names = files()
    assert len(names) > 300
    found = report(names)
    assert not found, '\n'.join(found)


@pytest.mark.parametrize('line', ['Mend the list', 'it has not an argument of that name', 'for the 3. time', 'a list of yours'])
def test_the_search_finds_what_it_is_for(line):
    assert faults(line) and not faults('Fix the list; docs/pictures/x.png is an amendment of your own.')


if __name__ == '__main__':  # python tests/test_words.py [PATH ...] lists what is left
    import sys

    print('\n'.join(report(files(*sys.argv[1:]))))
