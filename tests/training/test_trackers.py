"""Experiment trackers. Oracle: TensorBoard reads what accelerate wrote for it."""

import csv

import pytest
from small_run import config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from captioning.errors import ConfigError
from captioning.training.run import train
from captioning.training.trackers import check_trackers


def test_tracker_receives_the_rows_of_the_log(tmp_path):
    run = config(tmp_path / "run", epochs=1, log_every=5)
    train(type(run)(**{**vars(run), "trackers": ("tensorboard",)}))
    events = EventAccumulator(str(tmp_path / "run" / "captioning")).Reload()
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "step"]
    points = events.Scalars("step/loss")
    assert [point.step for point in points] == [int(row["step"]) for row in rows] == [5, 10]
    expected = [float(row["loss"]) for row in rows]
    assert [point.value for point in points] == pytest.approx(expected, rel=1e-5)
    assert len(events.Scalars("val/CIDEr")) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("wandbb", "unknown tracker 'wandbb'. Use one of: .*wandb"), ("aim", "not installed")],
)
def test_tracker_that_cannot_be_used_is_refused(name, text):
    with pytest.raises(ConfigError, match=text):
        check_trackers(["tensorboard", name])
