"""Finished tiny runs, shared by the tests of this folder."""

import pytest
from small_run import config, fine_tuning

from captioning.training import train


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def trained(runs):
    """Model directory of a run with the default objective."""
    return train(config(runs / "trained")).model_dir


@pytest.fixture(scope="session")
def fine_tuned(trained, runs):
    """Model directory of a run that fine-tunes the encoder on cached features."""
    return train(fine_tuning(trained, runs / "fine_tuned")).model_dir


@pytest.fixture(scope="session")
def augmented(trained, runs):
    """Model directory of a run that fine-tunes the encoder with online augmentation."""
    return train(fine_tuning(trained, runs / "augmented", online_augmentation=True)).model_dir
