"""Finished tiny runs, shared by the tests of this folder."""

from dataclasses import replace

import pytest
from small_run import config, copy_run, fine_tuning

from captioning.training.run import train


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def plain(runs):
    """Config of a finished run without a choice of the search."""
    run = config(runs / "plain")
    train(run)
    return run


@pytest.fixture(scope="session")
def trained(plain, runs):
    """Model directory of a run with the default objective."""
    return train(copy_run(plain, runs / "trained", search_images=1000)).model_dir


@pytest.fixture(scope="session")
def fine_tuned(trained, runs):
    """Model directory of a run that fine-tunes the encoder on cached features."""
    run = fine_tuning(trained, runs / "fine_tuned")
    return train(replace(run, search_images=1000)).model_dir


@pytest.fixture(scope="session")
def augmented(trained, runs):
    """Model directory of a run that fine-tunes the encoder with online augmentation."""
    run = fine_tuning(trained, runs / "augmented", online_augmentation=True)
    return train(replace(run, search_images=1000)).model_dir
