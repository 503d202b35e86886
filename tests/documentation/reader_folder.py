"""The folder of a reader: what the documentation's commands and programs expect, but tiny."""

import json
import os
import shutil
import tarfile
from pathlib import Path

from drawn_images import draw
from external_features import write_features

IMAGES = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
CAPTIONS = ("A {0} runs on the grass.", "The {0} is on the grass.", "A {0} sits in the snow.")
THINGS = ("dog", "cat", "man", "woman")


def fill_folder(folder, model):
    """Write photos, captioned data and a trained model into a folder."""
    for number, name in enumerate(("photo.jpg", "a.jpg", "b.jpg", "b.png")):
        draw(number).save(folder / name)
    for name in ("holiday", "holiday/beach", "photos", "photos/drafts", "photos/2024/party"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            draw(20 * len(name) + number).save(folder / name / f"{number}.jpg")
    write_archives(folder)
    write_data(folder)
    photos = [f"../{path.relative_to(folder)}" for path in sorted(folder.glob("*o*/**/*.jpg"))]
    corrections = [{"image": name, "captions": captions_of(n)} for n, name in enumerate(photos)]
    write_lines(folder / "holiday" / "corrections.jsonl", map(json.dumps, corrections))
    write_lines(folder / "text.tsv", (f"{n}\tA dog runs in the snow." for n in range(20)))
    write_features(folder / "cocobu_att", range(10))
    for place in ("captioning/models/default", "path/to/this/directory"):
        shutil.copytree(model, folder / place)


def write_archives(folder):
    """Write part-000.tar to part-099.tar, which are one file with many names."""
    with tarfile.open(folder / "part-000.tar", "w") as file:
        file.add(folder / "photo.jpg", "photo.jpg")
    for number in range(1, 100):
        os.link(folder / "part-000.tar", folder / f"part-{number:03}.tar")


def write_data(folder):
    """Write the same images with captions as Flickr8k, COCO and Karpathy's COCO split."""
    flickr, coco, tiny = (folder / "data" / name for name in ("flickr8k", "coco", "tiny"))
    images = flickr / "images"
    for path in (images, tiny / "annotations"):
        path.mkdir(parents=True)
    tokens, entries = [], []
    for split, numbers in IMAGES.items():
        names = [f"{number:012}.jpg" for number in numbers]
        for number, name in zip(numbers, names, strict=True):
            draw(100 + number).save(images / name)
            tokens += [f"{name}#{k}\t{text}" for k, text in enumerate(captions_of(number))]
            ids = {"cocoid": number, "imgid": number}
            sentences = [{"raw": text} for text in captions_of(number)]
            entries.append({"filename": name, "split": split, "sentences": sentences, **ids})
        write_lines(flickr / f"Flickr_8k.{split.replace('val', 'dev')}Images.txt", names)
        path = tiny / "annotations" / f"captions_{split}.json"
        path.write_text(json.dumps(coco_annotations(names, numbers)))
    write_lines(flickr / "Flickr8k.token.txt", tokens)
    shutil.copytree(images, tiny / "images")
    shutil.copytree(images, coco)
    shutil.copytree(images, folder / "photos", dirs_exist_ok=True)
    for number, path in enumerate(sorted((folder / "photos").glob("*.jpg"))):
        write_lines(path.with_suffix(".txt"), captions_of(number))
    for name in ("data/coco/dataset_coco.json", "dataset_coco.json", "everyday.json"):
        (folder / name).write_text(json.dumps({"images": entries}))


def captions_of(number):
    return [text.format(THINGS[number % len(THINGS)]) for text in CAPTIONS]


def coco_annotations(names, numbers):
    annotations = [
        {"id": 10 * number + k, "image_id": number, "caption": text}
        for number in numbers
        for k, text in enumerate(captions_of(number))
    ]
    images = [{"id": n, "file_name": name} for n, name in zip(numbers, names, strict=True)]
    return {"images": images, "annotations": annotations}


def write_lines(path: Path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
