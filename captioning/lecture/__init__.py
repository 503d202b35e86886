"""Code of the lecture on recurrent networks: sequence classifier and gradient diagnostics."""
