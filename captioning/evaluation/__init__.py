"""Caption a split and score it; search sweep; retrieval."""
