"""Every arch as a timm model: `timm.create_model('hornet_tiny_gf')` after `import mmfreq.integrations.timm`.

Entry points, configs and classes are made from the arch tables; underscores stand for the hyphens. The classes are this module's
attributes, so that models pickle. `pretrained=True` works where the zoo has an address that serves the file itself; for the others,
and offline, `pretrained_cfg_overlay=dict(file=PATH)` takes a published file as it is.
"""

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from mmfreq.checkpoint import zoo
from mmfreq.checkpoint.fit import fit_backbone
from mmfreq.integrations.timm_model import TimmModel
from mmfreq.models._factory import classifier_class, list_archs

__all__ = []
default_cfgs = {}
SOURCES = ('file', 'url', 'state_dict', 'hf_hub_id')  # entries of a pretrained_cfg that say where the weights are


def model_class(arch: str) -> type:
    """The class of an arch's timm models, an attribute of this module."""
    base = classifier_class(arch)
    name = base.__name__.replace('Classifier', 'Timm')
    if name not in globals():
        globals()[name] = type(name, (TimmModel, base), {'__module__': __name__, '__doc__': base.__doc__})
    return globals()[name]


def direct_url(arch: str) -> str | None:
    """Address of the published ImageNet-1k file itself; None where there are only pages to download it from by hand."""
    return next((file.url for file in zoo.find(arch, 'imagenet-1k') if file.url.endswith('.pth')), None)


def refuse_no_source(arch: str, overlay: dict | None, pretrained_cfg: dict | str | None) -> None:
    """Raise, with what a user can do, if there is no file to load.

    Raises:
        RuntimeError: neither a direct address is known nor a file given.
    """
    given = {**(pretrained_cfg if isinstance(pretrained_cfg, dict) else {}), **(overlay or {})}
    if direct_url(arch) or any(given.get(key) for key in SOURCES):
        return
    pages = [page for file in zoo.find(arch, 'imagenet-1k') for page in (file.url, *file.mirrors) if page != zoo.UNKNOWN]
    published = [f'{file.repository} publishes it without an address known here' for file in zoo.find(arch, 'imagenet-1k')]
    where = f'download it from {" or ".join(pages)}' if pages else (published or ['no weights were published'])[0]
    raise RuntimeError(
        f'no file of {arch} can be fetched by its address: {where}. '
        f'A file at hand is taken by pretrained=True, pretrained_cfg_overlay=dict(file=PATH)'
    )


def config(arch: str) -> dict:
    """timm's pretrained_cfg of an arch: the published evaluation, names of the first and the last layer."""
    kind = model_class(arch)
    seen = kind.published_preprocessing(arch)
    with torch.device('meta'):
        model = kind(arch)
    first_conv = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    side = model.stage_sides(seen.size)[-1]
    url = direct_url(arch)
    source = dict(url=url) if url else {}
    return source | dict(
        num_classes=1000,
        input_size=(3, seen.size, seen.size),
        pool_size=(side, side),
        crop_pct=1.0 if seen.resize is None else seen.size / seen.resize,
        crop_mode='squash' if seen.resize is None else 'center',
        interpolation=seen.interpolation,
        mean=seen.mean,
        std=seen.std,
        first_conv=first_conv,
        classifier=kind.last_layer,
        fixed_input_size=False,
    )


def published_state(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's filter: a file in any published layout, in the model's names and filter sizes."""
    return fit_backbone(state, model).state


def register(arch: str) -> None:
    """Make and register the entry point of `arch`.

    Raises:
        ValueError: timm has a model of that name.
    """
    name = arch.replace('-', '_')
    if timm.is_model(name) and not timm.model_entrypoint(name).__module__.startswith('mmfreq.'):
        raise ValueError(f'timm has a model {name} of its own; use mmfreq.build_classifier({arch!r})')

    def entry(pretrained: bool = False, **kwargs) -> nn.Module:
        if pretrained:
            refuse_no_source(arch, kwargs.get('pretrained_cfg_overlay'), kwargs.get('pretrained_cfg'))
        return build_model_with_cfg(
            model_class(arch),
            name,
            pretrained,
            pretrained_filter_fn=published_state,
            feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'),
            arch=arch,
            **kwargs,
        )

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = __name__
    entry.__doc__ = f'{arch}, as `mmfreq.build_classifier({arch!r})`.'
    default_cfgs.update(generate_default_cfgs({f'{name}.in1k' if direct_url(arch) else name: config(arch)}))
    globals()[name] = register_model(entry)


for _arch in list_archs():
    register(_arch)
