"""``python -m captioning``."""

from captioning.cli import main

main()
