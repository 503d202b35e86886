"""Features of a frozen encoder: extraction and the cache on disk."""
