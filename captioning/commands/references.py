"""Where score and compare find what people said."""

from collections.abc import Sequence
from pathlib import Path

from captioning.data.readers import READERS, read_captions
from captioning.metrics.results import read_references


def find_references(name: str, split: str) -> dict[int, Sequence[str]]:
    """Return the references of each image, by its id.

    Args:
        name: A COCO annotations file, or a data set as ``captioning evaluate`` names it
            (``flickr8k:DIR``), whose image ids are those of the results that it writes.
        split: Of the data set.

    Raises:
        ScoreError: The file cannot be used.
        DataError: The data set cannot be used.
    """
    if name.partition(":")[0] in READERS and not Path(name).exists():
        return {i.image_id: i.captions for i in read_captions(name, split=split).images}
    return dict(read_references(Path(name)))
