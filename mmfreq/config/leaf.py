"""A config made from another: as a leaf that inherits from it, and as lines with the differences."""

import copy
import math
import sys
import textwrap
from dataclasses import dataclass
from keyword import iskeyword

from mmengine.config import Config

from mmfreq.config.reading import base_reference

WIDTH = 128  # of a line of source
MISSING = object()


@dataclass(frozen=True)
class Leaf:
    """A config that inherits from a base.

    Attributes:
        config: the whole config.
        text: source of the leaf; its `_base_` is a `package::name`, or a path relative to the folder of the leaf, else absolute.
        difference: `key: old -> new`, relative to the base.
        notes: what the user should know about the result.
        summary: sentences on what was kept and changed, also in the first lines of the text.
    """

    config: Config
    text: str
    difference: list[str]
    notes: list[str]
    summary: list[str]

    def write(self, out=None):
        """Write the text to a file, or to standard output."""
        if out:
            out.write_text(self.text, encoding='utf-8')
        else:
            sys.stdout.write(self.text)

    def __str__(self):
        lines = [*self.summary, 'Differences from the base:', *(f'  {line}' for line in self.difference)]
        return '\n'.join([*lines, *(f'Note: {note}' for note in self.notes)])


def make_leaf(base, cfg, new, title, notes, summary=(), folder=None):
    """The `Leaf` that turns a base into another config.

    Args:
        cfg: the Config of `base`.
        new: the whole new config, as plain dicts and lists.
        title: first comment line.
        folder: folder of the leaf, if its `_base_` should be relative to it.
    """
    old = plain(cfg.to_dict())
    stated = changes(old, new)
    config = copy.deepcopy(cfg)  # reading the base again would take seconds
    config.merge_from_dict(Config.fromstring(leaf_text([], stated).partition('\n')[2], '.py').to_dict())
    if wrong := difference_lines(new, plain(config.to_dict())):
        raise AssertionError(f'The written leaf does not give the config that it was made for: {wrong}')
    comments = [line for text in (title, *summary) for line in textwrap.wrap(text, WIDTH)]
    text = leaf_text(base_reference(base, folder), stated, comments)
    return Leaf(config, text, difference_lines(old, new), notes, list(summary))


def changes(old, new):
    """The part of the nested dict `new` that a leaf on top of `old` must state, with `_delete_` where keys or the type disappear.

    A key of the outermost dict that is only in `old` stays, as no leaf can remove it.
    """
    return {key: _change(old.get(key, MISSING), value) for key, value in new.items() if old.get(key, MISSING) != value}


def leaf_text(base, stated, comments=()):
    """Source of a config that inherits from `base` (or a list) and states the nested dict `stated`, after the lines `comments`."""
    lines = [*(f'# {line}' for line in comments), f'_base_ = {base!r}']
    lines += [f'{name} = {_source(value, 0, len(name) + 3)}' for name, value in stated.items()]
    return '\n'.join(lines) + '\n'


def difference_lines(old, new, path=''):
    """`key: old -> new` for every value that differs between two nested dicts, in their order, also inside of lists of dicts."""
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        one, other, name = old.get(key, MISSING), new.get(key, MISSING), f'{path}{key}'
        if one is not MISSING and other is not MISSING and one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            lines += difference_lines(one, other, f'{name}.')
        elif _both_lists_of_dicts(one, other):
            lines += difference_lines(dict(enumerate(one)), dict(enumerate(other)), f'{name}.')
        else:
            lines.append(f'{name}: {_shown(one)} -> {_shown(other)}')
    return lines


def plain(value):
    """A nested config as plain dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    return type(value)(plain(child) for child in value) if isinstance(value, (list, tuple)) else value


def _change(old, new):
    if not isinstance(new, dict) or old is MISSING:
        return new
    if not isinstance(old, dict) or old.get('type') != new.get('type') or any(key not in new for key in old):
        return {'_delete_': True, **new}
    return changes(old, new)


def _source(value, indent=None, taken=0):
    """Python source of a value: one line, or one line per entry if `indent` is given and the line is too long.

    `taken` is the number of characters before the value in its line.
    """
    if not isinstance(value, (dict, list, tuple)):
        return repr(value) if not isinstance(value, float) or math.isfinite(value) else f'float({str(value)!r})'
    opening, entries, closing = _parts(value)
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    line = f'{opening}{", ".join(name + _source(child) for name, child in entries)}{comma}{closing}'
    if indent is None or not entries or indent + taken + len(line) < WIDTH:
        return line
    inner = indent + 4
    body = ''.join(f'{" " * inner}{name}{_source(child, inner, len(name))},\n' for name, child in entries)
    return f'{opening}\n{body}{" " * indent}{closing}'


def _parts(value):
    """(opening bracket, [(text before the entry, entry)], closing bracket) of a dict, list or tuple."""
    if not isinstance(value, dict):
        brackets = '[]' if isinstance(value, list) else '()'
        return brackets[0], [('', child) for child in value], brackets[1]
    if all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in value):
        return 'dict(', [(f'{key}=', child) for key, child in value.items()], ')'
    return '{', [(f'{key!r}: ', child) for key, child in value.items()], '}'


def _both_lists_of_dicts(one, other):
    lists = isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other)
    return lists and all(isinstance(each, dict) for each in (*one, *other))


def _shown(value):
    if value is MISSING:
        return '(none)'
    text = _source(value)
    return text if len(text) <= WIDTH else f'{text[: WIDTH - 4]} ...'
