"""The benchmark harness: bytes and ratios that can be computed by hand, and no timing of models whose outputs differ."""

import copy
import json
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import mmfreq
from benchmarks.harness import measure, page, plot, tables, targets, timing, tune
from benchmarks.harness.entries import Call, Entry, ModelForm, ModelSources, matmul_precision
from benchmarks.harness.measure import GroupResult, Results, Run
from benchmarks.harness.memory import Memory, memory_of
from benchmarks.harness.references import OutputsDifferError, relative_error
from benchmarks.harness.suites import LEVERS, Settings, plan, with_defaults
from mmfreq.analysis import latency

CPU = torch.device('cpu')
FORMS = ('mmfreq', 'reference', 'optimized', 'memory_efficient', 'compiled', 'mmpretrain')


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    """The rate of large matrices takes seconds to measure."""
    monkeypatch.setattr(timing, 'SIDES', {'cpu': (64,)})


def model_form(name='a', form='mmfreq', model=None):
    return ModelForm(name, form, lambda: copy.deepcopy(model), lambda: copy.deepcopy(model))


def entry(mode='inference', size=(2, 4), precision='fp32', conversion='', **what):
    return Entry(model_form(**what), size, mode, precision, conversion)


def backbone(arch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return mmfreq.build_backbone(arch).eval()


def sources(**forms):
    same = {form: lambda model: model for form in FORMS}
    return ModelSources(backbone, backbone, {**same, **forms}, {})


def run_measure(settings, sources):
    settings = with_defaults(settings)
    return measure.measure(plan(settings, sources), settings, log=lambda text: None)


def measure_entries(*entries):
    costs = {(e.model.name, e.size): 0 for e in entries}
    return measure.measure_group(measure.Group('', entries), QUESTION, CPU, costs)


QUESTION = Settings(archs=('hornet-micro',), sizes=((64, 96),), repeats=2, forms=('mmfreq',), min_seconds=0, isolated=False)


# --- rounds and ratios


def test_ratios_are_taken_round_by_round():
    found = timing.ratios([2.0, 8.0], [1.0, 2.0])  # 2 and 4; of the medians it would be 5 / 1.5
    assert (found.median, found.low, found.high) == (3.0, 2.5, 3.5)
    with pytest.raises(ValueError, match='same rounds'):
        timing.ratios([1.0], [1.0, 2.0])


def test_every_round_runs_everything_in_alternating_order():
    order = []
    calls = {name: partial(order.append, name) for name in 'abc'}
    found = timing.paired_rounds(calls, 3, CPU, min_seconds=0)
    assert ''.join(order) == 'abc' + 'abccbaabc'
    assert list(found) == ['a', 'b', 'c'] and all(len(seconds) == 3 for seconds in found.values())


def test_speed_is_per_pixel():
    small, large = (Run(entry(size=size), seconds=seconds) for size, seconds in (((8, 8), [1.0, 3.0]), ((16, 16), [4.0, 24.0])))
    assert GroupResult('', [small, large]).speed(large).median == pytest.approx((1 + 0.5) / 2)
    assert GroupResult('', [small, Run(entry())]).speed(small, over=Run(entry())) is None


# --- processes of their own


def isolated_entry(make=nn.Identity, form='mmfreq'):
    """`make` has to be something that another process can import."""
    return Entry(ModelForm('a', form, make, make), (2, 4), 'inference', 'fp32')


@pytest.mark.slow
def test_each_entry_runs_in_its_own_process():
    with timing.workers([isolated_entry(form=form) for form in ('mmfreq', 'compiled')]) as timers:
        found = timing.run_rounds(timers, repeats=3, min_seconds=0)
        processes = [timer.process for timer in timers.values()]
        assert len({os.getpid(), *(process.pid for process in processes)}) == 3
    assert [len(seconds) for seconds in found.values()] == [3, 3] and min(
        elapsed.wall for rounds in found.values() for elapsed in rounds
    ) > 0
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (partial(exec, 'nothing'), "NameError: name 'nothing' is not defined"),
        (partial(exec, "raise ValueError(__import__('torch').get_num_threads())"), f'ValueError: {torch.get_num_threads()}'),
        (os.abort, 'its process was killed, perhaps because memory was not sufficient'),
    ],
)
def test_errors_of_a_worker_are_raised(make, message):
    with pytest.raises(RuntimeError, match=f'a mmfreq fp32 2x4: {message}'), timing.workers([isolated_entry(make)]) as timers:
        timing.run_rounds(timers, 1)


def test_worker_has_the_same_number_of_threads():
    torch.set_num_threads(2)  # where the environment says 1
    make = partial(exec, "raise ValueError(__import__('torch').get_num_threads())")
    with pytest.raises(RuntimeError, match='ValueError: 2'), timing.workers([isolated_entry(make)]) as timers:
        timing.run_rounds(timers, 1)


@pytest.mark.slow
@pytest.mark.parametrize('release_memory', [False, True])
def test_measure_in_isolated_processes(release_memory, monkeypatch):
    from benchmarks.models import model_sources

    seen, workers = [], measure.workers
    monkeypatch.setattr(measure, 'FREE_MEMORY_SHARE', 0 if release_memory else 1)
    monkeypatch.setattr(
        measure, 'workers', lambda entries, release_memory: (seen.append(release_memory), workers(entries, release_memory))[1]
    )
    found = run_measure(replace(QUESTION, isolated=True, modes=('inference',), precisions=('fp32',)), model_sources())
    assert seen == [release_memory]
    for result in found.groups:
        assert all(len(r.seconds) == 2 and r.memory.peak > 0 for r in result.runs)
    assert any('its own process' in line for line in page.notes(found))
    assert not any('its own process' in line for line in page.notes(replace(found, settings=QUESTION)))


# --- memory


def memory(model, mode, shape=(1, 3, 2, 4)):
    call = Call(model.train(mode == 'training'), torch.randn(shape), entry(mode))
    call()
    return memory_of(call)


def test_saved_and_peak_bytes_of_two_linear_layers():
    """Maps of 1*3*2*8 and 1*3*2*2 floats; the input and the weights do not count, and what two operators save counts once."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    hidden, output = 192, 48
    assert memory(model, 'inference') == Memory(peak=2 * hidden)
    found = memory(model, 'training')
    assert found.saved == hidden  # the ReLU saves its result, the second layer its input: one storage
    assert found.retained == hidden + output
    assert found.peak >= 2 * hidden and model[0].weight.grad is None


class View(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return ((x * self.scale)[..., :1].square(),)


def test_a_view_counts_as_its_storage():
    assert memory(View(), 'training').saved == 4 * 1 * 3 * 2 * 4


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, hidden, factor):
        if hidden:
            ctx.x = x
        else:
            ctx.save_for_backward(x)
        ctx.factor = factor
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors or (ctx.x,)
        return ctx.factor * x * gradient, None, None


class Squared(nn.Module):
    def __init__(self, hidden=False, factor=2):
        super().__init__()
        self.hidden, self.factor = hidden, factor
        self.layer = nn.Conv2d(3, 4, 1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return (Square.apply(self.layer(x), self.hidden, self.factor) * self.scale,)


def test_memory_hidden_from_autograd_is_retained():
    """Square's input and its result, which the product saves: two maps of 4*2*4 floats, and the output."""
    one = 4 * 4 * 2 * 4
    assert memory(Squared(), 'training').saved == 2 * one
    hiding = memory(Squared(hidden=True), 'training')
    assert hiding.saved == one and hiding.retained == 3 * one
    sentences = page.notes(results([GroupResult('', [Run(entry(), [1.0], hiding)])]))
    assert any('for backward' in line for line in sentences)
    assert not any('backward' in line for line in page.notes(results([GroupResult('', [Run(entry(), [1.0], Memory(1, 9, 10))])])))


@pytest.mark.parametrize('arch', ['hornet-micro', 'dfformer-micro', 'affnet-micro'])
def test_retained_is_saved_plus_outputs(arch):
    model = backbone(arch)
    outputs = sum(o.numel() * 4 for o in model(torch.zeros(1, 3, 64, 64)))
    found = memory(model, 'training', (1, 3, 64, 64))
    assert 0 < found.saved <= found.retained <= found.saved + outputs + 1024


# --- the same outputs


def test_relative_error():
    a = torch.tensor([3.0, 4.0])
    assert relative_error([a, a], [a, a]) == 0 and relative_error([a * 1.1], [a]) == pytest.approx(0.1)
    assert relative_error([a, a * 2], [a, a]) == pytest.approx(1)
    assert relative_error([a], [a, a]) == relative_error([a / 0], [a]) == relative_error([a[:1]], [a]) == float('inf')


def shifted(model):
    """Another model: one of the weights is off by a little."""
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0].add_(0.1)
    return model


def test_nothing_is_timed_when_outputs_differ(monkeypatch):
    monkeypatch.setattr(measure, 'run_rounds', lambda *_: pytest.fail('timed'))
    with pytest.raises(OutputsDifferError, match=r'hornet-micro mmfreq fp32 64x96 and reference .* different outputs'):
        run_measure(QUESTION, sources(reference=shifted))


def test_nothing_is_timed_when_gradients_differ(monkeypatch):
    monkeypatch.setattr(measure, 'run_rounds', lambda *_: pytest.fail('timed'))
    right, wrong = Squared(), Squared(factor=3)
    wrong.load_state_dict(right.state_dict())
    entries = (entry('training', form='reference', model=right), entry('training', form='mmfreq', model=wrong))
    with pytest.raises(OutputsDifferError, match='different gradients'):
        measure_entries(*entries)


def test_low_precision_is_compared_with_float32_and_not_refused():
    found = run_measure(replace(QUESTION, precisions=('fp32', 'bf16'), modes=('inference',)), sources(reference=copy.deepcopy))
    (group,) = found.groups
    errors = {(r.entry.model.form, r.entry.precision, r.entry.conversion): r.error for r in group.runs}
    assert errors.pop(('reference', 'fp32', '')) is None and errors.pop(('mmfreq', 'fp32', '')) < 1e-6
    assert set(errors) == {('mmfreq', 'bf16', 'autocast'), ('mmfreq', 'bf16', 'converted')}
    assert all(1e-4 < value < 0.1 for value in errors.values())
    assert all(len(r.seconds) == 2 and r.memory.peak > 0 for r in group.runs)


class OfOneDtype(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        if x.dtype != self.dtype:
            raise RuntimeError('another dtype\nand more')
        return (self.layer(x),)


def test_failures_of_low_precisions_are_notes():
    model = OfOneDtype(torch.float32)
    entries = (entry(model=model), entry(precision='bf16', conversion='converted', model=model))
    found = measure_entries(*entries)
    assert [r.failure for r in found.runs] == ['', 'another dtype'] and not found.runs[1].seconds
    assert any('another dtype' in line for line in page.notes(results([found])))
    with pytest.raises(RuntimeError, match='another dtype'):
        measure_entries(entry(model=OfOneDtype(torch.float64)))


@pytest.mark.slow
def test_calls_that_exceed_memory_are_not_run(monkeypatch):
    monkeypatch.setattr(measure, 'TRIAL_ABOVE', 64 * 64)
    monkeypatch.setattr(measure, 'TRIAL', (64, 64))
    entries = (entry('training', size=(128, 128), model=Squared()),)
    for free, failure in ((10, True), (2**40, False), (None, False)):
        monkeypatch.setattr(measure, 'free_bytes', lambda free=free: free)
        (found,) = measure_entries(*entries).runs
        assert (found.failure.startswith('needs about 0 GiB'), not found.seconds) == (failure, failure)


def test_tf32_is_used_only_if_requested():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for precision, name in (('fp32', 'highest'), ('tf32', 'high'), ('bf16', 'highest')):
        with matmul_precision(precision):
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (name, name == 'high')
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


# --- what is measured


def labels(settings, models=None):
    models = models or sources()
    settings = with_defaults(settings)
    return [[(e.model.name, e.model.form, e.precision, e.conversion, e.size) for e in g.entries] for g in plan(settings, models)]


def test_reference_suite():
    settings = Settings(
        archs=('hornet-micro', 'affnet-micro'),
        sizes=((64, 64),),
        forms=('mmfreq', 'compiled', 'mmpretrain', 'optimized', 'memory_efficient'),
    )
    inference, training, other, _ = labels(settings)
    assert inference[0] == ('hornet-micro', 'reference', 'fp32', '', (64, 64))
    assert {e[1:4] for e in inference[1:]} == {
        (form, *kind)
        for form in ('mmfreq', 'compiled', 'mmpretrain', 'optimized')
        for kind in (('fp32', ''), ('bf16', 'autocast'), ('bf16', 'converted'))
    }
    assert [e[1:4] for e in training] == [
        (form, 'fp32', '') for form in ('reference', 'mmfreq', 'compiled', 'mmpretrain', 'memory_efficient')
    ]
    assert 'mmpretrain' not in {e[1] for e in other}
    assert len(labels(replace(settings, precisions=('fp32', 'bf16')))[1]) == 9  # training in bf16, by autocast


def test_growth_suite_starts_from_the_smallest_size():
    settings = Settings(suite='growth', archs=('hornet-micro',), sizes=((128, 128), (64, 64)), forms=('mmfreq',))
    (group,) = labels(settings)
    assert [e[4] for e in group] == [(64, 64), (128, 128)]
    peers = dict.fromkeys(('convformer_s18', 'caformer_s18', 'convnext_tiny'), nn.Identity)
    *_, peer = labels(replace(settings, archs=()), replace(sources(), peers=peers))
    assert [(e[0], e[4]) for e in peer] == [('convnext_tiny', (64, 64)), ('convnext_tiny', (128, 128))]
    with pytest.raises(ValueError, match='at least two'):
        with_defaults(Settings(suite='growth', sizes=((64, 64),)))


def test_peers_and_resolutions_suites():
    models = replace(sources(), peers=dict.fromkeys(('convformer_s18', 'caformer_s18', 'convnext_tiny'), nn.Identity))
    settings = Settings(suite='peers', archs=('hornet-micro',), sizes=((64, 64),), modes=('inference',), forms=('mmfreq',))
    (group,) = labels(settings, models)
    assert [e[:2] for e in group] == [(name, 'timm') for name in models.peers] + [('hornet-micro', 'mmfreq')]
    (group,) = labels(replace(settings, suite='resolutions'), models)
    assert [e[:2] for e in group[3:]] == [('hornet-micro', 'mmfreq'), ('hornet-micro', 'reference')]
    low = labels(replace(settings, precisions=('bf16',), modes=('inference', 'training')), models)
    assert [{e[3] for e in group} for group in low] == [{'converted'}, {'autocast'}]
    with pytest.raises(ValueError, match="The peer 'x' is unknown"):
        models.peer('x')
    with pytest.raises(ValueError, match="The form 'x' is unknown"):
        models.model('hornet-micro', 'x')


def test_quick_is_smaller_and_keeps_given_settings():
    given = Settings(sizes=((96, 96),), repeats=2)
    assert with_defaults(given, quick=True).sizes == ((96, 96),) and with_defaults(given, quick=True).repeats == 2
    slow, quick = (with_defaults(Settings(), quick=q) for q in (False, True))
    assert quick.repeats < slow.repeats and quick.sizes < slow.sizes and slow.forms == LEVERS


def test_multiply_adds_and_utilization():
    """A 1x1 convolution from 3 to 4 channels on 8x8: 768 multiply-adds an image; a training step counts three times."""
    model, costs = nn.Conv2d(3, 4, 1, bias=False), {}
    wanted = ((768, 'inference', 1), (3 * 768, 'training', 1), (2 * 768, 'inference', 2))
    for macs, mode, batch in wanted:
        assert measure._multiply_adds(replace(entry(mode, size=(8, 8), model=model), batch=batch), costs) == macs
    found = replace(results([]), rates={'fp32': (1000.0, 3000.0)})
    assert found.utilization(Run(entry(), [0.5, 0.5], macs=768)) == pytest.approx(768 / 3000 / 0.5)
    assert timing.matrix_rate('bf16', CPU, (32,), repeats=1) > 0


# --- what is reported


def results(groups, suite='reference', sizes=((2, 4),), forms=('mmfreq', 'compiled'), modes=('inference', 'training')):
    settings = Settings(suite, sizes=sizes, forms=forms, modes=modes, archs=('x',), precisions=('fp32',), repeats=2)
    return Results(settings, 'two cores', groups, {'fp32': (1e9, 1e9), 'bf16': (1e9, 1e9)})


def against(name, speed, saved=None, mode='inference', bf16=None, **more):
    """A group in which mmfreq is `speed` times as fast as the reference, in rounds of different length."""
    rounds = [1.0, 2.0]
    runs = [Run(entry(mode, name=name, form='reference'), rounds, Memory(1000, 1000, 1000) if saved else None)]
    for form, factor in {'mmfreq': speed, **more}.items():
        memory = Memory(saved, saved, saved) if saved else None
        runs.append(Run(entry(mode, name=name, form=form), [seconds / factor for seconds in rounds], memory, macs=10**8))
    if bf16:
        for conversion, factor in (('autocast', bf16), ('converted', bf16 / 2)):
            runs.append(Run(entry(mode, (2, 4), 'bf16', conversion, name=name), [seconds / factor for seconds in rounds]))
    return GroupResult(name, runs)


def test_targets_of_the_reference_suite():
    groups = [against('hornet', 1.6, optimized=1.6), against('affnet', 2.5, optimized=5.0)]
    groups += [against('hornet', 1.25, 800, 'training', memory_efficient=1.0)]
    groups += [against('affnet', 0.8, 1000, 'training', memory_efficient=0.5)]
    groups[2].runs[2].memory, groups[3].runs[2].memory = Memory(1, None, 500), Memory(1, None, 320)
    data = [str(verdict) for verdict in targets.verdicts(results(groups))]
    assert data == [
        'inference, mmfreq at 2x4: geometric mean of 2: 2.00x, target at least 1x: reached',
        'inference, mmfreq at 2x4: lowest (hornet): 1.60x, target at least 1x: reached',
        'forward and backward, mmfreq at 2x4: geometric mean of 2: 1.00x, target at least 1x: reached',
        'forward and backward, mmfreq at 2x4: lowest (affnet): 0.80x, target at least 1x: missed',
        'inference, optimized over mmfreq at 2x4: highest (affnet): 2.00x, target at least 1.1x: reached',
        'retained for backward by memory_efficient at 2x4: geometric mean of 2: 0.40x, target at most 0.5x: reached',
        'retained for backward by memory_efficient over mmfreq at 2x4: lowest (affnet): 0.32x, target at most 0.75x: reached',
    ]


def test_growth_is_measured_per_pixel():
    timed = ((8, 1.0, 2.0), (16, 4.0, 4.0), (32, 20.0, 64.0))  # side, wall clock, CPU time
    runs = [Run(entry(size=(side, side)), [wall, 2 * wall], cpu_seconds=[cpu, cpu]) for side, wall, cpu in timed]
    (verdict,) = targets.verdicts(results([GroupResult('x', runs)], 'growth'))
    assert str(verdict) == 'x: time per pixel from 8x8 to 32x32: 1.25x, target at most 1.15x: missed'
    (table,) = tables.tables(results([GroupResult('x', runs)], 'growth'))
    rows = [dict(zip(table.header, row)) for row in table.rows]
    assert [row['time per pixel'] for row in rows] == ['1.00x [1.00, 1.00]', '1.00x [1.00, 1.00]', '1.25x [1.25, 1.25]']
    assert [row['CPU time per pixel'].split()[0] for row in rows] == ['1.00x', '0.50x', '2.00x']
    timm = [Run(entry(size=(side, side), form='timm'), [float(side)] * 2) for side in (8, 16)]
    assert not targets.verdicts(results([GroupResult('x', timm)], 'growth'))


def test_claims_about_attention_are_targets_at_high_resolution_only():
    def group(side):
        make = partial(entry, size=(side, side))
        models = {'convformer_s18': (1.0, 100), 'caformer_s18': (3.0, 500), 'dfformer-s18': (2.0, 120), 'hornet-tiny-gf': (1.0, 1)}
        forms = ('timm', 'timm', 'mmfreq', 'mmfreq')
        pairs = zip(models.items(), forms)
        return GroupResult(str(side), [Run(make(name=n, form=form), [s, s], Memory(m)) for (n, (s, m)), form in pairs])

    data = [str(verdict) for verdict in targets.verdicts(results([group(512), group(1024)], 'peers'))]
    assert [line.split(': ', 2)[2] for line in data if line.startswith('1024')] == [
        "speed over convformer_s18's: 0.50x, target at least 0.8x: missed",
        "peak memory over convformer_s18's: 1.20x, target at most 1.25x: reached",
        "speed over caformer_s18's: 1.50x, target at least 2x: missed",
        "peak memory over caformer_s18's: 0.24x, target at most 0.5x: reached",
    ]
    assert len([line for line in data if line.startswith('512')]) == 2


def test_table_has_ratios_and_their_mean():
    groups = [against('hornet', 1.0, bf16=3.0, compiled=4.0), against('affnet', 4.0, bf16=3.0)]
    inference, *_ = tables.tables(results(groups))
    rows = {row[0]: dict(zip(inference.header, row)) for row in inference.rows}
    assert rows['hornet']['mmfreq: speed'] == '1.00x [1.00, 1.00]' and rows['hornet']['compiled, ms'] == '375'
    assert rows['hornet']['bf16: speed'] == '3.00x [3.00, 3.00] mmfreq autocast' and rows['affnet']['compiled: speed'] == '-'
    assert rows['hornet']['utilization'] == '27 %'  # of the compiled one: 0.1 s of 0.375 s
    assert rows['geometric mean']['mmfreq: speed'] == '2.00x' and 'saved: ratio' not in inference.header


def test_page_and_json(tmp_path):
    groups = [against('hornet', 1.5, saved=400), against('hornet', 1.5, saved=400, mode='training')]
    command = page.command_words('tools/benchmark.py', ['--out', str(tmp_path / 'x.md'), '--size', '512'])
    text = page.page(results(groups), command, quick=True, plot='x.png')
    assert page.command_words('x.py', ['--title', 'Two words']) == "python x.py --title 'Two words'"
    assert command == 'python tools/benchmark.py --out x.md --size 512' and str(tmp_path) not in text
    assert text.startswith('# Benchmark: reference\n') and f'```bash\n{command}\n```' in text
    assert '| hornet | 2x4 |' in text and 'Two cores' in text and page.QUICK in text and '](x.png)' in text
    assert 'target at least 1x: reached' in text and page.QUICK not in page.page(results(groups), command)
    data = json.loads(json.dumps(results(groups).as_dict()))
    run = data['groups'][1]['runs'][1]
    assert run['seconds'] == [1.0 / 1.5, 2.0 / 1.5] and run['memory_bytes'] == {'peak': 400, 'saved': 400, 'retained': 400}
    assert run['speed_over_baseline']['median'] == pytest.approx(1.5) and data['matrix_rates']['fp32'] == [1e9, 1e9]


def test_describe_hardware(monkeypatch):
    monkeypatch.setattr(latency.platform, 'machine', lambda: 'x86_64')
    describe = partial(latency.describe_hardware, 'cpu', 2)
    version = torch.__version__
    assert describe('flags\t\t: fpu avx2 avx512f amx_tile') == f'two x86-64 cores with AVX-512 and AMX, no GPU; torch {version}'
    assert describe('flags : avx2\n') == f'two x86-64 cores with AVX2, no GPU; torch {version}'
    assert latency.describe_hardware('cpu', 1, '') == f'one x86-64 core, no GPU; torch {version}'
    assert latency.describe_hardware('cpu', 96, '').startswith('96 x86-64 cores,')
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '1')
    monkeypatch.setenv('LD_PRELOAD', '/usr/lib/libtcmalloc.so:')
    assert latency.describe_hardware('cpu', 1, '').endswith(f'torch {version}; MALLOC_TRIM_THRESHOLD_=1; libtcmalloc.so')
    assert latency.usable_cores() >= 1 and (latency.free_bytes() or 1) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_error_of_a_missing_device():
    for call in (partial(measure.measure, [], replace(QUESTION, device='cuda')), partial(tune.tune, device='cuda')):
        with pytest.raises(ValueError, match="no CUDA device here for 'cuda'"):
            call()


@pytest.mark.gpu
def test_on_a_gpu():
    settings = replace(QUESTION, device='cuda', precisions=('fp32', 'tf32', 'bf16'), training_precisions=('fp32', 'bf16'))
    found = run_measure(settings, sources(reference=copy.deepcopy))
    assert 'no GPU' not in found.machine and not [r.failure for group in found.groups for r in group.runs if r.failure]
    for group in found.groups:
        for r in group.runs:  # all are compared with the CPU, the baseline too
            assert r.seconds and r.memory.peak > 0 and r.error < (1e-4 if r.entry.precision == 'fp32' else 0.1)
            assert r.entry.mode == 'inference' or 0 < r.memory.saved <= r.memory.retained


def test_plot(tmp_path):
    def group(side):
        runs = [Run(entry(size=(side, side), name=name, form='timm'), [side / 8], Memory(side)) for name in ('a', 'b')]
        return GroupResult('', [*runs, Run(entry('training', size=(side, side)), [1.0], Memory(1, side, side)), Run(entry())])

    found = results([group(16), group(8)], 'peers')
    lines = plot.lines_of(found)
    assert [key[:3] for key in lines] == [('inference', 'a', 'timm'), ('inference', 'b', 'timm'), ('training', 'a', 'mmfreq')]
    assert all(list(runs) == [8, 16] for runs in lines.values())
    plot.plot(found, tmp_path / 'x.png')
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
    plot.check_sizes([(8, 8), (16, 16)])
    with pytest.raises(ValueError, match='at least two sizes, got 1'):
        plot.check_sizes([(8, 8), (8, 8)])


# --- backends


def test_tune_times_every_backend():
    from mmfreq.ops import SPECTRAL_BACKENDS

    lines = []
    (small, large) = tune.tune((7, 8), (4,), ('bf16',), repeats=2, min_seconds=0, log=lines.append)
    assert lines == ['7x7, 4 channels, bf16', '8x8, 4 channels, bf16'] and (small.side, large.side) == (7, 8)
    assert {'fft', 'matmul'} == {*small.seconds} == {*SPECTRAL_BACKENDS} - {'auto'}
    assert all(len(found) == 2 for found in small.seconds.values())


def test_unsupported_backends_are_skipped(monkeypatch):
    monkeypatch.setattr(tune, 'BACKENDS', ('fft', 'of another device'))
    (timing_of_map,) = tune.tune((7,), (4,), repeats=1, min_seconds=0, log=lambda text: None)
    assert [*timing_of_map.seconds] == ['fft'] and tune.tuning_table([timing_of_map]).header == (
        'map',
        'channels',
        'dtype',
        'fastest',
    )


def test_fastest_backend(monkeypatch):
    monkeypatch.setattr(tune, 'BACKENDS', ('fft', 'matmul'))
    timing_of_map = tune.Timing(7, 4, 'fp32', {'fft': [1.0, 3.0], 'matmul': [0.5, 1.5]})
    assert timing_of_map.best == 'matmul' and timing_of_map.as_dict()['speeds']['matmul']['median'] == 2
    assert tune.tuning_table([timing_of_map]).rows == (('7x7', '4', 'fp32', '2.00x [2.00, 2.00]', 'matmul'),)
    assert replace(timing_of_map, seconds={'fft': [1.0], 'matmul': [2.0]}).best == 'fft'
