"""External features, written as other programs write them, and a tiny model for them."""

import json
from pathlib import Path

import numpy as np
import torch
from small_captioner import SIZES, WORDS

from captioning.checkpoint import Checkpoint, ModelInfo
from captioning.decoding import BeamSearch
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.model import CaptionModel
from captioning.text.vocabulary import Vocabulary

D = 12
TINY = Path(__file__).parents[1] / "data" / "tiny"


def make_regions(seed, count=None):
    """Return random regions ``(count, D)``; by default 1 to 6 of them."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count or random.integers(1, 7), D)).astype(np.float32)


def write_karpathy(folder):
    """Write the captions of data/tiny in Karpathy's form, without photos, and return its name."""
    images = []
    for split in ("train", "val"):
        content = json.loads((TINY / "annotations" / f"captions_{split}.json").read_text())
        for image in content["images"]:
            own = [a["caption"] for a in content["annotations"] if a["image_id"] == image["id"]]
            images.append(
                {
                    "filename": image["file_name"],
                    "imgid": len(images),
                    "cocoid": image["id"],
                    "split": split,
                    "sentences": [{"raw": caption} for caption in own],
                }
            )
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}))
    return f"karpathy:{path}", {
        split: [image["cocoid"] for image in images if image["split"] == split]
        for split in ("train", "val")
    }


def write_features(folder, ids):
    """Write ``ID.npz`` with the array ``feat``, as self-critical.pytorch does."""
    folder.mkdir()
    for number in ids:
        np.savez_compressed(folder / f"{number}.npz", feat=make_regions(number))
    return folder


def external_checkpoint(**options):
    """Return a model with random weights that reads features of the size D."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        vocabulary = Vocabulary.build([WORDS], min_count=1)
        config = DecoderConfig(**{**SIZES, "core": "attention", **options})
        decoder = Decoder(config, vocabulary_size=len(vocabulary), feature_size=D)
        with torch.no_grad():
            for weight in decoder.parameters():
                weight.normal_(0, 1.5)  # uneven distributions, so that the regions matter
        model = CaptionModel(ExternalEncoder(D), decoder).eval()
    search = BeamSearch(width=3, max_length=8)
    return Checkpoint(model, vocabulary, search, ModelInfo(name="External"))
