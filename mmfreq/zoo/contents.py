"""Which rows of the zoo a checkpoint fits by what it holds."""

import logging
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmfreq.analysis.count_subject import count_subject
from mmfreq.checkpoint.convert import official_layout, published_layout
from mmfreq.checkpoint.entries import choose_entry
from mmfreq.checkpoint.fit import fit_model, our_names
from mmfreq.checkpoint.rules import RULES
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.zoo.rows import Row

DETECTOR_PARTS = ('rpn_head.', 'roi_head.', 'bbox_head.')
TIME = re.compile(r'_\d{8}_\d{6}$')  # mmengine puts it after the name of the config
WORDS = {'cls': 'classifier, or backbone alone,', 'seg': 'segmentor', 'det': 'detector'}


def noted_config(content: Any) -> str:
    """Stem of the config that mmengine says it trained, '' if the file does not say."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    name = meta.get('experiment_name') if isinstance(meta, Mapping) else None
    return TIME.sub('', name) if isinstance(name, str) else ''


def kind_of(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """(family, task) of a state dict; a backbone alone counts as a classifier.

    Raises:
        CheckpointError: not of a family known here.
    """
    try:
        family, _ = published_layout(state)
    except CheckpointError:
        family, _ = official_layout(state)
    ours = our_names(state, RULES[family])[1].values()
    if any(name.startswith('decode_head.') for name in ours):
        return family, 'seg'
    return family, 'det' if any(name.startswith(DETECTOR_PARTS) for name in ours) else 'cls'


class RowModels:
    """The models of rows, on the meta device, each built when it is first asked for."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = list(rows)
        self._built: dict[str, nn.Module | None] = {}

    def fitting(self, content: Any) -> list[Row]:
        """Rows whose whole model the weights in the content of a file fill; those without resizing alone, if there are any.

        Raises:
            CheckpointError: no weights, no family known here, or no such row.
        """
        state = choose_entry(content).state
        family, task = kind_of(state)
        resized = {}
        for row in self.rows:
            if (row.family, row.task) == (family, task) and (count := self._resized(row, state)) is not None:
                resized[row.name] = count
        fits = [row for row in self.rows if row.name in resized]
        if not fits:
            raise CheckpointError(
                f'no row has this {WORDS[task]} of {family} with these shapes. If it belongs to one all the same, rename it to '
                'NAME.pth with the name of the row; --list prints them'
            )
        return [row for row in fits if not resized[row.name]] or fits

    def _resized(self, row: Row, state: Mapping[str, Tensor]) -> int | None:
        """How many tensors are brought to another grid to fit a row's model; None where some stay unfilled."""
        model = self._model(row)
        if model is None:
            return None
        try:
            fitted = fit_model(state, model)
        except Exception:  # also of filters that cannot be resized
            return None
        for name, wanted in model.state_dict().items():
            given = fitted.state.get(name)
            if (given is None or given.shape != wanted.shape) and not name.endswith('num_batches_tracked'):
                return None
        return len(fitted.resized)

    def _model(self, row: Row) -> nn.Module | None:
        """The model of a row; None if its config cannot be built, which is told when the row is evaluated or audited."""
        if row.name not in self._built:
            try:
                with quiet():
                    self._built[row.name] = count_subject(str(row.config))[0].to('meta')
            except Exception:
                self._built[row.name] = None
        return self._built[row.name]


@contextmanager
def quiet():
    """Nothing but errors from building many models."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
