"""Parameters and multiply-adds (the papers' "FLOPs") of an arch or a config's model, Fourier transforms included.

Examples:
  python tools/get_flops.py hornet-tiny-gf
  python tools/get_flops.py configs/upernet_hornet_ade20k.py --shape 512 2048 --per-module
  python tools/get_flops.py gfnet-h-ti --shape 512 --spectral matmul --latency
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)

COLUMNS = {'conv_matmul': 'conv + matmul', 'fft': 'FFT', 'spectral': 'spectral', 'other': 'other'}


def parse_args(argv=None):
    from mmengine.config import DictAction

    from mmfreq.ops import SPECTRAL_BACKENDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='CONFIG_OR_ARCH', help='path of a config, or name of an arch (its classifier is counted)')
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='N',
        help='H W, or one side; default: the published image size of a classifier, S x 4S for segmentation with S x S crops, '
        "the test pipeline's for detection (800 x 1280 on COCO)",
    )
    parser.add_argument('--spectral', choices=SPECTRAL_BACKENDS, help='how the backbone computes its transforms')
    parser.add_argument('--per-module', action='store_true', help='a row for each module')
    parser.add_argument('--depth', type=int, default=2, help='of the module names in that table (default: %(default)s)')
    parser.add_argument('--latency', action='store_true', help='time the same forward pass too')
    parser.add_argument('--device', default='cpu', help='for --latency: cpu, cuda or cuda:N (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='K=V', help='changes to the config')
    return parser.parse_args(argv)


def in_units(number):
    """12345678 as '12.35 M'."""
    for power, unit in ((9, ' G'), (6, ' M'), (3, ' k')):
        if number >= 10**power:
            return f'{number / 10**power:.2f}{unit}'
    return str(number)


def summary_table(source, report):
    from rich.table import Table

    table = Table(show_header=False, title=f'{source}, input {", ".join("x".join(map(str, shape)) for shape in report.inputs)}')
    for justify in ('left', 'right', 'left'):
        table.add_column(justify=justify)
    table.add_row('parameters', in_units(report.params), '')
    table.add_section()
    table.add_row('conv + matmul', in_units(report.macs.conv_matmul), "multiply-adds; what the papers' counters see")
    table.add_row('FFT', in_units(report.macs.fft), 'Fourier transforms, as computed by the backend')
    table.add_row('spectral', in_units(report.macs.spectral), 'element-wise work on spectra')
    table.add_row('other', in_units(report.macs.other), 'norms, activations, products, means, resizing')
    table.add_row('all', in_units(report.macs.total), '')
    table.add_section()
    if report.published_fft:
        table.add_row('as GFNet, HorNet', in_units(report.published), 'conv + matmul, and N C ceil(log2 N) for each FFT')
    for name, times in report.uncounted.items():
        table.add_row('not counted', str(times), f'calls of {name}')
    return table


def module_table(report, depth):
    from rich.table import Table

    table = Table('module', 'type', title='multiply-adds by module')
    for column in ('parameters', *COLUMNS.values()):
        table.add_column(column, justify='right')
    for name, module in report.rows(depth):
        numbers = (module.params, *(getattr(module.macs, part) for part in COLUMNS))
        table.add_row(name, module.kind, *map(in_units, numbers))
    return table


def main(argv=None):
    args = parse_args(argv)
    from rich.console import Console

    from mmfreq.analysis.flops import build_for_counting, count
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        model, size = build_for_counting(subject(args), args.spectral)
        shape = tuple((args.shape * 2)[:2] if args.shape else size)
        report = count(model, shape)
        timed = timed_forward(args, shape) if args.latency else None
    console = Console()
    console.print(summary_table(args.source, report))
    if args.per_module:
        console.print(module_table(report, args.depth))
    if timed:
        spread = f'median of {timed.runs}, interquartile range {1000 * timed.interquartile_range:.3g} ms'
        print(f'latency: {1000 * timed.median:.4g} ms for one image, {spread}; {timed.machine}')


def subject(args):
    """The config, read as training reads it, or the name of an arch."""
    from mmfreq.apis.loading import read_config
    from mmfreq.errors import UserError

    if Path(args.source).is_file():
        return read_config(args.source, args.cfg_options)
    if args.cfg_options:
        raise UserError(f'--cfg-options are for configs, got the arch {args.source}')
    return args.source


def timed_forward(args, size):
    from mmfreq.analysis.flops import build_for_counting
    from mmfreq.analysis.latency import latency

    model, _ = build_for_counting(subject(args), args.spectral, device='cpu')
    return latency(model, size, args.device)


if __name__ == '__main__':
    main()
