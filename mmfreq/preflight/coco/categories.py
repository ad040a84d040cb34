"""The categories of COCO files: they are the classes of the datasets, in the same order in every file."""

from mmfreq.errors import DataError
from mmfreq.preflight.data import first_names


def check_categories(where, categories, classes, report):
    """Compare the categories of a file with the class names of the dataset.

    Returns:
        The ids of the categories that are classes, and their names in the order of the labels.

    Raises:
        DataError: a category without name or id, or a duplicate; a class that is not a category.
    """
    for index, category in enumerate(categories):
        number = category.get('id')
        if not isinstance(category.get('name'), str) or type(number) not in (int, float) or number % 1:
            raise DataError(f'{where}: expected an integer `id` and a string `name`, but categories[{index}] is {category}.')
    for field in ('id', 'name'):
        values = [category[field] for category in categories]
        duplicates = sorted({value for value in values if values.count(value) > 1})
        if duplicates:
            raise DataError(f'{where}: two categories have the {field} {first_names(map(repr, duplicates))}. Make it unique.')
    id_of = {category['name']: category['id'] for category in categories}
    unknown = [name for name in classes if name not in id_of]
    if unknown:
        raise DataError(
            f'{where}: {len(unknown)} of the {len(classes)} classes are not categories of the file: '
            f'{first_names(unknown, 10, keep_order=True)}. The file has '
            f'{first_names(id_of, 20, keep_order=True) or "no category"}. Name the classes as the file does, '
            f'metainfo=dict(classes={tuple(id_of)[:20]!r}), in every dataset, and set num_classes of the heads.'
        )
    used = [name for name in id_of if name in set(classes)]
    if used != list(classes):
        at = _first_difference(used, classes)
        report.warnings.append(
            f'{where}: mmdet numbers the classes in the order of the categories in the file, but `metainfo` has another order: '
            f'label {at} is {used[at]!r} and would be drawn as {classes[at]!r}. Scores are right; for right names in drawn images '
            'and in checkpoints use the order of the file.'
        )
    unused = [name for name in id_of if name not in set(classes)]
    if unused:
        report.notes.append(
            f'{where}: {len(unused)} categories are not a class of the dataset and are skipped: {first_names(unused)}.'
        )
    return {id_of[name] for name in used}, used


def _first_difference(one, other):
    return next(index for index, pair in enumerate(zip(one, other)) if pair[0] != pair[1])


def check_orders(orders):
    """Raise if two datasets number their classes differently: a label would mean another class in each."""
    for key, names in orders.items():
        first, expected = next(iter(orders.items()))
        if names != expected and sorted(names) == sorted(expected):
            at = _first_difference(expected, names)
            raise DataError(
                f'Expected the same order of categories in {first} and {key}, as mmdet numbers the classes by it, but label {at} '
                f'is {expected[at]!r} in the first and {names[at]!r} in the second. Sort the "categories" of both files the same '
                'way; the ids can stay.'
            )


def compare_classes(checked, report):
    """Warn of classes that are scored and not trained; note those that are trained and not scored."""
    trained = {name for dataset in checked if dataset.loader.startswith('train') for name in dataset.used}
    scored = {name for dataset in checked if not dataset.loader.startswith('train') for name in dataset.used}
    if not trained or not scored:
        return
    keys = ', '.join(dataset.key for dataset in checked if not dataset.loader.startswith('train'))
    if scored - trained:
        report.warnings.append(
            f'{keys}: {len(scored - trained)} classes have objects in validation and none in training: '
            f'{first_names(scored - trained)}. Their AP will be 0, and the mean includes them. Check the categories of both files.'
        )
    if trained - scored:
        report.notes.append(
            f'{keys}: {len(trained - scored)} classes have objects in training and none in validation: '
            f'{first_names(trained - scored)}. They are not scored, and the mean is that of the others.'
        )
