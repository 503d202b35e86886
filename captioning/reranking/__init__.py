"""Reranking of the hypotheses that a search finds: n-gram regression and consensus."""
