"""Testing an optimised copy of the model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmfreq.registry import HOOKS
from mmfreq.speed.inference import holds_backbone, optimize


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Puts `mmfreq.optimize(model)` in the place of the model before it is tested; a model without a backbone of mmfreq stays.

    `tools/test.py` adds it, unless `--plain` is given. Its outputs agree with the model's within rounding.
    """

    priority = 'LOWEST'  # what else is done to the model before a test comes first

    def before_test(self, runner) -> None:
        wrapped = is_model_wrapper(runner.model)
        model = runner.model.module if wrapped else runner.model
        if not holds_backbone(model):
            return
        if wrapped:
            runner.model.module = optimize(model)
        else:
            runner.model = optimize(model)
