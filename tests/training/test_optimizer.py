"""Learning-rate schedules, against those of PyTorch."""

import random

import pytest
import torch
from torch.optim import lr_scheduler

from captioning.errors import ConfigError
from captioning.training.optimizer import Schedule
from captioning.training.training_config import TrainingConfig

STEPS, PER_EPOCH, RATE = 120, 6, 2.0


def schedule(name, **settings):
    fields = {"warmup_steps": 0, "learning_rate": RATE, "patience": 0, **settings}
    config = TrainingConfig(schedule=name, **fields)
    return Schedule(config, steps=STEPS, steps_per_epoch=PER_EPOCH)


def torch_optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)


@pytest.mark.parametrize(
    ("name", "settings", "create", "arguments"),
    [
        ("cosine", {}, lr_scheduler.CosineAnnealingLR, {"T_max": STEPS, "eta_min": 0.02 * RATE}),
        ("constant", {}, lr_scheduler.ConstantLR, {"factor": 1.0}),
        ("step", {"decay_epochs": 2.0}, lr_scheduler.StepLR, {"step_size": 12, "gamma": 0.5}),
        (
            "step",
            {"decay_epochs": 1.5, "decay_factor": 0.8},
            lr_scheduler.StepLR,
            {"step_size": 9, "gamma": 0.8},
        ),
    ],
)
def test_schedule_equals_that_of_torch(name, settings, create, arguments):
    optimizer = torch_optimizer()
    expected, own = create(optimizer, **arguments), schedule(name, **settings)
    for step in range(STEPS):
        assert own.rate_at(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        expected.step()


@pytest.mark.parametrize("epochs", [1, 3])
def test_plateau_schedule_equals_that_of_torch(epochs):
    optimizer, best, draw = torch_optimizer(), float("-inf"), random.Random(4)
    expected = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=epochs - 1, threshold=0.0, eps=0.0
    )
    own = schedule("plateau", decay_epochs=float(epochs))
    for epoch in range(40):
        value = draw.random() + 0.02 * epoch
        resumed = schedule("plateau", decay_epochs=float(epochs))
        resumed.load_state_dict(own.state_dict())
        own = resumed
        own.report_epoch(better=value > best)
        expected.step(value)
        best = max(best, value)
        assert own.rate_at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert own.rate_at(0) < RATE / 4


def test_learning_rate_warms_up_then_decays():
    rates = [schedule("cosine", warmup_steps=10).rate_at(step) for step in range(STEPS)]
    assert rates[0] == pytest.approx(RATE / 10, rel=1e-3)
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    short = [schedule("constant", warmup_steps=200).rate_at(step) for step in range(STEPS)]
    assert short.index(RATE) == STEPS // 10 - 1  # warm-up is at most a tenth of the steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "plateau", "patience": 2}, "only after 3 epochs"),
        ({"encoder_start_epoch": 2}, "no encoder stage is trained"),
        ({"encoder_start_epoch": 9, "fine_tune_stages": 1, "epochs": 8}, "has 8 epochs"),
        ({"decay_factor": 1.0}, "decay_factor"),
        ({"accumulation_steps": 0}, "accumulation_steps"),
    ],
)
def test_training_config_contradiction_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings)
