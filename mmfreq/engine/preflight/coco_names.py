"""The categories of a COCO file against the classes of its data set."""

from mmfreq.engine.errors import DataError
from mmfreq.engine.preflight.folders import some


def check_categories(where, categories, classes, report):
    """Compare names; what mmdet does with them is told in the messages.

    Returns:
        (ids of the categories in use, their names in the order of the labels).

    Raises:
        DataError: a category without name or id, one twice, or a class that has no category.
    """
    for index, category in enumerate(categories):
        if not isinstance(category.get('name'), str) or not isinstance(category.get('id'), int):
            raise DataError(f'{where}: categories[{index}] is {category}; expected an integer `id` and a text `name`.')
    for what in ('id', 'name'):
        values = [category[what] for category in categories]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise DataError(f'{where}: two categories have the {what} {some(map(repr, twice))}; each must be there once.')
    known = {category['name']: category['id'] for category in categories}
    gone = [name for name in classes if name not in known]
    if gone:
        raise DataError(
            f'{where}: {len(gone)} of the {len(classes)} classes are no category of the file: {some(gone, 10)}. The file has '
            f'{some(known, 20) or "no category"}. mmdet would leave out the annotations, or number the classes wrongly. Name the '
            f'classes as the file does, in every data set: metainfo=dict(classes={tuple(known)[:20]!r}), and set num_classes of '
            'the heads.'
        )
    used = [name for name in known if name in set(classes)]
    if used != list(classes):
        at = next(index for index, pair in enumerate(zip(used, classes)) if pair[0] != pair[1])
        report.warnings.append(
            f'{where}: mmdet numbers the classes as the categories of the file stand, and `metainfo` names them in another '
            'order: label '
            f'{at} is {used[at]!r}, and would be drawn as {classes[at]!r}. Scores are right; name them in the order of the file '
            'for right '
            f'pictures, and for checkpoints of others.'
        )
    unused = [name for name in known if name not in set(classes)]
    if unused:
        report.notes.append(f'{where}: {len(unused)} categories are no class of the data set, and are left out: {some(unused)}.')
    return {known[name] for name in used}, used
