"""Testing an optimised copy of the model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmfreq.registry import HOOKS
from mmfreq.speed.inference import holds_backbone, optimize


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Has the test run on `mmfreq.optimize(model)`; afterwards the runner has its model again.

    A model without a backbone of mmfreq is tested as it is. `tools/test.py` adds this hook, unless `--plain` is given. Predictions
    agree with the model's within rounding.
    """

    priority = 'LOWEST'  # what else is done to the weights before a test, such as EMAHook's exchange, comes first

    def __init__(self):
        self.model = None  # the runner's, while the copy is in its place

    def before_test_epoch(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if holds_backbone(model):
            self.model = model
            exchange(runner, optimize(model))

    def after_test_epoch(self, runner, metrics=None) -> None:
        if self.model is not None:
            exchange(runner, self.model)
            self.model = None


def exchange(runner, model) -> None:
    """Put `model` into the place of the runner's, within its wrapper if there is one."""
    if is_model_wrapper(runner.model):
        runner.model.module = model
    else:
        runner.model = model
