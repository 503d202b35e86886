"""Output formats: rows in, one format out."""
