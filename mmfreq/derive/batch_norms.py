"""Batch norms of a config's model, whose statistics are of the images of one iteration, however many make a step."""

import copy

import torch
from mmengine.registry import MODELS, DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from mmfreq.derive.total_batch import count
from mmfreq.engine.meta_model import RatesOnCpu, quiet


def count_batch_norms(cfg):
    """(batch norms, synchronised batch norms) that compute statistics when a config's model trains in several processes.

    Raises:
        Exception: whatever the constructors of the model raise.
    """
    cfg = copy.deepcopy(cfg)  # detectors of mmdet write into what they are built from
    model = {key: value for key, value in cfg.model.items() if key != 'pretrained'}
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), quiet():
        try:
            with torch.device('meta'), RatesOnCpu():
                built = MODELS.build(model)
        except (RuntimeError, NotImplementedError):  # a constructor that reads values
            built = MODELS.build(model)
    norms = [module for module in built.train().modules() if isinstance(module, _BatchNorm) and module.training]
    synced = len(norms) if cfg.get('sync_bn') else sum(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    return len(norms) - synced, synced


def batch_norm_notes(cfg, published, here):
    """What becomes of batch norms where the images of a config are shared out by the Split `here` instead of `published`."""
    try:
        norms, synced = count_batch_norms(cfg)
    except Exception as error:  # whatever a constructor raises: the config can be written all the same
        told = f'{type(error).__name__}: {error}'.splitlines()[0]
        return [f'The model could not be built here ({told}): batch norms, if any, see the images of one iteration only.']
    notes = []
    before, now = published.batch // published.accumulated, here.gpus * here.images
    if synced and before != now:
        notes.append(f'{count(synced, "SyncBN layer")}: statistics of {count(now, "image")} at a time, {before} before.')
    if norms and published.images != here.images:
        seen = count(here.images, 'image')
        notes.append(f'{count(norms, "BatchNorm layer")}: statistics of {seen} at a time, {published.images} before.')
    if norms + synced and here.accumulated > published.accumulated:
        notes.append('Running averages of batch norms move in every iteration, not once for each step of the optimizer.')
    if (synced and now == 1) or (norms and here.images == 1):
        notes.append('With 1 image a batch norm of a 1x1 map, as in pooling branches, fails in training: take 2 or more.')
    return notes
