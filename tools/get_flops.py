"""Parameters and multiply-adds (the papers' "FLOPs") of an arch or a config's model, including Fourier transforms.

Examples:
  python tools/get_flops.py hornet-tiny-gf
  python tools/get_flops.py configs/upernet_hornet_ade20k.py --shape 512 2048 --per-module
  python tools/get_flops.py gfnet-h-ti --shape 512 --spectral matmul --latency
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)

# part of the count -> (title, description)
PARTS = {
    'conv_matmul': ('conv + matmul', 'multiply-adds; what papers report as FLOPs'),
    'fft': ('FFT', 'Fourier transforms, as computed by the backend'),
    'spectral': ('spectral', 'element-wise work on spectra'),
    'other': ('other', 'norms, activations, products, means, resizing'),
}


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
        'the size of the test pipeline for detection (800 x 1280 on COCO)',
    )
    parser.add_argument('--spectral', choices=SPECTRAL_BACKENDS, help='spectral backend of the backbone')
    parser.add_argument('--per-module', action='store_true', help='print a row for each module')
    parser.add_argument('--depth', type=int, default=2, help='of the module names in that table (default: %(default)s)')
    parser.add_argument('--latency', action='store_true', help='measure the time of the forward pass, too')
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
    for part, (title, description) in PARTS.items():
        table.add_row(title, in_units(getattr(report.macs, part)), description)
    table.add_row('all', in_units(report.macs.total), '')
    table.add_section()
    if report.published_fft:
        table.add_row('as GFNet, HorNet', in_units(report.published), 'conv + matmul, and N C ceil(log2 N) for each FFT')
    for name, calls in report.uncounted.items():
        table.add_row('not counted', str(calls), f'calls of {name}')
    return table


def module_table(report, depth):
    from rich.table import Table

    table = Table('module', 'type', title='multiply-adds by module')
    for column in ('parameters', *(title for title, _ in PARTS.values())):
        table.add_column(column, justify='right')
    for name, module in report.rows(depth):
        numbers = (module.params, *(getattr(module.macs, part) for part in PARTS))
        table.add_row(name, module.type_name, *map(in_units, numbers))
    return table


def config_or_arch(args):
    """The config, read as in training, or the name of an arch."""
    from mmfreq.apis.loading import read_config
    from mmfreq.errors import UserError

    if Path(args.source).is_file():
        return read_config(args.source, args.cfg_options)
    if args.cfg_options:
        raise UserError(f'--cfg-options are for configs, got the arch {args.source}.')
    return args.source


def main(argv=None):
    args = parse_args(argv)
    from rich.console import Console

    from mmfreq.analysis.flops import build_for_counting, count
    from mmfreq.analysis.latency import latency
    from mmfreq.config.image_channels import image_channels
    from mmfreq.errors import short_user_errors

    timed = None
    with short_user_errors():
        source = config_or_arch(args)
        model, size = build_for_counting(source, args.spectral)
        shape = tuple((args.shape * 2)[:2] if args.shape else size)
        channels = 3 if isinstance(source, str) else image_channels(source)
        report = count(model, shape, channels=channels)
        if args.latency:
            model, _ = build_for_counting(config_or_arch(args), args.spectral, device='cpu')
            timed = latency(model, shape, args.device, channels)
    console = Console()
    console.print(summary_table(args.source, report))
    if args.per_module:
        console.print(module_table(report, args.depth))
    if timed:
        spread = f'median of {timed.runs}, interquartile range {1000 * timed.interquartile_range:.3g} ms'
        print(f'latency: {1000 * timed.median:.4g} ms for one image, {spread}; {timed.hardware}')


if __name__ == '__main__':
    main()
