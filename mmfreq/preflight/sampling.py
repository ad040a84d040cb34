"""Reading a sample of a dataset before a run."""

import numpy as np

from mmfreq.errors import InputError

SAMPLE_SIZE = 32  # samples of each dataset that are read, evenly spaced


def read_sample(key, items, read, noun, explain=lambda: ''):
    """Read some of a dataset's items.

    Args:
        key: config key of the dataset.
        items: any sequence.
        read: a function that reads one of them; it raises InputError if it is invalid.
        noun: what the items are, in the plural.
        explain: a function that gives a further line for the error.

    Raises:
        InputError: the error of the first item that is invalid, and how many of the sample are.
    """
    picked = np.unique(np.linspace(0, len(items) - 1, SAMPLE_SIZE).round().astype(int)) if len(items) else ()
    errors = []
    for index in picked:
        try:
            read(items[index])
        except InputError as error:
            errors.append(error)
    if errors:
        more = f'\n{len(errors)} of the {len(picked)} {noun} that were read are invalid.' if len(errors) > 1 else ''
        raise InputError(f'{key}: {errors[0]}{more}{explain()}') from errors[0]
