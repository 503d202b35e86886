"""Any image file as an upright RGB tensor: decoding, color, resizing, augmentation, workers."""
