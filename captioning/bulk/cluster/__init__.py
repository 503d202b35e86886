"""Captioning on a Ray cluster: inputs divided into partitions, captioned by actors."""
