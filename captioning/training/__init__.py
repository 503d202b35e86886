"""Training: configs, preparation, loop, objectives, run directory, and log."""
