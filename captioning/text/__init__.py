"""Vocabulary and PTB tokenizer."""
