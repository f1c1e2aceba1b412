from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.config.run import OptimiserConfig
from trainer.engine.optimiser import make_optimiser, make_schedule, set_rates

LINEAR = OptimiserConfig(learning_rate=1e-3, schedule="linear", warmup_steps=1)


def test_resumed_run_with_more_steps_goes_on_at_the_rate_of_its_own_schedule() -> None:
    def begun(steps: int, done: int) -> tuple[torch.optim.Optimizer, object]:
        optimiser = make_optimiser(nn.Linear(2, 2), LINEAR, on_host=False)
        schedule = make_schedule(optimiser, LINEAR, steps)
        for _ in range(done):
            optimiser.step()
            schedule.step()
        return optimiser, schedule

    before, schedule_before = begun(steps=8, done=8)
    assert before.param_groups[0]["lr"] == 0.0
    undisturbed, _ = begun(steps=10, done=8)
    resumed, schedule = begun(steps=10, done=0)
    # As DeepSpeed does.
    resumed.load_state_dict(before.state_dict())
    schedule.load_state_dict(schedule_before.state_dict())  # type: ignore[attr-defined]
    assert resumed.param_groups[0]["lr"] == 0.0
    set_rates(resumed, schedule)
    assert resumed.param_groups[0]["lr"] == undisturbed.param_groups[0]["lr"] > 0.0


def test_weight_decay_spares_biases_and_norms() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    config = OptimiserConfig(weight_decay=0.5)
    optimiser = make_optimiser(module, config, on_host=False)
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    for each in module.parameters():
        each.grad = torch.zeros_like(each)
    optimiser.step()
    for name, each in module.named_parameters():
        factor = 1.0 - config.learning_rate * config.weight_decay if each.ndim > 1 else 1.0
        torch.testing.assert_close(each.detach(), before[name] * factor)


@pytest.mark.parametrize("module", [nn.Linear(3, 3, bias=False), nn.LayerNorm(3)])
def test_optimiser_has_no_empty_group(module: nn.Module) -> None:
    groups = make_optimiser(module, OptimiserConfig(weight_decay=0.1), on_host=False).param_groups
    assert len(groups) == 1
