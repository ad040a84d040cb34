"""Every command of README.md and docs/ is run here, or its page says who runs it or why nobody does.

A command of a shell block is accounted for by one of

- a row of `RUNS` below: it is run here in an empty folder that looks like a checkout, made short by further arguments;
- a comment right before its block, `<!-- run by: tests/x.py::test_y -->`: that test runs it;
- a comment right before its block, `<!-- not run here: needs 8 GPUs and ADE20K -->`.

A pattern makes a comment speak of some commands of the block: `<!-- not run here (pip *): ... -->`. Whether it is run or not, every
command, those within sentences and in the READMEs of configs/ too, must name tools, options, configs and extras that there are.
"""

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import logging
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mmfreq  # before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is

ROOT = Path(mmfreq.__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/**/*.md'))]
CONFIG_PAGES = sorted(ROOT.glob('configs/**/README.md'))

# Stand-ins for what the commands need, made in the folder that they run in; each gets the command


def camvid(command):
    """Noise in CamVid's folders."""
    import cv2

    rng = np.random.default_rng(0)
    for split, count in (('training', 4), ('validation', 2)):
        for kind, suffix, classes in (('images', '.jpg', 256), ('annotations', '.png', 11)):
            folder = Path('data/camvid', kind, split)
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                shape = (180, 240, 3) if kind == 'images' else (180, 240)
                cv2.imwrite(str(folder / f'{index}{suffix}'), rng.integers(classes, size=shape, dtype=np.uint8))


def fruits_nuts(command):
    """The toy set as photographs of three fruits."""
    from mmfreq.datasets.toy import write_toy_coco

    if Path('data/fruits_nuts').exists():
        return
    write_toy_coco('toy', train=2, val=2)
    images = Path('data/fruits_nuts/images')
    images.mkdir(parents=True)
    for split in ('train', 'val'):
        table = json.loads(Path(f'toy/annotations/instances_{split}2017.json').read_text())
        table['categories'] = [{'id': i + 1, 'name': name} for i, name in enumerate(('date', 'fig', 'hazelnut'))]
        table['annotations'] = [row for row in table['annotations'] if row['category_id'] <= 3]
        (images.parent / f'{split}.json').write_text(json.dumps(table))
        for file in Path(f'toy/{split}2017').iterdir():
            shutil.copy(file, images / file.name)


def last_checkpoint(command):
    """The checkpoint of a shortened run under the name that the whole run's has."""
    for name in command.words:
        if re.fullmatch(r'work_dirs/.+/(iter|epoch)_\d+\.pth', name) and not Path(name).exists():
            shutil.copy((Path(name).parent / 'last_checkpoint').read_text().strip(), name)


@dataclass(frozen=True)
class Run:
    """How commands that match a pattern are run.

    Attributes:
        pattern: as in a shell, for the whole command.
        more: arguments that are added, so that it takes seconds; the last of two equal options counts.
        needs: stand-ins to make first.
    """

    pattern: str
    more: str = ''
    needs: tuple = ()


ONE_STEP = 'train_dataloader.num_workers=0 train_dataloader.batch_size=1 val_dataloader.num_workers=0'
SHORT_ITERATIONS = f'--cfg-options {ONE_STEP} train_cfg.max_iters=1 train_cfg.val_interval=1'
SHORT_EPOCHS = f'--cfg-options {ONE_STEP} train_cfg.max_epochs=1 train_dataloader.dataset.times=1'
NO_WORKERS = '--cfg-options test_dataloader.num_workers=0'
RUNS = (
    Run('python -m mmfreq.doctor'),
    Run('python tools/make_toy_dataset.py *', '--train 4 --val 2 --size 64 64'),
    Run('python tools/train.py configs/seg/*_toy-*', SHORT_ITERATIONS),
    Run('python tools/train.py configs/seg/*_camvid-*', SHORT_ITERATIONS, (camvid,)),
    Run('python tools/train.py configs/det/*_fruits-nuts-*', SHORT_EPOCHS, (fruits_nuts,)),
    Run('python tools/test.py configs/* work_dirs/*', NO_WORKERS, (last_checkpoint,)),
    Run('python tools/infer.py configs/* work_dirs/*', needs=(last_checkpoint,)),
    Run('python tools/few_gpus.py configs/upernet_hornet_ade20k.py *'),
    Run('python tools/export_onnx.py *-micro *'),
    Run('python tools/reproduce.py --list'),
    Run('python tools/reproduce.py --audit', '--filter affnet-t_*'),
    Run('python tools/reproduce.py --filter toy'),
    # what these measure, tests/tools/test_benchmark.py measures in small
    Run('python tools/benchmark.py --suite *', '--list'),
    Run('python tools/benchmark.py --tune*', '--channels 4 --size 7 --repeats 1'),
    Run('python benchmarks/gpu.py --only precision *', '--tiny --families hornet-micro'),
)

# Commands on the pages

FENCE = re.compile(
    r'(?P<marks>(?:^[ ]*<!--[^\n]*-->\n)*)^(?P<indent>[ ]*)```(?P<language>[^\n]*)\n(?P<body>.*?)^[ ]*```$',
    re.MULTILINE | re.DOTALL,
)
SHELLS = ('bash', 'console', 'sh', 'shell')
MARK = re.compile(r'<!-- (?P<kind>not run here|run by)(?: \((?P<pattern>[^)]+)\))?: (?P<told>.+?) -->')
STARTS = r'(?:python3?|bash|pip|(?:bash )?tools/\w+\.sh)'
WITHIN = re.compile(rf'`((?:[A-Z_]+=\S+ )*{STARTS}(?: [^`]+)?|tools/\w+\.py [^`]+)`')
TEST = re.compile(r'tests/[\w/]+\.py::\w+')


@dataclass(frozen=True)
class Mark:
    kind: str
    pattern: str
    told: str


@dataclass(frozen=True)
class Command:
    """A command of a page: its words without environment and redirection, and the comments before its block."""

    page: str
    line: int
    words: tuple
    target: str = ''
    marks: tuple = ()
    in_sentence: bool = False

    @property
    def text(self):
        return ' '.join(self.words)

    @property
    def mark(self):
        return next((mark for mark in self.marks if fnmatchcase(self.text, mark.pattern)), None)

    def __str__(self):
        return f'{self.page}:{self.line}: {self.text}'


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    commands: tuple
    marks: tuple

    def __str__(self):
        return f'{self.page}:{self.line}'


def commands_of(body, console, **place):
    """Commands of a block: continued lines joined, comments dropped, `$ ` of a console taken off, the block's variables put in."""
    lines = body.replace('\\\n', ' ').splitlines()
    if console:
        lines = [line.strip()[2:] for line in lines if line.strip().startswith('$ ')]
    variables = {}
    for line in lines:
        for name, value in variables.items():
            line = re.sub(rf'\$({name}\b|{{{name}}})', value, line)
        words = shlex.split(line, comments=True)
        assigned = [re.fullmatch(r'([A-Za-z_]\w*)=(.*)', word) for word in words]
        count = next((i for i, found in enumerate(assigned) if not found), len(words))
        if count == len(words):
            variables |= dict(found.groups() for found in assigned)
            continue
        words, target = words[count:], ''
        if '>' in words:
            words, target = words[: words.index('>')], words[words.index('>') + 1]
        yield Command(words=tuple(words), target=target, **place)


def blocks_of(page):
    text = page.read_text(encoding='utf-8')
    name = page.relative_to(ROOT).as_posix()
    for found in FENCE.finditer(text):
        if found['language'].strip() in SHELLS:
            line = text[: found.start('language')].count('\n') + 1
            marks = tuple(Mark(each['kind'], each['pattern'] or '*', each['told']) for each in MARK.finditer(found['marks']))
            place = dict(page=name, line=line, marks=marks)
            yield Block(name, line, tuple(commands_of(found['body'], found['language'] == 'console', **place)), marks)


def within_sentences(page):
    """Commands in code spans outside of blocks."""
    text = page.read_text(encoding='utf-8')
    prose = FENCE.sub(lambda found: '\n' * found[0].count('\n'), text)
    for found in WITHIN.finditer(prose):
        line = prose[: found.start()].count('\n') + 1
        text = ('python ' if re.match(r'tools/\w+\.py', found[1]) else '') + found[1].replace('\n', ' ')
        yield from commands_of(text, False, page=page.relative_to(ROOT).as_posix(), line=line, in_sentence=True)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
WRITTEN = [command for block in BLOCKS for command in block.commands]
NAMED = [command for page in (*PAGES, *CONFIG_PAGES) for command in within_sentences(page)]
NAMED += [command for page in CONFIG_PAGES for block in blocks_of(page) for command in block.commands]


def row_of(command):
    return next((row for row in RUNS if not command.mark and fnmatchcase(command.text, row.pattern)), None)


# Running one


@cache
def script(path):
    """A tool or benchmark as a module, not yet run."""
    with contextlib.ExitStack() as stack:
        sys.path.insert(0, str(ROOT / 'tools'))
        stack.callback(sys.path.remove, str(ROOT / 'tools'))
        spec = importlib.util.spec_from_file_location(f'command_{Path(path).stem}', ROOT / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def module_of(words):
    """(module whose `main` a command runs, arguments of it)."""
    if words[1] == '-m':
        return importlib.import_module(words[2]), list(words[3:])
    return script(words[1]), list(words[2:])


def call(function, arguments):
    """`main` or `parse_args` of a script, some of which only read the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['a script', *arguments])
        return function(arguments) if inspect.signature(function).parameters else function()


def run(command, row):
    """Run a command in this process, in the current folder; the exit status must be 0."""
    for make in row.needs:
        make(command)
    module, arguments = module_of(command.words)
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            status = call(module.main, [*arguments, *shlex.split(row.more)])
    except SystemExit as end:
        status = end.code
    assert not status, f'{command}: ended with {status}\n{sink.getvalue()[-2000:]}'
    assert sink.getvalue().strip(), f'{command} printed nothing'
    if command.target:
        Path(command.target).write_text(sink.getvalue())


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder that looks like a checkout; docs/ is no link, as commands write into it."""
    for name in ('tools', 'configs', 'mmfreq', 'benchmarks'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'docs/measurements').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # loggers of earlier runs write to streams that are closed
    return tmp_path


def that_run():
    for block in BLOCKS:
        if any(map(row_of, block.commands)):
            trains = any('tools/train.py' in command.text for command in block.commands)
            yield pytest.param(block, id=str(block), marks=[pytest.mark.slow] * trains)


@pytest.mark.slow
@pytest.mark.parametrize('block', that_run())
def test_commands_run(block, checkout):
    for command in block.commands:
        if row := row_of(command):
            run(command, row)


# Accounting


def test_every_block_is_found():
    assert len(BLOCKS) >= 14 and len(WRITTEN) >= 25 and len(NAMED) >= 10
    for page in (*PAGES, *CONFIG_PAGES):
        text = page.read_text(encoding='utf-8')
        opened = len(re.findall(rf'^[ ]*```(?:{"|".join(SHELLS)})$', text, re.MULTILINE))
        assert len(list(blocks_of(page))) == opened, page
        for found in FENCE.finditer(text):
            stray = re.search(rf'^(\$ )?{STARTS} .+', found['body'], re.MULTILINE)
            assert found['language'].strip() or not stray, f'{page.name}: call the block of `{stray[0]}` bash'


def test_every_command_is_accounted_for():
    lost = [str(command) for command in WRITTEN if not command.mark and not row_of(command)]
    how = 'add a row to RUNS, or a comment before the block (see the head of this file)'
    assert not lost, '\n'.join([f'nobody runs these commands; {how}:', *lost])


def test_no_comment_or_row_is_idle():
    used = {row_of(command) for command in WRITTEN}
    assert not [row.pattern for row in RUNS if row not in used]
    for block in BLOCKS:
        used = {command.mark for command in block.commands}
        assert not [mark for mark in block.marks if mark not in used], block
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        understood = sum(len(block.marks) for block in BLOCKS if block.page == page.relative_to(ROOT).as_posix())
        assert len(re.findall(r'<!-- *(?:not run|run by)', text)) == understood, f'{page.name}: a comment stands before no block'


def test_comments_tell_a_test_that_exists_or_a_reason():
    for block in BLOCKS:
        for mark in block.marks:
            tests = TEST.findall(mark.told)
            assert tests or (mark.kind == 'not run here' and len(mark.told.split()) >= 3), f'{block}: {mark}'
            for name in tests:
                path, _, function = name.partition('::')
                assert (ROOT / path).is_file() and f'def {function}(' in (ROOT / path).read_text(encoding='utf-8'), (
                    f'{block}: {name}'
                )


# What a command names must be there

NUMBERS = {'GPUS': '8', 'N': '8'}  # placeholders where a tool wants a number
TORCHRUN = {'tools/dist_train.sh': ('tools/train.py', 1), 'tools/dist_test.sh': ('tools/test.py', 2)}
WRITES = ('--out', '--json', '--plot', '--work-dir', '--show-dir')


@cache
def made_on(page):
    """Files that a page has its reader make."""
    path = ROOT / page
    return re.findall(r'New file `([^`]+)`', path.read_text(encoding='utf-8')) if path.is_file() else []


def problem(command):
    """What is wrong with the tool, options, configs or extras that a command names; '' if nothing is."""
    words = [NUMBERS.get(word, word) for word in command.words]
    if words[0] == 'bash':
        del words[0]
    for before, word in zip(['', *words], words):
        inside = re.match(r'(tools|configs|benchmarks|tests|mmfreq)/.*\.\w+$', word)
        if inside and before not in WRITES and not (ROOT / word).exists() and word not in made_on(command.page):
            return f'there is no {word}'
    if words[0].endswith('.sh'):
        return problem_of_script(words)
    if words[0] == 'pip':
        extras = re.findall(r'(?:\.|mmfreq)\[([\w,]+)\]', command.text)
        table = (
            (ROOT / 'pyproject.toml').read_text(encoding='utf-8').partition('[tool.setuptools.dynamic.optional-dependencies]')[2]
        )
        known = re.findall(r'^(\w+) = ', table.partition('\n[')[0], re.MULTILINE)
        return next((f'there is no extra {name}' for each in extras for name in each.split(',') if name not in known), '')
    of_ours = words[2].startswith('mmfreq') if words[1] == '-m' else (ROOT / words[1]).exists()  # not a file that a page makes
    if words[0] in ('python', 'python3') and of_ours:
        return problem_of_arguments(*module_of(words), command.in_sentence)
    return ''


def problem_of_script(words):
    """A shell script takes arguments of the tool that it starts, or says itself what it takes."""
    name, *arguments = words
    if name in TORCHRUN and arguments:
        tool, place = TORCHRUN[name]
        number = arguments.pop(place) if len(arguments) > place else ''
        return problem_of_arguments(script(tool), arguments) if number.isdigit() else f'{number!r} is no number of GPUs'
    text = (ROOT / name).read_text(encoding='utf-8')
    return next((f'{name} has no {word}' for word in arguments if word.startswith('-') and word not in text), '')


def problem_of_arguments(module, arguments, in_sentence=False):
    """Within a sentence a command may lack what it requires."""
    told = io.StringIO()
    parse = getattr(module, 'parse_args', None)
    in_part = parse is None or '...' in arguments
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            call(parse or module.main, ['--help'] if in_part else arguments)
    except SystemExit as end:
        if end.code:
            last = told.getvalue().strip().splitlines()[-1]
            return problem_of_arguments(module, ['...', *arguments]) if in_sentence and 'are required' in last else last
    options = [word for word in arguments if re.match('--[a-z]', word)] if in_part else []
    return next((f'there is no option {word}' for word in options if word.partition('=')[0] not in told.getvalue()), '')


def written(text):
    (command,) = commands_of(text, False, page='a page', line=1)
    return command


def test_what_commands_name_is_there():
    found = {command: problem(command) for command in dict.fromkeys((*WRITTEN, *NAMED))}
    assert not any(found.values()), '\n'.join(f'{command}: {told}' for command, told in found.items() if told)


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('python tools/trian.py CONFIG', 'there is no tools/trian.py'),
        ('python tools/train.py configs/none.py', 'there is no configs/none.py'),
        ('python tools/train.py CONFIG --sead 0', 'unrecognized arguments: --sead'),
        ('python tools/train.py', 'required: config'),
        ('python tools/few_gpus.py CONFIG two', "invalid int value: 'two'"),
        ('python tools/infer.py ... --thruth labels', 'no option --thruth'),
        ('python benchmarks/compare_backbones.py ... --sead 0', 'no option --sead'),
        ('python -m mmfreq.doctor --jsn', 'no option --jsn'),
        ('tools/dist_train.sh CONFIG --amp', 'no number of GPUs'),
        ('tools/dist_test.sh CONFIG CKPT 8 --tat', 'unrecognized arguments: --tat'),
        ('bash tools/run_tests.sh --quick', 'tools/run_tests.sh has no --quick'),
        ('pip install -e ".[light]"', 'no extra light'),
    ],
)
def test_a_wrong_command_is_noticed(text, told):
    assert told in problem(written(text))


def test_a_block_is_read_as_a_shell_reads_it():
    body = 'N=some\npython tools/x.py $N/a \\\n    --b "c d"   # why\nA=1 python y.py > z.txt\n'
    found = list(commands_of(body, False, page='p', line=1))
    assert [(each.words, each.target) for each in found] == [
        (('python', 'tools/x.py', 'some/a', '--b', 'c d'), ''),
        (('python', 'y.py'), 'z.txt'),
    ]
    (typed,) = commands_of('$ pip install x\nCollecting x\n', True, page='p', line=1)
    assert typed.words == ('pip', 'install', 'x')
