"""The benchmark measures what it says: bytes and ratios that can be computed by hand, and no time for outputs that differ."""

import copy
import json
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import mmfreq
from benchmarks.harness import measure, plot, tables, timing, tune
from benchmarks.harness.entries import LEVERS, Call, Entry, Makers, ModelForm, Settings, arithmetic, plan, settled
from benchmarks.harness.measure import GroupResult, OutputsDifferError, Results, Run, relative_error
from benchmarks.harness.timing import Memory, memory_of
from mmfreq.analysis import latency

CPU = torch.device('cpu')
FORMS = ('ours', 'published', 'optimized', 'memory_efficient', 'compiled', 'mmpretrain')


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    """The rate of large ones takes seconds to measure."""
    monkeypatch.setattr(timing, 'SIDES', {'cpu': (64,)})


def subject(name='a', form='ours', model=None):
    return ModelForm(name, form, lambda: copy.deepcopy(model), lambda: copy.deepcopy(model))


def entry(mode='inference', size=(2, 4), precision='fp32', way='', **what):
    return Entry(subject(**what), size, mode, precision, way)


def backbone(arch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return mmfreq.build_backbone(arch).eval()


def makers(**forms):
    same = {form: lambda model: model for form in FORMS}
    return Makers(backbone, backbone, {**same, **forms}, {})


def run_measure(settings, makers):
    settings = settled(settings)
    return measure.measure(plan(settings, makers), settings, say=lambda text: None)


def measure_entries(*entries):
    costs = {(e.subject.name, e.size): 0 for e in entries}  # what these cost is not asked
    return measure.measure_group(measure.Group('', entries), QUESTION, CPU, costs)


QUESTION = Settings(archs=('hornet-micro',), sizes=((64, 96),), repeats=2, forms=('ours',), at_least=0, alone=False)


# --- rounds and ratios


def test_ratios_are_taken_round_by_round():
    found = timing.ratios([2.0, 8.0], [1.0, 2.0])  # 2 and 4; of the medians it would be 5 / 1.5
    assert (found.median, found.low, found.high) == (3.0, 2.5, 3.5)
    with pytest.raises(ValueError, match='same rounds'):
        timing.ratios([1.0], [1.0, 2.0])


def test_every_round_runs_everything_and_the_order_turns_round():
    order = []
    calls = {name: partial(order.append, name) for name in 'abc'}
    found = timing.paired_rounds(calls, 3, CPU, at_least=0)
    assert ''.join(order) == 'abc' + 'abccbaabc'
    assert list(found) == ['a', 'b', 'c'] and all(len(seconds) == 3 for seconds in found.values())


def test_speed_is_per_pixel():
    small, large = (Run(entry(size=size), seconds=seconds) for size, seconds in (((8, 8), [1.0, 3.0]), ((16, 16), [4.0, 24.0])))
    assert GroupResult('', [small, large]).speed(large).median == pytest.approx((1 + 0.5) / 2)
    assert GroupResult('', [small, Run(entry())]).speed(small, over=Run(entry())) is None


# --- processes of their own


def alone_entry(make=nn.Identity, form='ours'):
    """`make` has to be something that another process can import."""
    return Entry(ModelForm('a', form, make, make), (2, 4), 'inference', 'fp32')


@pytest.mark.slow
def test_each_entry_runs_in_a_process_of_its_own():
    with timing.workers([alone_entry(form=form) for form in ('ours', 'compiled')]) as timers:
        found = timing.timed_rounds(timers, repeats=3, at_least=0)
        processes = [timer.process for timer in timers.values()]
        assert len({os.getpid(), *(process.pid for process in processes)}) == 3
    assert [len(seconds) for seconds in found.values()] == [3, 3] and min(min(seconds) for seconds in found.values()) > 0
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (partial(exec, 'nothing'), "NameError: name 'nothing' is not defined"),
        (partial(exec, "raise ValueError(__import__('torch').get_num_threads())"), f'ValueError: {torch.get_num_threads()}'),
        (os.abort, 'its process was ended, perhaps for want of memory'),
    ],
)
def test_what_happens_in_the_other_process_is_told(make, message):
    with pytest.raises(RuntimeError, match=f'a ours fp32 2x4: {message}'), timing.workers([alone_entry(make)]) as timers:
        timing.timed_rounds(timers, 1)


def test_the_other_process_has_as_many_threads():
    torch.set_num_threads(2)  # where the environment says 1
    make = partial(exec, "raise ValueError(__import__('torch').get_num_threads())")
    with pytest.raises(RuntimeError, match='ValueError: 2'), timing.workers([alone_entry(make)]) as timers:
        timing.timed_rounds(timers, 1)


@pytest.mark.slow
@pytest.mark.parametrize('modest', [False, True])
def test_measured_alone_as_together(modest, monkeypatch):
    from benchmarks.models import makers as real_makers

    seen, workers = [], measure.workers
    monkeypatch.setattr(measure, 'SHARE_OF_FREE', 0 if modest else 1)
    monkeypatch.setattr(measure, 'workers', lambda entries, modest: (seen.append(modest), workers(entries, modest))[1])
    found = run_measure(replace(QUESTION, alone=True, modes=('inference',), precisions=('fp32',)), real_makers())
    assert seen == [modest]
    for result in found.groups:
        assert all(len(r.seconds) == 2 and r.memory.peak > 0 for r in result.runs)
    assert any('process of its own' in line for line in tables.remarks(found))
    assert not any('process of its own' in line for line in tables.remarks(replace(found, settings=QUESTION)))


# --- memory, by hand


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
    assert found.kept == hidden + output
    assert found.peak >= 2 * hidden and model[0].weight.grad is None


class View(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return ((x * self.scale)[..., :1].square(),)


def test_a_view_counts_as_the_storage_it_keeps():
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


def test_what_a_function_hides_from_autograd_shows_in_what_is_kept():
    """Square's input and its result, which the product saves: two maps of 4*2*4 floats, and the output."""
    one = 4 * 4 * 2 * 4
    assert memory(Squared(), 'training').saved == 2 * one
    hiding = memory(Squared(hidden=True), 'training')
    assert hiding.saved == one and hiding.kept == 3 * one
    said = tables.remarks(results([GroupResult('', [Run(entry(), [1.0], hiding)])]))
    assert any('for the backward pass' in line for line in said)
    assert not any(
        'backward' in line for line in tables.remarks(results([GroupResult('', [Run(entry(), [1.0], Memory(1, 9, 10))])]))
    )


@pytest.mark.parametrize('arch', ['hornet-micro', 'dfformer-micro', 'affnet-micro'])
def test_saved_is_what_is_kept_without_the_outputs(arch):
    model = backbone(arch)
    outputs = sum(o.numel() * 4 for o in model(torch.zeros(1, 3, 64, 64)))
    found = memory(model, 'training', (1, 3, 64, 64))
    assert 0 < found.saved <= found.kept <= found.saved + outputs + 1024


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
    monkeypatch.setattr(measure, 'paired_rounds', lambda *_: pytest.fail('timed'))
    with pytest.raises(OutputsDifferError, match=r'hornet-micro ours fp32 64x96 and published .* different outputs'):
        run_measure(QUESTION, makers(published=shifted))


def test_nothing_is_timed_when_gradients_differ(monkeypatch):
    monkeypatch.setattr(measure, 'paired_rounds', lambda *_: pytest.fail('timed'))
    right, wrong = Squared(), Squared(factor=3)
    wrong.load_state_dict(right.state_dict())
    entries = (entry('training', form='published', model=right), entry('training', form='ours', model=wrong))
    with pytest.raises(OutputsDifferError, match='different gradients'):
        measure_entries(*entries)


def test_low_precision_is_compared_with_float32_and_not_refused():
    found = run_measure(replace(QUESTION, precisions=('fp32', 'bf16'), modes=('inference',)), makers(published=copy.deepcopy))
    (group,) = found.groups
    errors = {(r.entry.subject.form, r.entry.precision, r.entry.way): r.error for r in group.runs}
    assert errors.pop(('published', 'fp32', '')) is None and errors.pop(('ours', 'fp32', '')) < 1e-6
    assert set(errors) == {('ours', 'bf16', 'autocast'), ('ours', 'bf16', 'converted')}
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


def test_what_cannot_be_run_is_told():
    model = OfOneDtype(torch.float32)
    entries = (entry(model=model), entry(precision='bf16', way='converted', model=model))
    found = measure_entries(*entries)
    assert [r.trouble for r in found.runs] == ['', 'another dtype'] and not found.runs[1].seconds
    assert any('another dtype' in line for line in tables.remarks(results([found])))
    with pytest.raises(RuntimeError, match='another dtype'):
        measure_entries(entry(model=OfOneDtype(torch.float64)))


@pytest.mark.slow
def test_what_does_not_fit_is_not_started(monkeypatch):
    monkeypatch.setattr(measure, 'TRIED_ABOVE', 64 * 64)
    monkeypatch.setattr(measure, 'TRIAL', (64, 64))
    entries = (entry('training', size=(128, 128), model=Squared()),)
    for free, trouble in ((10, True), (2**40, False), (None, False)):
        monkeypatch.setattr(measure, 'free_bytes', lambda free=free: free)
        (found,) = measure_entries(*entries).runs
        assert (found.trouble.startswith('needs about 0 GiB'), not found.seconds) == (trouble, trouble)


def test_tf32_is_used_where_it_is_asked_for_alone():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for precision, name in (('fp32', 'highest'), ('tf32', 'high'), ('bf16', 'highest')):
        with arithmetic(precision):
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (name, name == 'high')
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


# --- what is measured


def labels(settings, made=None):
    made = made or makers()
    settings = settled(settings)
    return [[(e.subject.name, e.subject.form, e.precision, e.way, e.size) for e in g.entries] for g in plan(settings, made)]


def test_published_suite():
    settings = Settings(
        archs=('hornet-micro', 'affnet-micro'),
        sizes=((64, 64),),
        forms=('ours', 'compiled', 'mmpretrain', 'optimized', 'memory_efficient'),
    )
    inference, training, other, _ = labels(settings)
    assert inference[0] == ('hornet-micro', 'published', 'fp32', '', (64, 64))
    assert {e[1:4] for e in inference[1:]} == {
        (form, *kind)
        for form in ('ours', 'compiled', 'mmpretrain', 'optimized')
        for kind in (('fp32', ''), ('bf16', 'autocast'), ('bf16', 'converted'))
    }
    assert [e[1:4] for e in training] == [
        (form, 'fp32', '') for form in ('published', 'ours', 'compiled', 'mmpretrain', 'memory_efficient')
    ]
    assert 'mmpretrain' not in {e[1] for e in other}
    assert len(labels(replace(settings, precisions=('fp32', 'bf16')))[1]) == 9  # training in bf16, by autocast


def test_growth_suite_starts_from_the_smallest_size():
    (group,) = labels(Settings(suite='growth', archs=('hornet-micro',), sizes=((128, 128), (64, 64)), forms=('ours',)))
    assert [e[4] for e in group] == [(64, 64), (128, 128)]
    with pytest.raises(ValueError, match='at least two'):
        settled(Settings(suite='growth', sizes=((64, 64),)))


def test_peers_and_resolutions_suites():
    made = replace(makers(), peers=dict.fromkeys(('convformer_s18', 'caformer_s18', 'convnext_tiny'), nn.Identity))
    settings = Settings(suite='peers', archs=('hornet-micro',), sizes=((64, 64),), modes=('inference',), forms=('ours',))
    (group,) = labels(settings, made)
    assert [e[:2] for e in group] == [(name, 'timm') for name in made.peers] + [('hornet-micro', 'ours')]
    (group,) = labels(replace(settings, suite='resolutions'), made)
    assert [e[:2] for e in group[3:]] == [('hornet-micro', 'ours'), ('hornet-micro', 'published')]
    low = labels(replace(settings, precisions=('bf16',), modes=('inference', 'training')), made)
    assert [{e[3] for e in group} for group in low] == [{'converted'}, {'autocast'}]
    with pytest.raises(ValueError, match="peer 'x' is unknown"):
        made.peer('x')
    with pytest.raises(ValueError, match="form 'x' is unknown or cannot be made here"):
        made.subject('hornet-micro', 'x')


def test_quick_is_smaller_and_leaves_alone_what_was_asked_for():
    asked = Settings(sizes=((96, 96),), repeats=2)
    assert settled(asked, quick=True).sizes == ((96, 96),) and settled(asked, quick=True).repeats == 2
    slow, quick = (settled(Settings(), quick=q) for q in (False, True))
    assert quick.repeats < slow.repeats and quick.sizes < slow.sizes and slow.forms == LEVERS


def test_multiply_adds_and_floor():
    """A 1x1 convolution from 3 to 4 channels on 8x8: 768 multiply-adds an image; a training step counts three times."""
    model, costs = nn.Conv2d(3, 4, 1, bias=False), {}
    wanted = ((768, 'inference', 1), (3 * 768, 'training', 1), (2 * 768, 'inference', 2))
    for macs, mode, batch in wanted:
        assert measure._multiply_adds(replace(entry(mode, size=(8, 8), model=model), batch=batch), costs) == macs
    found = replace(results([]), rates={'fp32': (1000.0, 3000.0)})
    assert found.floor(Run(entry(), [0.5, 0.5], macs=768)) == pytest.approx(768 / 3000 / 0.5)
    assert timing.matrix_rate('bf16', CPU, (32,), repeats=1) > 0


# --- what is told of it


def results(groups, suite='published', sizes=((2, 4),), forms=('ours', 'compiled'), modes=('inference', 'training')):
    settings = Settings(suite, sizes=sizes, forms=forms, modes=modes, archs=('x',), precisions=('fp32',), repeats=2)
    return Results(settings, 'two cores', groups, {'fp32': (1e9, 1e9), 'bf16': (1e9, 1e9)})


def against(name, speed, saved=None, mode='inference', bf16=None, **more):
    """A group in which ours is `speed` times as fast as published, in rounds that are not equally long."""
    rounds = [1.0, 2.0]
    runs = [Run(entry(mode, name=name, form='published'), rounds, Memory(1000, 1000, 1000) if saved else None)]
    for form, factor in {'ours': speed, **more}.items():
        memory = Memory(saved, saved, saved) if saved else None
        runs.append(Run(entry(mode, name=name, form=form), [seconds / factor for seconds in rounds], memory, macs=10**8))
    if bf16:
        for way, factor in (('autocast', bf16), ('converted', bf16 / 2)):
            runs.append(Run(entry(mode, (2, 4), 'bf16', way, name=name), [seconds / factor for seconds in rounds]))
    return GroupResult(name, runs)


def test_targets_against_the_published_formulation():
    groups = [against('hornet', 1.6, optimized=1.6), against('affnet', 2.5, optimized=5.0)]
    groups += [against('hornet', 1.25, 800, 'training', memory_efficient=1.0)]
    groups += [against('affnet', 0.8, 1000, 'training', memory_efficient=0.5)]
    groups[2].runs[2].memory, groups[3].runs[2].memory = Memory(1, None, 500), Memory(1, None, 320)
    told = [str(verdict) for verdict in tables.verdicts(results(groups))]
    assert told == [
        'inference, ours at 2x4: geometric mean of 2: 2.00x, target at least 1x: reached',
        'inference, ours at 2x4: lowest (hornet): 1.60x, target at least 1x: reached',
        'forward and backward, ours at 2x4: geometric mean of 2: 1.00x, target at least 1x: reached',
        'forward and backward, ours at 2x4: lowest (affnet): 0.80x, target at least 1x: missed',
        'inference, optimized over ours at 2x4: highest (affnet): 2.00x, target at least 1.1x: reached',
        'kept for backward by memory_efficient at 2x4: geometric mean of 2: 0.40x, target at most 0.5x: reached',
        'kept for backward by memory_efficient over ours at 2x4: lowest (affnet): 0.32x, target at most 0.75x: reached',
    ]


def test_growth_is_judged_per_pixel():
    runs = [Run(entry(size=(side, side)), [seconds, 2 * seconds]) for side, seconds in ((8, 1.0), (16, 4.0), (32, 20.0))]
    (verdict,) = tables.verdicts(results([GroupResult('x', runs)], 'growth'))
    assert str(verdict) == 'x: time per pixel from 8x8 to 32x32: 1.25x, target at most 1.15x: missed'
    (table,) = tables.tables(results([GroupResult('x', runs)], 'growth'))
    at = table.header.index('time per pixel')
    assert [row[at] for row in table.rows] == ['1.00x [1.00, 1.00]', '1.00x [1.00, 1.00]', '1.25x [1.25, 1.25]']


def test_the_claims_about_attention_are_judged_at_high_resolution_alone():
    def group(side):
        made = partial(entry, size=(side, side))
        models = {'convformer_s18': (1.0, 100), 'caformer_s18': (3.0, 500), 'dfformer-s18': (2.0, 120), 'hornet-tiny-gf': (1.0, 1)}
        forms = ('timm', 'timm', 'ours', 'ours')
        pairs = zip(models.items(), forms)
        return GroupResult(str(side), [Run(made(name=n, form=form), [s, s], Memory(m)) for (n, (s, m)), form in pairs])

    told = [str(verdict) for verdict in tables.verdicts(results([group(512), group(1024)], 'peers'))]
    assert [line.split(': ', 2)[2] for line in told if line.startswith('1024')] == [
        "speed over convformer_s18's: 0.50x, target at least 0.8x: missed",
        "peak memory over convformer_s18's: 1.20x, target at most 1.25x: reached",
        "speed over caformer_s18's: 1.50x, target at least 2x: missed",
        "peak memory over caformer_s18's: 0.24x, target at most 0.5x: reached",
    ]
    assert len([line for line in told if line.startswith('512')]) == 2


def test_the_table_has_ratios_and_their_mean():
    groups = [against('hornet', 1.0, bf16=3.0, compiled=4.0), against('affnet', 4.0, bf16=3.0)]
    inference, *_ = tables.tables(results(groups))
    rows = {row[0]: dict(zip(inference.header, row)) for row in inference.rows}
    assert rows['hornet']['ours: speed'] == '1.00x [1.00, 1.00]' and rows['hornet']['compiled, ms'] == '375'
    assert rows['hornet']['bf16: speed'] == '3.00x [3.00, 3.00] ours autocast' and rows['affnet']['compiled: speed'] == '-'
    assert rows['hornet']['floor'] == '27 %'  # of the compiled one: 0.1 s of 0.375 s
    assert rows['geometric mean']['ours: speed'] == '2.00x' and 'saved: ratio' not in inference.header


def test_page_and_json(tmp_path):
    groups = [against('hornet', 1.5, saved=400), against('hornet', 1.5, saved=400, mode='training')]
    command = tables.command_words('tools/benchmark.py', ['--out', str(tmp_path / 'x.md'), '--size', '512'])
    text = tables.page(results(groups), command, quick=True, picture='x.png')
    assert command == 'python tools/benchmark.py --out x.md --size 512' and str(tmp_path) not in text
    assert text.startswith('# Benchmark: published\n') and f'```bash\n{command}\n```' in text
    assert '| hornet | 2x4 |' in text and 'Two cores' in text and tables.QUICK in text and '](x.png)' in text
    assert 'target at least 1x: reached' in text and tables.QUICK not in tables.page(results(groups), command)
    told = json.loads(json.dumps(results(groups).as_dict()))
    ours = told['groups'][1]['runs'][1]
    assert ours['seconds'] == [1.0 / 1.5, 2.0 / 1.5] and ours['memory_bytes'] == {'peak': 400, 'saved': 400, 'kept': 400}
    assert ours['speed_over_baseline']['median'] == pytest.approx(1.5) and told['matrix_rates']['fp32'] == [1e9, 1e9]


def test_the_machine_in_words(monkeypatch):
    monkeypatch.setattr(latency.platform, 'machine', lambda: 'x86_64')
    words = partial(latency.describe_hardware, 'cpu', 2)
    version = torch.__version__
    assert words('flags\t\t: fpu avx2 avx512f amx_tile') == f'two x86-64 cores with AVX-512 and AMX, no GPU; torch {version}'
    assert words('flags : avx2\n') == f'two x86-64 cores with AVX2, no GPU; torch {version}'
    assert latency.describe_hardware('cpu', 1, '') == f'one x86-64 core, no GPU; torch {version}'
    assert latency.describe_hardware('cpu', 96, '').startswith('96 x86-64 cores,')
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '1')
    monkeypatch.setenv('LD_PRELOAD', '/usr/lib/libtcmalloc.so:')
    assert latency.describe_hardware('cpu', 1, '').endswith(f'torch {version}; MALLOC_TRIM_THRESHOLD_=1; libtcmalloc.so')
    assert latency.usable_cores() >= 1 and (latency.free_bytes() or 1) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_a_device_that_is_not_there():
    for ask in (partial(measure.measure, [], replace(QUESTION, device='cuda')), partial(tune.tune, device='cuda')):
        with pytest.raises(ValueError, match="no CUDA device here for 'cuda'"):
            ask()


@pytest.mark.gpu
def test_on_a_gpu():
    settings = replace(QUESTION, device='cuda', precisions=('fp32', 'tf32', 'bf16'), training_precisions=('fp32', 'bf16'))
    found = run_measure(settings, makers(published=copy.deepcopy))
    assert 'no GPU' not in found.machine and not [r.trouble for group in found.groups for r in group.runs if r.trouble]
    for group in found.groups:
        for r in group.runs:  # all are compared with the CPU, the baseline too
            assert r.seconds and r.memory.peak > 0 and r.error < (1e-4 if r.entry.precision == 'fp32' else 0.1)
            assert r.entry.mode == 'inference' or 0 < r.memory.saved <= r.memory.kept


def test_plot(tmp_path):
    def group(side):
        runs = [Run(entry(size=(side, side), name=name, form='timm'), [side / 8], Memory(side)) for name in ('a', 'b')]
        return GroupResult('', [*runs, Run(entry('training', size=(side, side)), [1.0], Memory(1, side, side)), Run(entry())])

    found = results([group(16), group(8)], 'peers')
    lines = plot.lines_of(found)
    assert [key[:3] for key in lines] == [('inference', 'a', 'timm'), ('inference', 'b', 'timm'), ('training', 'a', 'ours')]
    assert all(list(runs) == [8, 16] for runs in lines.values())
    plot.plot(found, tmp_path / 'x.png')
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
    plot.check_sizes([(8, 8), (16, 16)])
    with pytest.raises(ValueError, match='at least two sizes, got 1'):
        plot.check_sizes([(8, 8), (8, 8)])


# --- backends


def test_tune_times_every_backend():
    from mmfreq.ops import SPECTRAL_BACKENDS

    said = []
    (small, large) = tune.tune((7, 8), (4,), ('bf16',), repeats=2, at_least=0, say=said.append)
    assert said == ['7x7, 4 channels, bf16', '8x8, 4 channels, bf16'] and (small.side, large.side) == (7, 8)
    assert {'fft', 'matmul'} == {*small.seconds} == {*SPECTRAL_BACKENDS} - {'auto'}
    assert all(len(found) == 2 for found in small.seconds.values())


def test_a_backend_for_other_maps_is_left_out(monkeypatch):
    monkeypatch.setattr(tune, 'BACKENDS', ('fft', 'of another device'))
    (choice,) = tune.tune((7,), (4,), repeats=1, at_least=0, say=lambda text: None)
    assert [*choice.seconds] == ['fft'] and tune.tuning_table([choice]).header == ('map', 'channels', 'dtype', 'fastest')


def test_the_fastest_backend_is_named(monkeypatch):
    monkeypatch.setattr(tune, 'BACKENDS', ('fft', 'matmul'))
    choice = tune.Choice(7, 4, 'fp32', {'fft': [1.0, 3.0], 'matmul': [0.5, 1.5]})
    assert choice.best == 'matmul' and choice.as_dict()['speeds']['matmul']['median'] == 2
    assert tune.tuning_table([choice]).rows == (('7x7', '4', 'fp32', '2.00x [2.00, 2.00]', 'matmul'),)
    assert replace(choice, seconds={'fft': [1.0], 'matmul': [2.0]}).best == 'fft'
