"""The size at which a config trains, read from its pipeline."""

from mmfreq.engine.preflight.paths import leaf_datasets


def training_crop(cfg):
    """(H, W) of the smallest picture that the training pipeline gives to the model; None if no step states a size.

    The data preprocessor's `size` comes first, to which batches are padded. Otherwise it is that of the last step that states
    one; of several scales the smallest counts. Where the ratio of sides is kept, a picture is taken as a square of the short side.
    """
    model = cfg.model.get('module') or cfg.model
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    train = cfg.get('train_dataloader') or {}
    outer = (train.get('dataset') or {}).get('pipeline') or []
    leaves = list(leaf_datasets(train.get('dataset'), ''))
    inner = leaves[0][1].get('pipeline') or [] if leaves else []
    sizes = [size for step in (*inner, *outer) for size in _sizes(step)]
    return sizes[-1] if sizes else None


def _sizes(step):
    """Yield the (H, W) that one step gives, at most one."""
    if step.get('transforms'):  # a choice of lists of steps: the smallest that any of them ends with
        ends = []
        for branch in step['transforms']:
            found = [size for each in (branch if isinstance(branch, (list, tuple)) else [branch]) for size in _sizes(each)]
            ends += found[-1:]
        if ends:
            yield min(ends, key=lambda size: size[0] * size[1])
        return
    crop = step.get('crop_size')
    if crop:
        yield (crop, crop) if isinstance(crop, int) else tuple(crop)[:2]
        return
    scales = step.get('scales') or step.get('scale') or step.get('img_scale')
    if not scales:
        return
    scales = [scales] if not isinstance(scales, (list, tuple)) or isinstance(scales[0], (int, float)) else scales
    pairs = [(scale, scale) if isinstance(scale, int) else tuple(scale) for scale in scales]
    pairs = [pair for pair in pairs if len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair)]
    if not pairs:
        return
    width, height = min(pairs, key=min)
    keeps = step.get('keep_ratio', 'Choice' in str(step.get('type')) or step.get('type') == 'RandomResize')
    yield (min(width, height),) * 2 if keeps else (height, width)
