"""Any image file as an upright RGB tensor: decoding, colour, resizing, augmentation, workers."""
