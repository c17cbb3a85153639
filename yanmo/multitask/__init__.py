"""Several tasks at once: one network, a head per task, any mixture of tasks and pretraining objectives."""

from yanmo.multitask.comparing import Joint, carry_out
from yanmo.multitask.objective import MultiTask
from yanmo.multitask.order import MixedOrder
from yanmo.multitask.weighting import Weighting, build_weighting

__all__ = ["Joint", "MixedOrder", "MultiTask", "Weighting", "build_weighting", "carry_out"]
