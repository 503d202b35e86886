"""Captioning many images: the job, its journal, partitions and output formats."""
