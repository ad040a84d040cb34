"""The shell scripts of tools/: syntax, arguments, and which Python tools/env.sh chooses. Nothing is downloaded.

A temporary PATH has the few commands that the scripts need, and stub interpreters. A stub is this Python without its
site-packages, with a folder of fake modules first on its path. It emulates `-m venv` and `-m pip`.
"""

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / 'tools').glob('*.sh'))
COMMANDS = ('basename', 'bash', 'cat', 'chmod', 'cp', 'date', 'dirname', 'env', 'ln', 'mkdir', 'rm', 'sleep', 'tail')
STACK = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain')
REQUIREMENTS = ('mmfreq/compat/lite.txt', 'tools/requirements-test.txt', 'tools/requirements-export.txt')
NEEDED_FILES = (*REQUIREMENTS, 'mmfreq/version.py')

# `$state/fail-pip` makes every installation fail, `$state/fail-editable` that of mmfreq; `$state/calls` records the calls.
# An editable installation is a link among the fake modules, and the version of the checkout as metadata.
STUB = """\
#!{bash}
printf '%s\\n' "$*" >>"{state}/calls"
case "$1 $2" in
    '-m venv')
        mkdir -p "$3/bin" && cp "{venv_python}" "$3/bin/python"
        exit ;;
    '-m pip')
        echo 'Downloading torch-9.9-py3-none-any.whl (900.1 MB)'
        [ ! -e "{state}/fail-pip" ] || {{ echo 'No matching distribution found for torch'; exit 1; }}
        sleep {pip_seconds}
        while [ "$#" -gt 0 ]; do
            [ "$1" != --target ] || {{ mkdir -p "$2" && echo >"$2/pytest.py" && echo >"$2/xdist.py"; }}
            if [ "$1" = -e ]; then
                [ ! -e "{state}/fail-editable" ] || exit 1
                version="$(tail -n 1 "$2/mmfreq/version.py")" && version="${{version#*\\'}}" info="{modules}/mmfreq.dist-info"
                ln -sfn "$2/mmfreq" "{modules}/mmfreq" && mkdir -p "$info"
                printf 'Metadata-Version: 2.1\\nName: mmfreq\\nVersion: %s\\n' "${{version%\\'}}" >"$info/METADATA"
            fi
            shift
        done
        exit ;;
esac
exec env PYTHONPATH="{modules}${{PYTHONPATH:+:$PYTHONPATH}}" "{python}" -S "$@"
"""


class FakeHost:
    """A checkout, a home folder and a PATH, all with a space in their names."""

    def __init__(self, folder):
        self.root = folder / 'a check out'
        self.bin = folder / 'the bin'
        self.home = folder / 'my home'
        self.state = folder / 'state'
        for path in (self.root / 'mmfreq' / 'compat', self.root / 'tools', self.bin, self.home, self.state):
            path.mkdir(parents=True)
        for name in NEEDED_FILES:
            shutil.copy2(ROOT / name, self.root / name)
        for script in SCRIPTS:
            shutil.copy2(script, self.root / 'tools' / script.name)
        (self.root / 'mmfreq' / '__init__.py').write_text('')
        (self.root / 'configs').mkdir()
        for command in COMMANDS:
            (self.bin / command).symlink_to(shutil.which(command))
        self.working = self.modules('working')
        # the Python of a new environment: the stack works in it
        self.venv_python = self.stub(self.state / 'venv-python', self.working)

    def modules(self, name, broken=(), absent=()):
        folder = self.state / name
        for package in STACK:
            if package not in absent:
                (folder / package).mkdir(parents=True)
                (folder / package / '__init__.py').write_text('raise ImportError("libfft.so")' if package in broken else '')
        for module in ('mmcv/ops', 'mmseg/models', 'mmdet/models', 'mmpretrain/models'):
            if (folder / module).parent.exists():
                (folder / f'{module}.py').write_text('')
        return folder

    def stub(self, path, modules, pip_seconds=0):
        path.write_text(
            STUB.format(
                bash=shutil.which('bash'),
                state=self.state,
                venv_python=self.state / 'venv-python',
                modules=modules,
                python=sys.executable,
                pip_seconds=pip_seconds,
            )
        )
        path.chmod(0o755)
        return path

    def add_python(self, name='python', modules=None, **kwargs):
        return self.stub(self.bin / name, modules or self.state / 'nothing', **kwargs)

    def add_script(self, name, text):
        path = self.bin / name
        path.write_text(f'#!{shutil.which("bash")}\n{text}\n')
        path.chmod(0o755)

    def environment(self, **more):
        return {'PATH': str(self.bin), 'HOME': str(self.home), **more}

    def start(self, code, **more):
        """Runs bash code after `source tools/env.sh`, from a folder that is not the checkout."""
        script = f'set -euo pipefail\nsource "$CHECKOUT/tools/env.sh"\n{code}\n'
        return subprocess.Popen(
            [shutil.which('bash'), '-c', script],
            cwd=self.home,
            env=self.environment(CHECKOUT=str(self.root), **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def source(self, code, **more):
        return finish(self.start(code, **more))

    def run(self, script, *arguments, **more):
        command = [shutil.which('bash'), str(self.root / 'tools' / script), *map(str, arguments)]
        return subprocess.run(command, cwd=self.home, env=self.environment(**more), capture_output=True, text=True, timeout=60)

    @property
    def calls(self):
        path = self.state / 'calls'
        return path.read_text() if path.exists() else ''

    @property
    def environments_made(self):
        return self.calls.count('-m pip install --disable-pip-version-check --no-input -r ')

    @property
    def installed(self):
        """The checkout that is installed in the environment; None if there is none, or it no longer exists."""
        link = self.working / 'mmfreq'
        return link.resolve().parent if link.exists() else None

    @property
    def cache(self):
        return self.home / '.cache' / 'mmfreq'


def finish(process):
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture
def host(tmp_path):
    return FakeHost(tmp_path)


CHOOSE = 'mmfreq_ensure_environment; echo "$MMFREQ_PYTHON"; echo "$PYTHONPATH"'


# The scripts themselves.


def test_the_scripts_are_the_documented_ones():
    names = {script.name for script in SCRIPTS}
    assert names == {'env.sh', 'quickstart.sh', 'run_tests.sh', 'dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'test_stacks.sh'}


@pytest.mark.parametrize('script', [*SCRIPTS, ROOT / '.ci' / 'run'], ids=lambda path: path.name)
def test_bash_reads_the_script(script):
    result = subprocess.run(['bash', '-n', str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('script', [*SCRIPTS, ROOT / '.ci' / 'run'], ids=lambda path: path.name)
def test_what_is_called_is_executable_and_strict(script):
    if script.name == 'env.sh':
        return
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text()
    assert text.startswith('#!/usr/bin/env bash\n')
    assert '\nset -euo pipefail\n' in text


# Which Python runs.


def test_a_working_active_python_is_used_untouched(host):
    python = host.add_python(modules=host.working)
    result = host.source(CHOOSE)
    assert result.returncode == 0, result.stderr
    chosen, path = result.stdout.splitlines()
    assert chosen == str(python)
    assert path.split(':')[0] == str(host.root)
    assert '-m pip' not in host.calls
    assert '-m venv' not in host.calls
    assert not host.cache.exists()


def test_python3_is_tried_where_python_has_no_stack(host):
    host.add_python('python')
    python = host.add_python('python3', modules=host.working)
    assert host.source(CHOOSE).stdout.splitlines()[0] == str(python)


def test_packages_in_the_current_folder_are_not_an_installed_stack(host):
    host.add_python()
    shutil.copytree(host.working, host.home, dirs_exist_ok=True)
    result = host.source(CHOOSE)
    assert result.stdout.startswith(str(host.cache / 'venv-')), result.stderr


def test_users_pythonpath_stays_behind_the_checkout(host):
    host.add_python(modules=host.working)
    result = host.source(CHOOSE, PYTHONPATH='/other')
    assert result.stdout.splitlines()[1] == f'{host.root}:/other'


@pytest.mark.parametrize(
    ('modules', 'message'),
    [
        ({'broken': ['torchvision']}, 'importing them fails: ImportError: libfft.so'),
        ({'absent': ['mmdet', 'mmpretrain']}, 'does not have: mmdet mmpretrain'),
    ],
)
def test_a_broken_active_stack_is_named_and_replaced_by_the_own_environment(host, modules, message):
    host.add_python(modules=host.modules('other', **modules))
    result = host.source(CHOOSE)
    assert result.returncode == 0, result.stderr
    assert message in result.stderr
    assert result.stdout.startswith(str(host.cache / 'venv-'))


def test_a_bare_python_gets_an_environment_once(host):
    host.add_python('python3')
    first = host.source(CHOOSE)
    assert first.returncode == 0, first.stderr
    assert 'does not have' not in first.stderr  # no message about a Python without OpenMMLab
    assert '900.1 MB' in first.stderr
    chosen = Path(first.stdout.splitlines()[0])
    assert re.fullmatch(r'venv-3\.\d+-[0-9a-f]{10}', chosen.parents[1].name)
    assert (chosen.parents[1] / 'mmfreq-complete').exists()
    assert ' '.join(f'-r {host.root}/{name}' for name in REQUIREMENTS) in host.calls
    assert host.installed == host.root

    second = host.source(CHOOSE)
    assert second.stdout == first.stdout
    assert host.calls.count('-m pip') == 2  # the requirements, and mmfreq


def test_other_requirements_mean_another_environment(host):
    host.add_python('python3')
    first = host.source(CHOOSE).stdout
    with (host.root / 'mmfreq' / 'compat' / 'lite.txt').open('a') as file:
        file.write('another\n')
    assert host.source(CHOOSE).stdout != first
    assert host.environments_made == 2


def test_an_interrupted_installation_is_repeated(host):
    host.add_python('python3')
    venv = Path(host.source(CHOOSE).stdout.splitlines()[0]).parents[1]
    (venv / 'mmfreq-complete').unlink()
    (venv / 'half-written').touch()
    result = host.source(CHOOSE)
    assert result.returncode == 0, result.stderr
    assert 'creating it again' in result.stderr
    assert not (venv / 'half-written').exists()
    assert (venv / 'mmfreq-complete').exists()
    assert host.environments_made == 2


def test_a_failed_installation_shows_the_log_and_leaves_no_stamp(host):
    host.add_python('python3')
    (host.state / 'fail-pip').touch()
    result = host.source(CHOOSE)
    assert result.returncode == 1
    assert 'No matching distribution found for torch' in result.stderr
    log = Path(re.search(r'The full log: (.+)', result.stderr).group(1))
    assert 'No matching distribution' in log.read_text()
    assert not list(host.cache.glob('venv-*/mmfreq-complete'))
    (host.state / 'fail-pip').unlink()
    assert host.source(CHOOSE).returncode == 0


def test_an_environment_that_does_not_import_is_not_stamped(host):
    host.add_python('python3')
    host.stub(host.state / 'venv-python', host.modules('wrong-build', broken=['torchvision']))
    result = host.source(CHOOSE)
    assert result.returncode == 1
    assert 'libfft.so' in result.stderr
    assert not list(host.cache.glob('venv-*/mmfreq-complete'))


@pytest.mark.slow
def test_two_at_once_install_once(host):
    host.add_python('python3')
    host.stub(host.state / 'venv-python', host.working, pip_seconds=0.7)
    results = [finish(process) for process in [host.start(CHOOSE), host.start(CHOOSE)]]
    assert [result.returncode for result in results] == [0, 0]
    assert results[0].stdout == results[1].stdout
    assert host.environments_made == 1
    # either can wait for the other: there is one lock for the environment, and one for mmfreq in it
    assert any('waiting for it' in result.stderr for result in results)


@pytest.mark.parametrize('home', ['/dev/null', ''])
def test_without_a_writable_home_the_environment_is_in_the_checkout(host, home):
    host.add_python('python3')
    result = host.source(CHOOSE, HOME=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(host.root / '.venv-mmfreq' / 'venv-'))
    assert (host.root / '.venv-mmfreq' / '.gitignore').read_text() == '*\n'


def test_xdg_cache_home_is_respected(host, tmp_path):
    host.add_python('python3')
    result = host.source(CHOOSE, XDG_CACHE_HOME=str(tmp_path / 'big disk'))
    assert result.stdout.startswith(str(tmp_path / 'big disk' / 'mmfreq' / 'venv-'))


def test_no_python_at_all(host):
    result = host.source(CHOOSE)
    assert result.returncode == 1
    assert 'Python 3.10 to 3.13 is required' in result.stderr
    assert 'no python, python3 or python3.x on PATH' in result.stderr


def test_pythons_that_do_not_fit_are_named(host):
    host.add_script('python3', 'echo 3.9; exit 1')
    host.add_script('python3.12', 'echo not configured >&2; exit 127')
    result = host.source(CHOOSE)
    assert result.returncode == 1
    assert f'python3 ({host.bin}/python3): 3.9' in result.stderr
    assert f'python3.12 ({host.bin}/python3.12): does not start' in result.stderr


def test_a_python_without_ensurepip_names_the_package(host):
    host.add_script('python3', 'case "$*" in *ensurepip*|*find_spec*) exit 1 ;; esac; echo 3.11')
    result = host.source(CHOOSE)
    assert result.returncode == 1
    assert 'sudo apt install python3.11-venv' in result.stderr


def test_a_missing_pytest_does_not_change_the_active_environment(host):
    host.add_python(modules=host.working)
    for _ in range(2):
        result = host.source('mmfreq_ensure_pytest; echo "$PYTHONPATH"; "$MMFREQ_PYTHON" -c "import pytest"')
        assert result.returncode == 0, result.stderr
    installs = re.findall(r'^-m pip install .*', host.calls, re.MULTILINE)
    assert len(installs) == 1
    folder = re.search(r'--target (.+) pytest pytest-xdist$', installs[0]).group(1)
    assert Path(folder).parent == host.cache
    assert result.stdout.strip().split(':') == [str(host.root), folder]


def test_configs_are_linked_for_inheritance_by_name(host):
    host.add_python(modules=host.working)
    host.source(CHOOSE)
    assert (host.root / 'mmfreq' / '.mim' / 'configs').resolve() == host.root / 'configs'
    linked = re.search(r'for entry in (.+); do', (ROOT / 'tools' / 'env.sh').read_text()).group(1).split()
    shipped = re.search(r'^MIM_ENTRIES = \((.+)\)', (ROOT / 'setup.py').read_text(), re.MULTILINE).group(1)
    assert linked == re.findall(r"'(.+?)'", shipped)


# mmfreq in the project's own environment.

QUICKSTART = 'mmfreq_ensure_environment; mmfreq_ensure_installed "$(mmfreq_chosen_own)" this'


def test_quickstart_installs_its_checkout_in_a_shared_environment(host, tmp_path):
    """Other scripts keep the installation of another checkout, unless that checkout no longer exists."""
    host.add_python('python3')
    assert host.source(QUICKSTART).returncode == 0
    assert host.installed == host.root
    other = FakeHost(tmp_path / 'other')
    other.bin, other.home = host.bin, host.home
    for code, expected in ((CHOOSE, host.root), (QUICKSTART, other.root), (QUICKSTART, other.root)):
        assert other.source(code).returncode == 0
        assert host.installed == expected
    assert host.environments_made == 1 and host.calls.count(' -e ') == 2  # the last one had nothing to do
    (other.root / 'mmfreq' / 'version.py').write_text("__version__ = '99.0'\n")  # another version is installed again
    other.source(QUICKSTART)
    assert (host.working / 'mmfreq.dist-info' / 'METADATA').read_text().endswith('Version: 99.0\n')
    shutil.rmtree(other.root)
    assert host.installed is None
    result = host.source(CHOOSE)
    assert host.installed == host.root and result.stdout.splitlines()[1] == str(host.root)


def test_a_failed_installation_of_mmfreq_is_a_warning(host):
    host.add_python('python3')
    (host.state / 'fail-editable').touch()
    result = host.source(CHOOSE)
    assert result.returncode == 0 and 'warning: the installation failed' in result.stderr
    assert result.stdout.splitlines()[1] == str(host.root)


# Starting several processes.


@pytest.fixture
def cluster(host):
    """A working stack whose torch has no GPU and whose launcher prints what it is asked to start."""
    host.add_python(modules=host.working)
    gpus = host.state / 'gpus'
    gpus.write_text('0')
    torch = host.working / 'torch'
    (torch / '__init__.py').write_text('')
    (torch / 'cuda.py').write_text(f'def device_count(): return int(open({str(gpus)!r}).read())')
    (torch / '__init__.py').write_text('from . import cuda')
    (host.root / 'mmfreq' / 'torchrun.py').write_text(
        textwrap.dedent("""\
        import os, sys
        print(*sys.argv[1:], sep='\\n')
        print('OMP_NUM_THREADS', os.environ.get('OMP_NUM_THREADS'))
        """)
    )
    (host.root / 'configs' / 'a config.py').write_text('')
    host.gpus = gpus
    return host


@pytest.mark.parametrize(
    ('script', 'arguments', 'message'),
    [
        ('dist_train.sh', [], 'expected at least 2 arguments, got 0'),
        ('dist_train.sh', ['config.py'], 'Usage: tools/dist_train.sh CONFIG GPUS'),
        ('dist_train.sh', ['config.py', 'eight'], "GPUS must be a positive integer, got 'eight'"),
        ('dist_train.sh', ['config.py', '0'], "GPUS must be a positive integer, got '0'"),
        ('dist_train.sh', ['config.py', '--amp'], "GPUS must be a positive integer, got '--amp'"),
        ('dist_train.sh', ['config.py', '2'], 'config not found: config.py'),
        ('dist_test.sh', ['config.py', '8'], 'expected at least 3 arguments, got 2'),
        ('dist_test.sh', ['configs/a config.py', 'nowhere.pth', '8'], 'checkpoint not found: nowhere.pth'),
        ('slurm_train.sh', ['gpu', 'job', 'config.py'], 'expected at least 4 arguments, got 3'),
        ('slurm_train.sh', ['gpu', 'job', 'configs/a config.py', 'out'], 'srun not found'),
    ],
)
def test_wrong_arguments_are_explained(cluster, script, arguments, message):
    result = cluster.run(script, *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stdout == ''


def test_dist_train_starts_processes_on_a_cpu(cluster):
    result = cluster.run('dist_train.sh', 'configs/a config.py', '2', '--cfg-options', 'x=a b')
    assert result.returncode == 0, result.stderr
    *command, threads = result.stdout.splitlines()
    train, config = str(cluster.root / 'tools' / 'train.py'), str(cluster.root / 'configs' / 'a config.py')
    assert command[-6:] == [train, config, '--launcher', 'pytorch', '--cfg-options', 'x=a b']
    options = dict(zip(command[:-6:2], command[1:-6:2]))
    port = int(options.pop('--master_port'))
    assert 1024 < port < 65536
    assert options == {'--nnodes': '1', '--node_rank': '0', '--master_addr': '127.0.0.1', '--nproc_per_node': '2'}
    assert threads == f'OMP_NUM_THREADS {max(1, os.cpu_count() // 2)}'


def test_training_needs_only_the_library_of_its_config(cluster):
    for package in ('mmdet', 'mmpretrain'):
        shutil.rmtree(cluster.working / package)
    assert cluster.run('dist_train.sh', 'configs/a config.py', '1').returncode == 0
    shutil.rmtree(cluster.working / 'mmseg')
    assert cluster.run('dist_train.sh', 'configs/a config.py', '1').returncode == 1


def test_dist_test_of_several_nodes(cluster):
    (cluster.home / 'last one.pth').touch()
    nodes = {'NNODES': '2', 'NODE_RANK': '1', 'MASTER_ADDR': 'head'}
    result = cluster.run('dist_test.sh', 'configs/a config.py', 'last one.pth', '4', '--tta', **nodes)
    lines = result.stdout.splitlines()
    assert lines[:10] == [
        '--nnodes', '2', '--node_rank', '1', '--master_addr', 'head', '--master_port', '29500', '--nproc_per_node', '4'
    ]  # fmt: skip
    config = str(cluster.root / 'configs' / 'a config.py')
    assert lines[11:16] == [config, 'last one.pth', '--launcher', 'pytorch', '--tta']


def test_more_processes_than_gpus_are_refused(cluster):
    cluster.gpus.write_text('2')
    result = cluster.run('dist_train.sh', 'configs/a config.py', '3')
    assert result.returncode == 1
    assert '3 GPUs were requested, but 2 are visible' in result.stderr
    assert cluster.run('dist_train.sh', 'configs/a config.py', '2').returncode == 0


def test_the_own_environment_serves_after_quickstart(cluster):
    (cluster.bin / 'python').unlink()
    cluster.add_python('python3')
    before = cluster.run('dist_train.sh', 'configs/a config.py', '1')
    assert before.returncode == 1
    assert 'bash tools/quickstart.sh' in before.stderr
    assert '-m pip' not in cluster.calls
    cluster.source('mmfreq_ensure_environment')
    after = cluster.run('dist_train.sh', 'configs/a config.py', '1')
    assert after.returncode == 0, after.stderr
    assert str(cluster.cache) in after.stderr


def test_slurm_train_requests_what_its_variables_say(cluster):
    cluster.add_script('srun', 'printf "%s\\n" "$@"')
    result = cluster.run(
        'slurm_train.sh', 'gpu', 'hornet', 'configs/a config.py', 'out', '--amp', GPUS='4', SRUN_ARGS='--time 10 --qos=low'
    )
    assert result.returncode == 0, result.stderr
    asked = result.stdout.splitlines()
    options = dict(zip(asked[:12:2], asked[1:12:2]))
    assert options == {
        '--partition': 'gpu',
        '--job-name': 'hornet',
        '--gres': 'gpu:4',
        '--ntasks': '4',
        '--ntasks-per-node': '4',
        '--cpus-per-task': '5',
    }
    assert asked[12:17] == ['--kill-on-bad-exit=1', '--time', '10', '--qos=low', str(cluster.bin / 'python')]
    config = str(cluster.root / 'configs' / 'a config.py')
    assert asked[19:] == [config, '--work-dir', 'out', '--launcher', 'slurm', '--amp']


SRUN = """
n=$(cat {folder}/starts 2>/dev/null || echo 0); n=$((n + 1)); echo $n >{folder}/starts
printf '%s ' "$@" >>{folder}/asked; echo >>{folder}/asked
[ "$n" -le {stops} ] && exit 75
exit {end}
"""


@pytest.mark.parametrize(
    ('stops', 'requeues', 'status', 'starts'), [(0, '9', 3, 1), (2, '9', 3, 3), (5, '2', 75, 3), (1, '0', 75, 1)]
)
def test_a_preempted_run_is_started_again(cluster, tmp_path, stops, requeues, status, starts):
    cluster.add_script('srun', SRUN.format(folder=tmp_path, stops=stops, end=3))
    result = cluster.run('slurm_train.sh', 'gpu', 'hornet', 'configs/a config.py', 'out', REQUEUES=requeues)
    asked = (tmp_path / 'asked').read_text().splitlines()
    assert (result.returncode, len(asked)) == (status, starts), result.stderr
    assert ['--resume auto' in line for line in asked] == [False] + [True] * (starts - 1)


@pytest.mark.parametrize(('batch', 'starts'), [(True, 1), (False, 2)])
def test_a_batch_job_is_requeued_and_resumes_when_it_is_started_again(cluster, tmp_path, batch, starts):
    """Only a batch job can be: an allocation of salloc has a number too, and Slurm refuses."""
    cluster.add_script('srun', SRUN.format(folder=tmp_path, stops=1, end=0))
    cluster.add_script('scontrol', f'echo "$@" >{tmp_path}/requeued; exit {0 if batch else 1}')
    arguments = ('slurm_train.sh', 'gpu', 'hornet', 'configs/a config.py', 'out')
    result = cluster.run(*arguments, SLURM_JOB_ID='42')
    assert result.returncode == (75 if batch else 0)
    assert (tmp_path / 'requeued').read_text() == 'requeue 42\n'
    assert len((tmp_path / 'asked').read_text().splitlines()) == starts
    again = cluster.run(*arguments, SLURM_JOB_ID='42', SLURM_RESTART_COUNT='1')
    assert again.returncode == 0 and '--resume auto' in (tmp_path / 'asked').read_text().splitlines()[-1]


@pytest.mark.parametrize('number', ['TERM', 'USR1', 'INT'])
def test_a_signal_to_the_script_reaches_the_run(cluster, tmp_path, number):
    """The fake srun ends as a training run does that was asked to: with 75, some time after."""
    cluster.add_script(
        'srun',
        f"trap 'sleep 0.3; echo {number} >{tmp_path}/heard; exit 75' {number}; kill -{number} $PPID; while :; do sleep 0.05; done",
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # or a shell cannot trap what the tests' own shell ignores
    try:
        result = cluster.run('slurm_train.sh', 'gpu', 'hornet', 'configs/a config.py', 'out', REQUEUES='0')
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.returncode == 75 and (tmp_path / 'heard').read_text() == f'{number}\n', result.stderr


def test_the_status_is_the_one_of_the_trainer():
    from mmfreq.torchrun import STATUS

    assert f'\nSTOPPED={STATUS} ' in (ROOT / 'tools' / 'slurm_train.sh').read_text()


# The two commands for a new computer.


@pytest.mark.parametrize(
    ('ruff', 'mypy', 'tests', 'status'), [(0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 0, 1), (1, 0, 2, 2), ('absent', 0, 0, 0)]
)
def test_run_tests_reports_what_failed(host, ruff, mypy, tests, status):
    for name, code in (('ruff', ruff), ('mypy', mypy), ('pytest', tests)):
        if code != 'absent':
            (host.working / name).mkdir()
            (host.working / name / '__init__.py').write_text('')
            main = f"import sys; print('{name}', *sys.argv[1:]); sys.exit({code} if '--version' not in sys.argv else 0)"
            (host.working / name / '__main__.py').write_text(main)
    (host.working / 'xdist.py').write_text('')
    host.add_python(modules=host.working)
    result = host.run('run_tests.sh', '--fast', '-k', 'a b')
    assert result.returncode == status, result.stderr
    assert f'pytest -n {len(os.sched_getaffinity(0))} --dist worksteal -m not slow -k a b' in result.stdout
    for arguments in ('check .', 'format --check .'):
        assert (f'ruff {arguments}\n' in result.stdout) == (ruff != 'absent')
        assert (f'SKIPPED ruff {arguments}\n' in result.stderr) == (ruff == 'absent')
        assert (f'failed before the tests: ruff {arguments}\n' in result.stderr) == (ruff == 1)
    assert 'mypy\n' in result.stdout and ('failed before the tests: mypy\n' in result.stderr) == (mypy == 1)


def test_run_tests_emulates_another_processor(host):
    """One thread for each worker, and the variables that torch, oneDNN and MKL read."""
    (host.working / 'pytest').mkdir()
    (host.working / 'pytest' / '__init__.py').write_text('')
    (host.working / 'pytest' / '__main__.py').write_text('import os, sys\nprint(sys.argv[1:], dict(os.environ))')
    (host.working / 'xdist.py').write_text('')
    host.add_python(modules=host.working)
    for name, capability in (('avx2', 'avx2'), ('sse4', 'default')):
        result = host.run('run_tests.sh', '--numerics', '--cpu', name, 'tests/ops')
        assert result.returncode == 0, result.stderr
        assert "'-m', 'golden or numerics', 'tests/ops']" in result.stdout
        assert f"'ATEN_CPU_CAPABILITY': '{capability}'" in result.stdout and "'OMP_NUM_THREADS': '1'" in result.stdout
        assert "'ONEDNN_MAX_CPU_ISA': '" in result.stdout and "'MKL_ENABLE_INSTRUCTIONS': '" in result.stdout
    refused = host.run('run_tests.sh', '--cpu', 'avx9')
    assert refused.returncode == 1 and 'avx9' in refused.stderr and 'sse4' in refused.stderr


TOOLS = {
    'make_toy_dataset.py': """
        assert sys.argv[1] == 'ade20k', sys.argv
        """,
    'train.py': """
        run = Path(value('--work-dir'))
        assert not run.exists(), 'the second run must train again'
        run.mkdir(parents=True)
        (run / 'last_checkpoint').write_text(str(run / 'iter_400.pth'))
        """,
    'test.py': """
        assert '--baseline' in sys.argv and sys.argv[2].endswith('iter_400.pth'), sys.argv
        print('log lines', 'IoU by class, %', 'sky 1.0', SUMMARY, sep='\\n')
        """,
    'infer.py': """
        out = Path(value('--out'))
        out.mkdir()
        (out / '0001_panel.png').touch()
        """,
}


def write_fake_tools(host, summary):
    start = 'import sys\nfrom pathlib import Path\nvalue = lambda name: sys.argv[sys.argv.index(name) + 1]\n'
    for name, body in TOOLS.items():
        (host.root / 'tools' / name).write_text(f'{start}SUMMARY = {summary!r}\n{textwrap.dedent(body)}')
    (host.bin / 'tee').symlink_to(shutil.which('tee'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('summary', 'status', 'message'),
    [
        ('mIoU 45.12, constant predictor 9.33, ratio 4.8', 0, 'the ratio is 4.8, expected at least 3'),
        ('mIoU 27.98, constant predictor 9.33, ratio 3.0', 1, "mIoU 27.98 is below 3 times the constant predictor's 9.33"),
        ('nothing', 1, 'did not print'),
    ],
)
def test_quickstart_ends_with_scores_and_a_picture(host, summary, status, message):
    write_fake_tools(host, summary)
    host.add_python(modules=host.working)
    for _ in range(2):
        result = host.run('quickstart.sh')
        assert result.returncode == status, result.stderr
        assert message in result.stdout + result.stderr
    if summary != 'nothing':
        closing = result.stdout.split('=' * 80)[1]
        assert closing.strip().startswith('IoU by class, %\nsky 1.0')
        assert 'log lines' not in closing
        assert str(host.root / 'work_dirs' / 'quickstart' / 'images' / '0001_panel.png') in closing
        assert 'environment  the active Python' in closing


@pytest.mark.slow
def test_quickstart_names_the_command_that_activates_its_environment(host):
    write_fake_tools(host, 'mIoU 45.12, constant predictor 9.33, ratio 4.8')
    host.add_python('python3')
    result = host.run('quickstart.sh')
    assert result.returncode == 0, result.stderr
    (venv,) = host.cache.glob('venv-*/')
    activate = re.search(r'^environment  (source .+/bin/activate) ', result.stdout, re.MULTILINE).group(1)
    assert shlex.split(activate) == ['source', f'{venv}/bin/activate']
    assert host.installed == host.root


def test_quickstart_fails_where_a_step_fails(host):
    host.add_python(modules=host.working)
    (host.root / 'tools' / 'make_toy_dataset.py').write_text('raise SystemExit(3)')
    result = host.run('quickstart.sh')
    assert result.returncode == 3
    assert 'quickstart failed (exit status 3)' in result.stderr
