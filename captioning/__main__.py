"""``python -m captioning``."""

from captioning.cli.main import main

main()
