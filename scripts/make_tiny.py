"""Generate the tiny data set data/tiny: 48 drawn images of colored things, five captions each.

A fixed seed determines the images and the captions, which a grammar writes. The data set is for
tests and first steps, and has the layout of COCO captions.

    python scripts/make_tiny.py data/tiny
"""

import argparse
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, SCALE, SEED = 96, 4, 2015  # width in pixels; drawn SCALE times larger for smooth edges
SPLITS = {"train": 32, "val": 8, "test": 8}

COLORS = {
    "red": (208, 40, 44),
    "yellow": (246, 208, 48),
    "white": (250, 250, 250),
    "purple": (132, 62, 168),
    "orange": (240, 130, 32),
}
NUMBERS = {1: "a", 2: "two", 3: "three"}
Box = tuple[float, float, float, float]
_Choice = tuple[str, str, int, str]


@dataclass(frozen=True)
class Place:
    """A background: its colors above and below the horizon, and its words."""

    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    horizon: float
    where: str
    backdrop: str


PLACES = {
    "grass": Place((122, 190, 240), (70, 150, 60), 0.55, "on the grass", "under a blue sky"),
    "beach": Place((40, 120, 190), (226, 200, 140), 0.5, "on the sand", "in front of the sea"),
    "night": Place((16, 20, 60), (60, 64, 76), 0.6, "on a dark street", "at night"),
    "room": Place((190, 214, 200), (120, 78, 46), 0.65, "on a wooden floor", "by a green wall"),
}


def draw_ball(draw: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int]) -> None:
    draw.ellipse(box, fill=color, outline="black", width=SCALE)


def draw_box(draw: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int]) -> None:
    draw.rectangle(box, fill=color, outline="black", width=SCALE)
    x0, y0, x1, y1 = box
    draw.line((x0, (y0 + y1) / 2, x1, (y0 + y1) / 2), fill="black", width=SCALE)


def draw_tent(draw: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    middle = (x0 + x1) / 2
    draw.polygon([(x0, y1), (middle, y0), (x1, y1)], fill=color, outline="black", width=SCALE)
    door = (x1 - x0) / 7
    draw.polygon([(middle - door, y1), (middle, (y0 + y1) / 2), (middle + door, y1)], fill="black")


def draw_star(draw: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    points = []
    for corner in range(10):
        radius = (x1 - x0) / (2 if corner % 2 == 0 else 5)
        angle = math.pi * (corner / 5 - 0.5)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    draw.polygon(points, fill=color, outline="black", width=SCALE)


THINGS: dict[str, Callable[[ImageDraw.ImageDraw, Box, tuple[int, int, int]], None]] = {
    "ball": draw_ball,
    "box": draw_box,
    "tent": draw_tent,
    "star": draw_star,
}


@dataclass(frozen=True)
class Scene:
    """Content of an image."""

    thing: str
    color: str
    number: int
    place: str
    side: str
    size: str


def make_scenes(rng: random.Random, number: int) -> list[Scene]:
    """Return distinct scenes in which things, colors, numbers and places are balanced."""
    candidates = list(product(THINGS, COLORS, NUMBERS, PLACES))
    rng.shuffle(candidates)
    chosen: list[_Choice] = []
    while len(chosen) < number:
        chosen.append(min(candidates, key=lambda scene: _count_shared(scene, chosen)))
        candidates.remove(chosen[-1])
    return [
        Scene(*scene, rng.choice(("left", "middle", "right")), rng.choice(("big", "small")))
        for scene in chosen
    ]


def _count_shared(scene: _Choice, chosen: list[_Choice]) -> int:
    return sum(part in other for other in chosen for part in scene)


def draw_scene(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene as a square image of width ``SIZE``."""
    side = SIZE * SCALE
    place = PLACES[scene.place]
    image = Image.new("RGB", (side, side), place.top)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, place.horizon * side, side, side), fill=place.bottom)
    _decorate(draw, scene.place, side, rng)
    width = side * (0.3 if scene.size == "big" else 0.2)
    for number in range(scene.number):
        x = side * _find_center(scene, number) - width / 2
        y = side * (0.72 + rng.uniform(-0.05, 0.05)) - width / 2
        THINGS[scene.thing](draw, (x, y, x + width, y + width), COLORS[scene.color])
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _find_center(scene: Scene, number: int) -> float:
    if scene.number == 1:
        return {"left": 0.22, "middle": 0.5, "right": 0.78}[scene.side]
    return 0.5 + (number - (scene.number - 1) / 2) * 0.32


def _decorate(draw: ImageDraw.ImageDraw, place: str, side: int, rng: random.Random) -> None:
    """Draw the details of a place: a cloud, a sail, a moon with stars, or a window."""
    x = rng.uniform(0.1, 0.6) * side
    if place == "grass":
        for shift in (0.0, 0.08, 0.16):
            box = (x + shift * side, 0.1 * side, x + (shift + 0.16) * side, 0.22 * side)
            draw.ellipse(box, fill="white")
    elif place == "beach":
        mast = x + 0.1 * side
        draw.polygon([(x, 0.4 * side), (mast, 0.1 * side), (mast, 0.4 * side)], fill="white")
        draw.line((0, 0.5 * side, side, 0.5 * side), fill="white", width=2 * SCALE)
    elif place == "night":
        draw.ellipse((x, 0.08 * side, x + 0.16 * side, 0.24 * side), fill=(240, 240, 200))
        for _ in range(12):
            sx, sy = rng.uniform(0, side), rng.uniform(0, 0.5 * side)
            draw.ellipse((sx, sy, sx + SCALE, sy + SCALE), fill="white")
    else:
        draw.rectangle((x, 0.1 * side, x + 0.28 * side, 0.4 * side), fill=(170, 214, 246))


def write_captions(scene: Scene) -> list[str]:
    """Return five captions of a scene."""
    place = PLACES[scene.place]
    color, size, sized = scene.color, scene.size, NUMBERS[scene.number]
    if scene.number == 1:
        things, verb, lie = scene.thing, "is", "lies"
        number = "an" if color[0] in "aeiou" else "a"
        row = "in the middle" if scene.side == "middle" else f"on the {scene.side}"
    else:
        things, verb, lie = _plural(scene.thing), "are", "lie"
        number, row = sized, "in a row"
    return [
        f"{number.capitalize()} {color} {things} {place.where}.",
        f"{sized.capitalize()} {size} {color} {things} {place.where} {place.backdrop}.",
        f"There {verb} {number} {color} {things} {row} {place.backdrop}.",
        f"{number.capitalize()} {color} {things} {lie} {row}, {place.where}.",
        f"A drawing of {sized} {size} {things} {place.backdrop}.",
    ]


def _plural(thing: str) -> str:
    return thing + ("es" if thing.endswith("x") else "s")


def write_split(directory: Path, split: str, scenes: dict[int, Scene]) -> None:
    """Write the images and the COCO caption file of a split."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, scene in scenes.items():
        name = f"{image_id:06d}.png"
        image = draw_scene(scene, random.Random(SEED * 1000 + image_id))
        image.save(directory / "images" / name, optimize=True)
        images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
        for caption in write_captions(scene):
            number = 5 * image_id + len(annotations) % 5
            annotations.append({"id": number, "image_id": image_id, "caption": caption})
    info = {"description": "Tiny drawn set", "generator": "scripts/make_tiny.py", "seed": SEED}
    content = {"info": info, "images": images, "annotations": annotations}
    path = directory / "annotations" / f"captions_{split}.json"
    path.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="output folder")
    directory = parser.parse_args().directory
    for name in ("images", "annotations"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    scenes = list(enumerate(make_scenes(random.Random(SEED), sum(SPLITS.values())), 1))
    start = 0
    for split, size in SPLITS.items():
        write_split(directory, split, dict(scenes[start : start + size]))
        start += size
    files = [path for path in directory.rglob("*") if path.is_file()]
    print(f"{len(scenes)} images, {sum(path.stat().st_size for path in files):,} bytes")


if __name__ == "__main__":
    main()
