"""Vocabulary, tokenizers, and n-gram counts."""
