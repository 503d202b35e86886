"""Split captioned everyday photos into training and validation, and remove overlap with the text.

    python scripts/prepare_everyday.py captions_everyday.json caption_text.tsv.gz data/everyday

The validation split has 200 random photos with three captions or more. Output files:
``everyday.json``, in Karpathy's format with the splits train and val, and ``text.tsv``, captions
without images as KEY<TAB>caption. Neither the training split nor the text contains a caption with
the same words as one of a validation photo.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

from captioning.datasets import read_text_captions
from captioning.files import write_atomic
from captioning.text.tokenizer import tokenize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, help="COCO caption file.")
    parser.add_argument(
        "text", type=Path, help="File of KEY<TAB>caption lines. KEY is the COCO image id."
    )
    parser.add_argument("output", type=Path, help="Folder for everyday.json and text.tsv.")
    parser.add_argument("--held", type=int, default=200, help="Number of validation photos.")
    parser.add_argument(
        "--least", type=int, default=3, help="Minimum captions per validation photo."
    )
    arguments = parser.parse_args()
    content = json.loads(arguments.captions.read_text(encoding="utf-8"))
    captions: defaultdict[int, list[str]] = defaultdict(list)
    for annotation in content["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    rich = sorted(image for image, own in captions.items() if len(own) >= arguments.least)
    held = set(random.Random(0).sample(rich, arguments.held))
    held_keys = {str(image) for image in held}
    held_words = {words(caption) for image in held for caption in captions[image]}

    entries = [
        {
            "filename": image["file_name"],
            "imgid": image["id"],
            "cocoid": image["id"],
            "split": "val" if image["id"] in held else "train",
            "sentences": [
                {"raw": caption}
                for caption in captions[image["id"]]
                if image["id"] in held or words(caption) not in held_words
            ],
        }
        for image in content["images"]
    ]
    text = [
        (key, caption)
        for key, own in read_text_captions(arguments.text).items()
        if key not in held_keys
        for caption in own
        if words(caption) not in held_words
    ]
    write_atomic(arguments.output / "everyday.json", json.dumps({"images": entries}))
    write_atomic(arguments.output / "text.tsv", "".join(f"{key}\t{own}\n" for key, own in text))
    trained = [entry for entry in entries if entry["split"] == "train" and entry["sentences"]]
    print(
        f"train {len(trained)} photos, {sum(len(e['sentences']) for e in trained)} captions; "
        f"val {len(held)} photos, {sum(len(captions[image]) for image in held)} captions; "
        f"text {len(text)} captions"
    )


def words(caption: str) -> tuple[str, ...]:
    """Return the words of a caption. Equal words are an equal caption."""
    return tuple(tokenize(caption))


if __name__ == "__main__":
    main()
