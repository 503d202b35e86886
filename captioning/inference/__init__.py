"""Images in, captions out: the captioner, its results and attention maps."""
