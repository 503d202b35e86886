"""Score a model on the validation images of a data set with each type of stored grid.

    python scripts/feature_dtypes.py flickr8k:data/flickr8k --cache features

The model needs attention; without it the types do not differ.
"""

import argparse
from pathlib import Path

from captioning.datasets import read_captions
from captioning.decoding import BeamSearch
from captioning.evaluation.search_sweep import score_searches
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.inference.captioner import Captioner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="data set, such as flickr8k:data/flickr8k")
    parser.add_argument("--cache", type=Path, required=True, help="directory of the features")
    parser.add_argument("--model", help="model directory (default: the packaged model)")
    options = parser.parse_args()
    checkpoint = Captioner.from_pretrained(options.model, precision="float32").checkpoint
    images = read_captions(options.data, split="val").images
    for dtype in ("float16", "int8"):
        rows = cache_features(
            checkpoint.model.encoder,
            [image.ref for image in images],
            options.cache,
            ExtractionConfig(grid=True, dtype=dtype),
        )
        table = score_searches(
            CachedModel(checkpoint.model.decoder),
            rows,
            {row: images[row].captions for row in rows.readable},
            checkpoint.vocabulary,
            [checkpoint.search, BeamSearch(width=3)],
            reranker=checkpoint.reranker,
        )
        print(f"{dtype}:\n{table}", flush=True)


if __name__ == "__main__":
    main()
