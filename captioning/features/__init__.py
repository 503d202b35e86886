"""Features of images from a frozen encoder, and their cache on disk."""
