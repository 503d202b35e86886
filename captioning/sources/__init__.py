"""Image sources: files, folders, glob patterns, lists, archives and URLs."""
