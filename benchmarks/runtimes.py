"""Exported models in the runtimes that people have: largest difference to PyTorch, and CPU time relative to onnxruntime.

python benchmarks/runtimes.py --python executorch=ENV/bin/python litert=ENV/bin/python --out docs/measurements/runtimes.md

Each pair of a runtime and a model is a process of its own with one thread, so that a crash is a result. It times the runtime and
onnxruntime in turns. `--python` names interpreters for runtimes that need an environment of their own; the packages are in
tools/requirements-runtimes.txt.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from time import process_time

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import numpy as np  # noqa: E402
from runtime_list import RUNTIMES, Case, onnxruntime_fp32  # noqa: E402

MODELS = {  # source, size
    'hornet-tiny-gf': ('hornet-tiny-gf', (224, 224)),
    'gfnet-h-ti': ('gfnet-h-ti', (224, 224)),
    'dfformer-s18': ('dfformer-s18', (224, 224)),
    'affnet': ('affnet', (224, 224)),
    'UPerNet, HorNet': ('configs/seg/hornet/hornet-dim32_upernet_1xb8-1600_camvid-180x240.py', (180, 240)),
}
RESULT = 'result: '
WARM_UP = 3


def export(source, size, folder):
    """Write the files of a `Case`, and the outputs of the model in PyTorch for three images."""
    import torch

    from mmfreq.apis.loading import load_model
    from mmfreq.export import export_onnx
    from mmfreq.export.graphs import build_graph
    from mmfreq.export.program import folded_program
    from mmfreq.export.verify import comparison_inputs

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_model(str(ROOT / source) if source.endswith('.py') else source)
    graph = build_graph(loaded)
    exported = export_onnx(graph, size, folder / 'model.onnx', optimized=True)
    export_onnx(graph, size, folder / 'fp16.onnx', optimized=True, precision='fp16')
    images = torch.cat(list(comparison_inputs(size, loaded.normalization).values()))
    np.save(folder / 'images.npy', images.numpy())
    with torch.no_grad():
        torch.export.save(torch.export.export(exported.model, (images[:1],)), folder / 'program.pt2')
        torch.export.save(folded_program(exported.model, images[:1]), folder / 'folded.pt2')
        np.save(folder / 'expected.npy', torch.cat([exported.model(image[None]) for image in images]).numpy())


def difference(actual, expected):
    """Largest difference relative to the largest value; infinite for another shape or values that are not finite."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float('inf')
    return float(np.abs(actual.astype(np.float64) - expected).max() / np.abs(expected).max())


def seconds_in_turns(functions, images, rounds):
    """CPU time of this process, `(rounds, functions)`, after a warm-up. It does not count other work on the machine."""
    found = np.zeros((rounds + WARM_UP, len(functions)))
    for row in found:
        for i, function in enumerate(functions):
            start = process_time()
            function(images)
            row[i] = process_time() - start
    return found[WARM_UP:]


def measure(name, folder, rounds):
    """The result of one runtime and one model."""
    runtime, case = RUNTIMES[name], Case(folder)
    result = {'version': runtime.version}
    run = runtime.load(case)
    if isinstance(run, str):
        return result | {'shown': run}
    images, expected = np.load(folder / 'images.npy'), np.load(folder / 'expected.npy')
    result['difference'] = max(difference(run(i[None])[0], e[None]) for i, e in zip(images, expected, strict=True))
    seconds = seconds_in_turns((run, onnxruntime_fp32(case)), images[:1], rounds)
    return result | {'time': float(np.median(seconds[:, 0] / seconds[:, 1])), 'seconds': float(np.median(seconds[:, 0]))}


def attempt(name, python, folder, rounds, limit):
    """`measure` in a process of its own; {'reason': ...} if it fails."""
    command = [python, __file__, '--measure', name, '--folder', str(folder), '--rounds', str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {'reason': f'no result in {limit} s'}
    for line in done.stdout.splitlines():
        if line.startswith(RESULT):
            return json.loads(line.removeprefix(RESULT))
    if done.returncode < 0:
        return {'reason': f'crashes ({signal.Signals(-done.returncode).name})'}
    return {'reason': last_error(done.stderr)}


def last_error(text):
    """The last line that names an exception, without paths."""
    lines = (
        [line for line in text.splitlines() if re.match(r'[\w.]*(Error|Exception|error)\b', line)]
        or text.splitlines()[-1:]
        or ['?']
    )
    return re.sub(r'/[\w./+-]+/', '', lines[-1])[:200].replace('|', '/')


def cell(result, notes):
    """The text of a result; long reasons become notes."""
    if 'shown' in result:
        return note(result['shown'], notes, re.match(r'\w+', result['shown']).group() + ' ')
    if 'reason' in result:
        return note(result['reason'], notes, 'no ')
    return f'{result["difference"]:.0e}, {result["time"]:.2f}'


def note(text, notes, before):
    if text not in notes:
        notes.append(text)
    return f'{before}[{notes.index(text) + 1}]'


def page(results, versions, models, rounds, command):
    """The Markdown page."""
    from mmfreq.analysis.latency import describe_hardware

    notes = []
    rows = [
        [name, versions[name] or '-', *(cell(results[name, model], notes) for model in models)]
        for name in RUNTIMES
        if any((name, model) in results for model in models)
    ]
    hardware = describe_hardware('cpu', 1)
    sizes = ', '.join(f'{model} {MODELS[model][1][0]}x{MODELS[model][1][1]}' for model in models)
    header = ['runtime', 'version', *models]
    lines = [
        '# Exported models in other runtimes',
        '',
        'Do the exported files run where people deploy them, with equal results, and how fast?',
        '',
        '<!-- run by: tests/benchmarks/test_runtimes.py::test_a_small_run_writes_the_page -->',
        '```bash',
        command,
        '```',
        '',
        f'{date.today()}. {hardware[0].upper()}{hardware[1:]}; {processor()}. One thread, one image, random weights;',
        f'logits at {sizes}.',
        'Each pair of runtime and model is one process, timed in turns',
        f'with onnxruntime: {rounds} rounds after {WARM_UP} of warm-up.',
        '',
        *('| ' + ' | '.join(row) + ' |' for row in (header, ['---'] * len(header), *rows)),
        '',
        '- Each cell: largest difference to PyTorch in float32 over the largest value, of two random inputs and a drawn scene; and',
        '  CPU time relative to onnxruntime in float32, median of the rounds (below 1 is faster).',
        '- onnxruntime, OpenVINO, ncnn, OpenCV and TensorRT get the exported file; AOTInductor and ExecuTorch get a program of',
        '  `torch.export`; LiteRT and Core ML get a `folded_program`.',
        *(f'- [{i}] {text}' for i, text in enumerate(notes, 1)),
        '',
    ]
    return '\n'.join(lines)


def processor():
    """Vendor and family of the CPU, without what identifies the computer."""
    path = Path('/proc/cpuinfo')
    text = path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
    found = [re.search(rf'^{key}\s*:\s*(.*)', text, re.MULTILINE) for key in ('vendor_id', 'cpu family', 'model')]
    named = zip(('', 'family ', 'model '), found)
    return ' '.join(key + match.group(1) for key, match in named if match) or 'CPU unknown'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='page to write (Markdown)')
    parser.add_argument('--runtimes', nargs='+', default=list(RUNTIMES), choices=list(RUNTIMES), metavar='NAME')
    parser.add_argument('--models', nargs='+', default=list(MODELS), help=f'of {", ".join(MODELS)}, or archs')
    parser.add_argument('--size', nargs=2, type=int, help='H W of archs that are not in the list')
    parser.add_argument('--rounds', type=int, default=15, help='default: %(default)s')
    parser.add_argument('--limit', type=int, default=420, help='seconds for a pair of runtime and model (default: %(default)s)')
    parser.add_argument('--python', nargs='+', default=[], metavar='MODULE=PATH', help='interpreter of a runtime, by import name')
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help='keep the files here; results that are there are not measured again')
    args = parser.parse_args(argv)
    if args.measure:
        print(RESULT + json.dumps(measure(args.measure, args.folder, args.rounds)), flush=True)
        return
    pythons = dict(pair.split('=', 1) for pair in args.python)
    with tempfile.TemporaryDirectory() as temporary:
        results = run_all(args, args.folder or Path(temporary), pythons)
    versions = {name: runtime.version for name, runtime in RUNTIMES.items()}
    versions |= {name: result['version'] for (name, _), result in results.items() if 'version' in result}
    command = 'python benchmarks/runtimes.py' + ' --python' * bool(pythons)
    command += ''.join(f' {module}=ENV/bin/python' for module in pythons)
    if args.models != parser.get_default('models'):
        command += f' --models {shlex.join(args.models)}' + (f' --size {args.size[0]} {args.size[1]}' if args.size else '')
    command += f' --out {args.out}' if args.out else ''
    text = page(results, versions, args.models, args.rounds, command)
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')


def run_all(args, folder, pythons):
    """{(runtime, model): result}. Results of an earlier run in the same folder are read and not measured again."""
    results = {}
    for model in args.models:
        MODELS.setdefault(model, (model, tuple(args.size or (224, 224))))
        if not (folder / slug(model) / 'expected.npy').is_file():
            export(*MODELS[model], folder / slug(model))
    for name in args.runtimes:
        modules = {module.split('.')[0] for module in RUNTIMES[name].modules}
        python = next((path for module, path in pythons.items() if module in modules), sys.executable)
        for model in args.models:
            file = folder / slug(model) / f'{slug(name)}.json'
            if not file.is_file():
                found = attempt(name, python, folder / slug(model), args.rounds, args.limit)
                file.write_text(json.dumps(found), encoding='utf-8')
            results[name, model] = json.loads(file.read_text(encoding='utf-8'))
            print(f'{model}, {name}: {results[name, model]}', file=sys.stderr, flush=True)
    return results


def slug(name):
    """A name for files."""
    return re.sub(r'\W+', '-', name)


if __name__ == '__main__':
    main()
