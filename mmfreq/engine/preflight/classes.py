"""The number of classes of a data set against that of the model's heads, from the config alone."""

from mmengine.registry import DATASETS

from mmfreq.engine.errors import DataError


def check_classes(cfg, key, dataset):
    """Raise if the classes of a data set do not fit one of the model's heads.

    mmseg and mmpretrain: a head must predict at least as many; mmdet: as many, since its metrics know no label beyond. Heads
    that do not depend on classes (proposals, class-agnostic masks) do not count, nor does what is not stated in the config.

    Raises:
        DataError: naming the data set, the head, and both numbers.
    """
    scope = cfg.get('default_scope', 'mmengine')
    classes = dataset_classes(dataset, scope)
    if isinstance(classes, str):
        raise DataError(
            f'{key}.metainfo.classes is the text {classes!r}, which counts as a class for each letter; expected a list of names: '
            f'with one name write classes=({classes!r},), with the comma.'
        )
    if not classes:
        return
    model = cfg.model.get('module') or cfg.model
    for name, head in _heads(model, scope):
        count = head.get('num_classes')
        if not isinstance(count, int) or count == len(classes) or (scope != 'mmdet' and count > len(classes)):
            continue
        if count < len(classes):
            why = f'labels from {count} on would have no score'
        else:
            why = f'predictions from {len(classes)} on would be no class, which ends validation with an IndexError'
        raise DataError(
            f'{key} ({dataset.get("type")}) has {len(classes)} classes and {name} predicts num_classes={count}: {why}. '
            f'Set num_classes={len(classes)} in every head (--cfg-options {name}.num_classes={len(classes)} ...), or name '
            f'{"fewer" if count < len(classes) else "all"} classes in its `metainfo`.'
        )


def dataset_classes(dataset, scope):
    """The class names a data set will have, from its config or from its registered class; None if neither tells.

    A text stands for a file with a name in each line, where there is such a file; another text is returned as it is.
    """
    stated = (dataset.get('metainfo') or {}).get('classes')
    kind = dataset_kind(dataset, scope)
    if isinstance(stated, str):
        read = getattr(kind, '_load_metainfo', None)  # mmengine's own reading of a file of names
        return read({'classes': stated})['classes'] if read else None
    if stated is not None:
        return stated if isinstance(stated, (list, tuple)) else None
    return getattr(kind, 'METAINFO', {}).get('classes')


def dataset_kind(dataset, scope):
    """The class that a data set's config names; None if there is no such class."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_') or scope) as registry:
            kind = registry.get(kind)
    return kind


def _heads(model, scope):
    """Yield (key, config) of the heads whose `num_classes` is that of the data."""
    if scope == 'mmseg':
        yield from _each('model.decode_head', model.get('decode_head'))
        yield from _each('model.auxiliary_head', model.get('auxiliary_head'))
    elif scope == 'mmpretrain':
        yield from _each('model', model if 'num_classes' in model else None)  # our image classifier
        yield from _each('model.head', model.get('head'))
    elif scope == 'mmdet':
        yield from _each('model.bbox_head', model.get('bbox_head'))
        yield from _each('model.mask_head', model.get('mask_head'))
        roi_head = model.get('roi_head') or {}
        yield from _each('model.roi_head.bbox_head', roi_head.get('bbox_head'))
        for name, head in _each('model.roi_head.mask_head', roi_head.get('mask_head')):
            if not head.get('class_agnostic'):
                yield name, head


def _each(key, heads):
    if isinstance(heads, (list, tuple)):
        yield from ((f'{key}.{index}', head) for index, head in enumerate(heads))
    elif heads:
        yield key, heads
