"""Mutations of mmfreq: one operator, comparison, constant or condition is changed, or one statement dropped.

`sites_of(checkout)` finds all of them in the syntax trees, `choose` samples some with a seed, `mutated` applies one. Not mutated:
imports, docstrings, annotations, `__all__`, strings, and messages that are raised, logged or printed.
"""

import ast
import contextlib
import hashlib
import itertools
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field

PACKAGES = ('engine', 'models', 'analysis', 'weights', 'config', 'layers', 'ops')  # those with the longest tests first
KINDS = ('operator', 'comparison', 'constant', 'condition', 'dropped line')
OPERATORS = {'Add': ('+', '-'), 'Sub': ('-', '+'), 'Mult': ('*', '/'), 'Div': ('/', '*')}
OPERATORS |= {'FloorDiv': ('//', '*'), 'Mod': ('%', '*'), 'Pow': ('**', '*')}
COMPARISONS = {'Lt': ('<', '<='), 'LtE': ('<=', '<'), 'Gt': ('>', '>='), 'GtE': ('>=', '>')}
COMPARISONS |= {'Eq': ('==', '!='), 'NotEq': ('!=', '=='), 'Is': ('is', 'is not'), 'IsNot': ('is not', 'is')}
COMPARISONS |= {'In': ('in', 'not in'), 'NotIn': ('not in', 'in')}
MESSAGES = {
    'print',
    'print_log',
    'log',
    'debug',
    'info',
    'warning',
    'warn',
    'error',
    'exception',
}  # functions whose arguments are messages


@dataclass(frozen=True)
class Site:
    """A mutation of one file; `start`, `end`, `first` and `block` depend on the checkout, the rest identifies it.

    Attributes:
        function: qualified name, `<module>` outside of functions and classes.
        line: the source line, stripped; `column` counts from its indentation, `nth` equal ones of a function.
        new: what replaces the bytes from `start` to `end`.
        block: `file:line` of the first statement of the innermost list of statements.
        at_import: outside of functions.
    """

    file: str
    function: str
    kind: str
    line: str
    column: int
    new: str
    nth: int = 0
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    after: str = field(default='', compare=False)
    block: str = field(default='', compare=False)
    at_import: bool = field(default=False, compare=False)

    @property
    def package(self):
        return self.file.split('/')[1]

    @property
    def id(self):
        fact = f'{self.kind}|{self.line}|{self.column}|{self.new}|{self.nth}'
        return f'{self.file.removeprefix("mmfreq/")}:{self.function}:{hashlib.sha1(fact.encode()).hexdigest()[:6]}'


def first_of(body):
    """Index of the first statement that is neither a docstring nor an import from `__future__`."""
    for index, node in enumerate(body):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == '__future__'):
            return index
    return len(body)


def is_block(value):
    return isinstance(value, list) and bool(value) and isinstance(value[0], ast.stmt)


def is_text(node):
    """Whether operators are not arithmetic on the node: strings, and literals of lists and tuples."""
    literal = (ast.JoinedStr, ast.List, ast.Tuple)
    return isinstance(node, literal) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


class Sites:
    """`Sites(file, source).found`: all mutations of a source, in order."""

    def __init__(self, file, source):
        self.file, self.source, self.found, self.counts = file, source, [], defaultdict(int)
        lines = source.splitlines(keepends=True)
        self.starts = [0, *itertools.accumulate(map(len, lines))]
        self.visit(ast.parse(source), [], f'{file}:1')

    def place(self, node, end=False):
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)
        return self.starts[line - 1] + column

    def add(self, kind, start, end, new, scope, block):
        line_start, line_end = self.source.rfind(b'\n', 0, start) + 1, self.source.find(b'\n', start)
        whole = self.source[line_start : line_end if line_end >= 0 else None].decode()
        line, before = whole.strip(), self.source[line_start:start].decode()
        rest = self.source[end : line_end if line_end >= 0 else None].decode()  # empty where the node ends on a later line
        column, after = len(before.lstrip()), (before + new + rest).strip()
        function = '.'.join(name for name, _ in scope) or '<module>'
        same = (function, kind, line, column, new)
        self.counts[same] += 1
        at_import = not any(is_function for _, is_function in scope)
        places = {'start': start, 'end': end, 'after': after, 'block': block, 'at_import': at_import}
        self.found.append(Site(self.file, *same, nth=self.counts[same], **places))

    def between(self, kind, left, right, pair, scope, block):
        """Replace the operator between two operands."""
        start, end = self.place(left, end=True), self.place(right)
        gap = self.source[start:end].decode()
        places = list(re.finditer(re.escape(pair[0]).replace(r'\ ', r'\s+'), gap))
        if len(places) == 1 and '#' not in gap:
            self.add(kind, start + places[0].start(), start + places[0].end(), pair[1], scope, block)

    def visit(self, node, scope, block):
        if self.is_free(node):
            return
        self.mutate(node, scope, block)
        if isinstance(node, ast.Raise):
            return  # its message
        inner = [*scope, (node.name, not isinstance(node, ast.ClassDef))] if hasattr(node, 'decorator_list') else scope
        for name, value in ast.iter_fields(node):
            if is_block(value):
                first = value[min(first_of(value), len(value) - 1)].lineno
                for statement in value:
                    self.visit(statement, inner, f'{self.file}:{first}')
            elif name not in ('annotation', 'returns'):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child, scope, block)

    def is_free(self, node):
        """Imports, `__all__`, messages, and f-strings, where positions are wrong before Python 3.12."""
        if isinstance(node, ast.Call):
            return getattr(node.func, 'attr', getattr(node.func, 'id', None)) in MESSAGES
        if isinstance(node, ast.Expr):
            return self.is_free(node.value)
        if isinstance(node, ast.Assign):
            return any(isinstance(target, ast.Name) and target.id == '__all__' for target in node.targets)
        return isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr))

    def mutate(self, node, scope, block):
        at = scope, block
        if isinstance(node, ast.BinOp) and not is_text(node.left) and not is_text(node.right):
            if pair := OPERATORS.get(type(node.op).__name__):
                self.between('operator', node.left, node.right, pair, *at)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            self.between('comparison', node.left, node.comparators[0], COMPARISONS[type(node.ops[0]).__name__], *at)
        elif isinstance(node, ast.BoolOp):
            pair = ('and', 'or') if isinstance(node.op, ast.And) else ('or', 'and')
            self.between('condition', node.values[0], node.values[1], pair, *at)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start = self.place(node)
            self.add('condition', start, start + re.match(rb'not\s*', self.source[start:]).end(), '', *at)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            new = not node.value if isinstance(node.value, bool) else node.value + 1
            self.add('constant', self.place(node), self.place(node, end=True), repr(new), *at)
        elif self.can_be_dropped(node):
            self.add('dropped line', self.place(node), self.place(node, end=True), 'pass', *at)

    @staticmethod
    def can_be_dropped(node):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return not ast.unparse(node.value).startswith('super().__init__')
        return isinstance(node, (ast.AugAssign, ast.Raise))


def sites_of(root):
    """{Site: itself} of a checkout."""
    sources = sorted(path for package in PACKAGES for path in (root / 'mmfreq' / package).rglob('*.py'))
    return {site: site for path in sources for site in Sites(path.relative_to(root).as_posix(), path.read_bytes()).found}


def choose(sites, seed, count):
    """Packages and kinds in turn, at most one mutation of a function; changes elsewhere hardly change the choice."""
    ranked = sorted(sites, key=lambda site: hashlib.sha1(f'{seed} {site.id}'.encode()).hexdigest())
    chosen, used = [], set()
    for turn, (number, package) in itertools.product(range(count), enumerate(PACKAGES)):
        free = [site for site in ranked if site.package == package and (site.file, site.function) not in used]
        wanted = KINDS[(turn + number) % len(KINDS)]
        if free and len(chosen) < count:
            site = next((site for site in free if site.kind == wanted), free[0])
            chosen.append(site)
            used.add((site.file, site.function))
    return sorted(chosen, key=lambda site: (site.package, site.file, site.function))


@contextlib.contextmanager
def mutated(root, site, number):
    """Apply a mutation with its own modification time, because Python reuses a compiled file with the same time."""
    path = root / site.file
    source, stamp = path.read_bytes(), path.stat().st_mtime
    path.write_bytes(source[: site.start] + site.new.encode() + source[site.end :])
    os.utime(path, (stamp + 1 + number,) * 2)
    try:
        yield
    finally:
        path.write_bytes(source)
        os.utime(path, (stamp, stamp))
