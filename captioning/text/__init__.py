"""Vocabulary, PTB tokenizer, and n-gram counts."""
