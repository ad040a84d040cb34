"""`tools/reproduce.py` on toy data and a checkpoint trained on it: the table, verdicts for wrong checkpoints, a run that continues
after kill -9, and numbers written to a copy of the zoo.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import mmfreq
from mmfreq.datasets.toy import write_toy_ade20k

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quiet_loggers')]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = 'configs/seg/hornet'
TOY = 'hornet-micro_upernet_1xb8-400_toy-128x128'
GOOD, ALSO_GOOD, OTHER_ARCH, NO_FILE, TRUNCATED = (TOY.replace('_', f'-{letter}_', 1) for letter in 'agont')
ROWS = (GOOD, OTHER_ARCH, NO_FILE, TRUNCATED, ALSO_GOOD)
WITH_FILE = [name for name in ROWS if name != NO_FILE]
FEW = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
LIGHT = ['train_dataloader.batch_size=2', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']


@pytest.fixture(scope='module')
def reproduce(tool_main):
    return tool_main('reproduce')


def write_metafile(root, published):
    """The metafile of the copied tree: five copies of the toy row, with published metrics by name."""
    content = yaml.safe_load((ROOT / FOLDER / 'metafile.yml').read_text())
    (model,) = [each for each in content['Models'] if each['Name'] == TOY]
    results = {
        name: [{'Task': 'Semantic Segmentation', 'Dataset': 'generated shapes', 'Metrics': metrics}]
        for name, metrics in published.items()
    }
    content['Models'] = [
        {**model, 'Name': name, 'Config': f'{FOLDER}/{name}.py', **({'Results': results[name]} if name in results else {})}
        for name in ROWS
    ]
    (root / FOLDER / 'metafile.yml').write_text(yaml.safe_dump(content))


@pytest.fixture(scope='module')
def zoo(tmp_path_factory, tool_main, quiet_loggers):
    """Folder with data/, a zoo of five rows below root/, and checkpoints of four of them below ck/, two of them valid."""
    folder = tmp_path_factory.mktemp('zoo')
    root = folder / 'root'
    shutil.copytree(ROOT / 'configs/_base_', root / 'configs/_base_')
    (root / FOLDER).mkdir(parents=True)
    for name in ROWS:
        shutil.copy(ROOT / FOLDER / f'{TOY}.py', root / FOLDER / f'{name}.py')
    write_metafile(root, {GOOD: {'mIoU': 99.0, 'mIoU(ms+flip)': 99.0}})
    write_toy_ade20k(folder / 'data', train=4, val=2, size=(64, 64), seed=0)
    data = [f'{loader}_dataloader.dataset.data_root={folder / "data"}' for loader in ('train', 'val')]
    work_dir = folder / 'ck' / GOOD
    config = root / FOLDER / f'{GOOD}.py'
    tool_main('train')([str(config), '--work-dir', str(work_dir), '--cfg-options', *FEW, *LIGHT, *data])
    trained = (work_dir / 'iter_2.pth').read_bytes()
    (folder / 'ck/sub').mkdir()
    state = torch.load(work_dir / 'iter_2.pth', weights_only=False)['state_dict']
    torch.save({'state_dict': state}, folder / f'ck/sub/{ALSO_GOOD}-0123abcd.pth')
    wider = {name: torch.cat([value, value]) if value.ndim else value for name, value in state.items()}
    torch.save({'state_dict': wider}, folder / f'ck/{OTHER_ARCH}.pth')
    (folder / f'ck/{TRUNCATED}.pth').write_bytes(trained[: len(trained) // 2])
    (folder / 'ck/notes.bin').write_bytes(b'something else')
    return folder


def arguments(zoo, *more):
    options = ['--root', zoo / 'root', '--checkpoints', zoo / 'ck', '--data', f'toy={zoo / "data"}', '--out', zoo / 'out']
    return [str(each) for each in (*options, *more)]


def results(zoo):
    """The results on disk, by row and way of testing; none without a file."""
    path = zoo / 'out/results.json'
    entries = json.loads(path.read_text())['results'] if path.is_file() else []
    return {(entry['row'], entry['test']): entry for entry in entries}


def killed_after_the_first_result(zoo):
    """Run the tool and kill it when the second evaluation has started."""
    environment = os.environ | {'CUDA_VISIBLE_DEVICES': '', 'OMP_WAIT_POLICY': 'PASSIVE'}
    with (zoo / 'first.txt').open('w') as printed:
        run = subprocess.Popen(
            [sys.executable, str(ROOT / 'tools/reproduce.py'), *arguments(zoo)],
            cwd=zoo,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + 600
            while results(zoo).get((GOOD, 'ms+flip'), {}).get('state') != 'started':
                assert run.poll() is None and time.monotonic() < end, (zoo / 'first.txt').read_text()
                time.sleep(0.05)
        finally:
            run.send_signal(signal.SIGKILL)
            run.wait()


def killed_and_finished(zoo):
    """A killed run, then a complete one with --update-zoo: the results after the kill, and the finished process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CUDA_VISIBLE_DEVICES', '')
        killed_after_the_first_result(zoo)
        left = results(zoo)
        log = Path(left[GOOD, 'single scale']['log'])
        written = (zoo / log).stat().st_mtime_ns
        patch.chdir(zoo)
        done = subprocess.run(
            [sys.executable, str(ROOT / 'tools/reproduce.py'), *arguments(zoo, '--update-zoo')],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (zoo / log).stat().st_mtime_ns == written, 'a finished evaluation was repeated'
    return left, done


@pytest.mark.slow
def test_the_table_is_filled_and_wrong_checkpoints_are_verdicts(zoo, reproduce, capsys, monkeypatch):
    """One test for everything about these evaluations: workers of pytest-xdist would each repeat them."""
    left, done = killed_and_finished(zoo)
    assert done.returncode == 1 and 'Traceback' not in done.stdout + done.stderr, done.stderr
    assert_continues_after_a_kill(zoo, left)
    assert_table(zoo, done)
    assert_zoo_has_the_numbers(zoo)
    assert_judged_by_what_is_published_now(zoo, reproduce, capsys, monkeypatch)


def assert_continues_after_a_kill(zoo, left):
    """What was finished before the kill is kept."""
    assert {key: entry['state'] for key, entry in left.items()} == {
        (GOOD, 'single scale'): 'measured',
        (GOOD, 'ms+flip'): 'started',
    }
    after = results(zoo)
    assert after[GOOD, 'single scale'] == left[GOOD, 'single scale']
    assert after[GOOD, 'ms+flip']['state'] == 'measured'
    assert set(after) == {(GOOD, 'single scale'), (GOOD, 'ms+flip'), *((name, 'single scale') for name in WITH_FILE[1:])}


def assert_table(zoo, done):
    score = results(zoo)[GOOD, 'single scale']['metrics']['mIoU']
    lines = [line.strip('|').split(' | ') for line in (zoo / 'out/results.md').read_text().splitlines() if 'hornet-micro' in line]
    table = {(cells[0].strip(), cells[1]): cells[2:] for cells in lines}
    assert table[GOOD, 'single scale'][:4] == ['mIoU', '99.0', f'{score:.2f}', f'differs by {round(score - 99, 2):+.1f}']
    assert table[GOOD, 'ms+flip'][0] == 'mIoU(ms+flip)' and table[GOOD, 'ms+flip'][3].startswith('differs by -')
    assert table[ALSO_GOOD, 'single scale'][2:4] == [f'{score:.2f}', 'measured (nothing published)']
    assert table[OTHER_ARCH, 'single scale'][3].startswith(f'failed: {OTHER_ARCH}.pth does not fit')
    assert 'truncated' in table[TRUNCATED, 'single scale'][3] and (NO_FILE, 'single scale') not in table
    for name in (OTHER_ARCH, TRUNCATED):
        verdict = table[name, 'single scale'][3]
        assert (zoo / verdict.rpartition('log: ')[2]).is_file()
        assert name in done.stdout
    assert 'notes.bin' in done.stdout and '2 failed' in done.stdout


def assert_zoo_has_the_numbers(zoo):
    """In the copied zoo, for the measured rows only."""
    entry = results(zoo)[ALSO_GOOD, 'single scale']
    page = (zoo / 'root/model_zoo.md').read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f'| [{ALSO_GOOD}]')]
    assert f'{entry["metrics"]["mIoU"]:.1f} mIoU ({ALSO_GOOD}-0123abcd.pth, {entry["date"][:10]}, CPU)' in line
    assert 'trained here' in page and all(f'[{name}]' in page for name in ROWS)
    models = {each['Name']: each for each in yaml.safe_load((zoo / 'root' / FOLDER / 'metafile.yml').read_text())['Models']}
    (measured,) = models[ALSO_GOOD]['Measured here']
    assert measured['Versions'] == {'torch': torch.__version__, 'mmfreq': mmfreq.__version__}
    assert [each['Test'] for each in models[GOOD]['Measured here']] == ['single scale', 'ms+flip']
    assert all('Measured here' not in models[name] for name in (OTHER_ARCH, NO_FILE, TRUNCATED))


def assert_judged_by_what_is_published_now(zoo, reproduce, capsys, monkeypatch):
    monkeypatch.chdir(zoo)
    before = results(zoo)
    score, multi = (before[GOOD, test]['metrics'] for test in ('single scale', 'ms+flip'))
    for shift, status, verdict in ((0, 0, 'reproduced'), (1, 1, 'differs by -1.0')):
        write_metafile(zoo / 'root', {GOOD: {**multi, 'mIoU': score['mIoU']}, ALSO_GOOD: {'mIoU': score['mIoU'] + shift}})
        pattern = '*-a_*' if shift == 0 else '*-g_*'  # ROWS' letters
        assert reproduce(arguments(zoo, '--filter', pattern)) == status
        printed = capsys.readouterr().out
        assert verdict in printed and 'measured on' in printed and 'running' not in printed
    assert results(zoo) == before


def test_audit_needs_no_data_and_fails_on_a_difference(zoo, reproduce, capsys):
    assert reproduce(['--root', str(zoo / 'root'), '--audit', '--filter', 'micro-o']) == 0
    assert '1 configs, 0 of them differ' in capsys.readouterr().out
    path = zoo / 'root' / FOLDER / 'metafile.yml'
    before = path.read_text()
    path.write_text(before.replace('lr: 0.004', 'lr: 0.003'))
    try:
        assert reproduce(['--root', str(zoo / 'root'), '--audit']) == 1
    finally:
        path.write_text(before)
    printed = capsys.readouterr().out
    assert f'{OTHER_ARCH}: lr is 0.004 in the config, 0.003 in the record' in printed and '5 of them differ' in printed


def test_list_prints_rows_and_checkpoints(zoo, reproduce, capsys):
    assert reproduce(arguments(zoo, '--list')) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ROWS)
    assert f'{zoo}/ck/{GOOD}/iter_2.pth: {GOOD}, matched by its folder' in printed
    assert re.search(r'mIoU \d+\.\d, mIoU\(ms\+flip\) \d+\.\d', printed)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--filter', 'resnet'], "5 rows .*'resnet'"),
        (['--data', 'ade=/data'], "--data .*toy.* 'ade=/data'"),
        (['--checkpoints', 'nowhere'], 'nowhere'),
        (['--data', 'ade=/data', '--data', 'toy=/data'], "'ade=/data'"),
        (['--root', 'nowhere'], 'nowhere/configs'),
    ],
)
def test_invalid_options_are_refused(zoo, reproduce, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        reproduce([*arguments(zoo), *options])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith('error: ')
    assert re.search(message, printed)


def test_exit_status_without_a_checkpoint(zoo, reproduce, tmp_path, capsys):
    assert reproduce(['--root', str(zoo / 'root'), '--checkpoints', str(tmp_path)]) == 1
    assert '5 rows' in capsys.readouterr().out


def test_the_docs_name_existing_options_and_datasets(reproduce, capsys):
    from mmfreq.zoo.data_roots import data_name
    from mmfreq.zoo.rows import load_rows

    page = (ROOT / 'docs/reproduction.md').read_text()
    with pytest.raises(SystemExit):
        reproduce(['--help'])
    help_text = capsys.readouterr().out
    for call in re.findall(r'^python tools/reproduce\.py.*', page, re.MULTILINE):
        assert all(option in help_text for option in re.findall(r'--[\w-]+', call))
    assert all(option in help_text for option in re.findall(r'`(--[\w-]+)', page))
    listed = set(re.findall(r'`(\w+)`', page[page.index('`--data NAME=FOLDER` names') : page.index('; `--list` shows')]))
    names = {data_name(row) for row in load_rows()}
    assert len(listed) == 7 and listed <= names and names - listed <= {'fruits_nuts'}
