"""Write the words that the classes of ImageNet stand for, from WordNet and the words of captions.

    apt-get install wordnet-base
    python scripts/make_class_words.py captions.tsv

Each class of ImageNet is a synset of WordNet 3.0, such as "espresso". Its words, and those of its
hypernyms ("coffee", "beverage"), become its words if captions use them. So a photo of an espresso
is described as a coffee. ``captions.tsv`` has one caption per line, or KEY<TAB>caption. The output
is ``captioning/training/imagenet_words.tsv``, with one line per class in the order of the
classifier: the name of the class and up to three words.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from timm.data import ImageNetInfo

import captioning.training
from captioning.datasets import read_text_captions
from captioning.files import write_atomic
from captioning.text.tokenizer import tokenize

OUTPUT = Path(captioning.training.__file__).parent / "imagenet_words.tsv"
OWN_COUNT = 20  # times that captions must use a word of the class itself
HYPERNYM_COUNT = 300  # and a word of a hypernym
OWN_WORDS = 2
MAX_WORDS = 3
MAX_DEPTH = 8  # of hypernyms
# Hypernyms that say nothing about an image, or that mean something else in a caption.
VAGUE = frozenset(
    """
    abstraction apparatus area arm article artifact attire bar beast beauty being body box brass
    building business carnivore case circuit cleaner cloth commodity computer construction
    container conveyance course cover covering creation creature device domestic dress edge end
    equipment establishment fabric fixing food game garment gear good goods ground hair head
    headdress home hunting implement instrument instrumentation life line mammal material matter
    means mechanism medium object organism part piece place plant point pool power press produce
    product protection range rest restraint ride ridge rod room round section set shaft sheet
    shelter signal source sporting stock strip structure substance support surface system tank
    thing tool top toy transport truck unit ware way whole work worker working works
    """.split()  # noqa: SIM905
)
# Last parts of names that are not nouns, as in "bicycle-built-for-two".
NOT_NOUNS = frozenset({"aid", "off", "t", "two", "up"})


@dataclass(frozen=True)
class Synset:
    """Words and hypernyms of a noun."""

    words: tuple[str, ...]
    hypernyms: tuple[int, ...]


def read_nouns(path: Path) -> dict[int, Synset]:
    """Return the synsets of WordNet's ``data.noun`` by their offset (format: man 5 wndb)."""
    synsets = {}
    for line in path.read_text("latin-1").splitlines():
        if line.startswith(" "):  # the license
            continue
        fields = line.partition(" | ")[0].split()
        count = int(fields[3], 16)
        words = tuple(fields[4 + 2 * i].lower() for i in range(count))
        start = 5 + 2 * count
        pointers = [
            fields[start + 4 * i : start + 4 * i + 2] for i in range(int(fields[start - 1]))
        ]
        hypernyms = tuple(int(offset) for symbol, offset in pointers if symbol in ("@", "@i"))
        synsets[int(fields[0])] = Synset(words, hypernyms)
    return synsets


def hypernym_levels(offset: int, synsets: dict[int, Synset]) -> Iterator[list[str]]:
    """Yield the words of a synset, then those of its hypernyms, level by level.

    Of a name with several words, such as teddy_bear, the last one is the noun.
    """
    level = [offset]
    for _ in range(MAX_DEPTH + 1):
        names = [name for each in level for name in synsets[each].words]
        yield list(dict.fromkeys(name.replace("-", "_").split("_")[-1] for name in names))
        level = list(dict.fromkeys(up for each in level for up in synsets[each].hypernyms))


def class_words(offset: int, synsets: dict[int, Synset], counts: Counter[str]) -> list[str]:
    """Return the words of a class, most specific first."""
    found: list[str] = []
    for depth, names in enumerate(hypernym_levels(offset, synsets)):
        least = HYPERNYM_COUNT if depth else OWN_COUNT
        usual = [
            name
            for name in names
            if counts[name] >= least
            and name not in NOT_NOUNS.union(found)
            and not (depth and name in VAGUE)
        ]
        usual.sort(key=lambda name: -counts[name])
        found += usual[: 1 if depth else OWN_WORDS]
        if len(found) >= MAX_WORDS:
            break
    return found[:MAX_WORDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, help="File of captions whose words are counted.")
    parser.add_argument(
        "--nouns", type=Path, default=Path("/usr/share/wordnet/data.noun"), help="WordNet's nouns."
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="File of the words.")
    arguments = parser.parse_args()
    captions = read_text_captions(arguments.captions)
    counts = Counter(
        word for own in captions.values() for caption in own for word in tokenize(caption)
    )
    synsets = read_nouns(arguments.nouns)
    info = ImageNetInfo("imagenet-1k")
    lines = []
    for index in range(info.num_classes()):
        offset = int(info.index_to_label_name(index).removeprefix("n"))
        words = class_words(offset, synsets, counts)
        name = info.index_to_description(index).partition(",")[0]
        lines.append(f"{name}\t{' '.join(words)}\n")
    write_atomic(arguments.output, "".join(lines))
    empty = sum(line.endswith("\t\n") for line in lines)
    print(f"{arguments.output}: {len(lines)} classes, {empty} without words")


if __name__ == "__main__":
    main()
