"""What the benchmarks of exported files share: timing in turns, and the frame of their pages."""

import sys
from datetime import date
from time import perf_counter

import numpy as np
import torch

from benchmarks.harness.page import command_words, sentence
from mmfreq.analysis.latency import describe_hardware


def timed(sessions, images, rounds, clock=perf_counter):
    """Seconds of the sessions in turns, `(rounds, sessions)`, after two warm-up rounds."""
    found = np.zeros((rounds + 2, len(sessions)))
    for row in found:
        for i, session in enumerate(sessions):
            start = clock()
            session.run(None, {'images': images})
            row[i] = clock() - start
    return found[2:]


def show_page(title, question, script, argv, lines, out):
    """Print the page of a script in this folder, and write it to `out` if given."""
    import onnx
    import onnxruntime

    command = command_words(f'benchmarks/{script}.py', sys.argv[1:] if argv is None else argv)
    hardware = sentence(describe_hardware('cpu', torch.get_num_threads()))
    head = [
        f'# {title}',
        '',
        question,
        '',
        f'<!-- run by: tests/benchmarks/test_{script}.py::test_a_small_run_writes_the_page -->',
        '```bash',
        command,
        '```',
        '',
        f'{date.today()}. {hardware}; onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}.',
    ]
    text = '\n'.join([*head, *lines])
    print(text)
    if out:
        out.write_text(text, encoding='utf-8')
