"""Caption images with an exported model, by the model's own greedy or beam search.

    captioning export MODEL exported --to onnx
    python scripts/caption_with_onnxruntime.py exported photo.jpg other.jpg

It needs onnxruntime, numpy and Pillow, but neither torch nor captioning.
"""

import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageChops, ImageOps
from PIL.ImageCms import Flags, ImageCmsProfile, createProfile, profileToProfile

PAD, BOS, EOS, UNK = range(4)
SAME_COLORS = 3  # of 255
Arrays = dict[str, np.ndarray]


class Model:
    """The graphs and settings of an exported model."""

    def __init__(self, folder: Path) -> None:
        names = ("preprocessor_config", "generation_config", "vocabulary")
        files = ((folder / f"{name}.json").read_text(encoding="utf-8") for name in names)
        self.preprocessing, self.search, vocabulary = map(json.loads, files)
        self.words = vocabulary["words"]
        forbidden = map(self.words.index, self.search["forbidden_words"])
        self.banned = [PAD, BOS, UNK, *forbidden]
        self.graphs = {path.stem: InferenceSession(path) for path in folder.glob("*.onnx")}
        self.reranker = dict(np.load(folder / "rerank.npz")) if self.weight else {}
        tokens = self.reranker.get("tokens", ())
        self.rows = {tuple(ngram[ngram > 0].tolist()): i for i, ngram in enumerate(tokens)}

    @property
    def weight(self) -> float:
        """Weight of n-gram reranking."""
        return self.search.get("rerank_weight", 0)

    def run(self, graph: str, values: Arrays) -> Arrays:
        """Return the outputs of a graph by name."""
        inputs = {each.name: values[each.name] for each in self.graphs[graph].get_inputs()}
        names = [each.name for each in self.graphs[graph].get_outputs()]
        return dict(zip(names, self.graphs[graph].run(names, inputs), strict=True))

    def caption(self, path: str) -> str:
        """Return the caption of an image file. A row of the state is a hypothesis."""
        features = self.run("encoder", {"pixels": self.read(path)})
        state, tokens = self.run("decoder_start", features), np.array([BOS])
        width, limit = self.search.get("width", 1), self.search["max_length"]
        power = self.search.get("length_penalty", 0)
        active, total, finished = [[]], np.zeros(1, np.float32), []
        for length in range(limit + 1):
            output = self.run("decoder_step", {"tokens": tokens, **state})
            scores = output["log_probs"] + total[:, None]
            for row, words in zip(scores, active, strict=True):
                self.block(row, words)
            ends, scores[:, EOS] = scores[:, EOS].copy(), -np.inf
            best = np.argsort(-scores, axis=None, kind="stable")[:width]
            parents, tokens = np.divmod(best, scores.shape[1])
            worst = np.sort([*ends, *scores.flat[best]])[-width]
            finished += [
                (end / (length + 1) ** power, words)
                for end, words in zip(ends, active, strict=True)
                if -np.inf < end and worst <= end
            ]
            finished = sorted(finished, key=lambda each: -each[0])[:width]
            bound = scores.max() / (limit + 1) ** power
            if length == limit or (len(finished) == width and finished[-1][0] >= bound):
                break
            total = scores.flat[best]
            active = [[*active[p], int(t)] for p, t in zip(parents, tokens, strict=True)]
            state |= {name.removeprefix("next_"): part for name, part in output.items()}
            state |= {name: part[parents] for name, part in state.items() if "state_" in name}
        cut = [(score / limit**power, words) for score, words in zip(total, active, strict=True)]
        ranked = [(s + self.rate(features["vector"][0], ws), ws) for s, ws in finished or cut]
        return " ".join(self.words[token] for token in max(ranked, key=lambda each: each[0])[1])

    def read(self, path: str) -> np.ndarray:
        """Return the pixels of an image, (1, 3, S, S)."""
        size = self.preprocessing["size"]
        resampling = Image.Resampling[self.preprocessing["interpolation"].upper()]
        image = Image.open(path)
        image.draft(None, (2 * size, 2 * size))  # decodes a large JPEG at a fraction of its size
        image = convert_to_srgb(ImageOps.exif_transpose(image)).convert("RGB")
        if self.preprocessing["fit"] == "crop":  # the center square
            short = min(image.size)
            sides = [size if s == short else int(size * s / short) for s in image.size]
            left, top = (round((side - size) / 2) for side in sides)
            image = image.resize(sides, resampling).crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), resampling)
        return np.asarray(image).transpose(2, 0, 1)[None]

    def block(self, scores: np.ndarray, words: list[int]) -> None:
        """Exclude words that may not follow the others."""
        scores[self.banned] = -np.inf
        if len(words) < self.search["min_length"]:
            scores[EOS] = -np.inf
        if self.search["block_repeated_words"]:
            scores[words[-2:]] = -np.inf
        n = self.search["no_repeat_ngram"]
        for start in range(len(words) - n + 1 if n else 0):
            if words[start : start + n - 1] == words[len(words) - n + 1 :]:
                scores[words[start + n - 1]] = -np.inf

    def rate(self, vector: np.ndarray, words: list[int]) -> float:
        """Return the weighted score of n-gram reranking, which estimates CIDEr."""
        if not self.weight:
            return 0
        found, total = self.reranker, 0
        for n in range(1, 5):
            counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
            rows = np.array([self.rows.get(ngram, -1) for ngram in counts], int)
            idf = np.where(rows < 0, found["unseen"], found["idf"][rows])
            vectors = found["weights"][rows] * found["scales"][rows, None] * (rows >= 0)[:, None]
            values = idf * list(counts.values())
            total += values @ (vectors @ vector) / (np.linalg.norm(values) or 1)
        return self.weight * 10 / 4 * total / np.linalg.norm(vector)


def convert_to_srgb(image: Image.Image) -> Image.Image:
    """Apply the color profile of an RGB image, unless it is sRGB up to rounding."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode != "RGB":
        return image
    source, target = ImageCmsProfile(io.BytesIO(profile)), createProfile("sRGB")
    levels = np.arange(0, 256, 51, np.uint8)
    probe = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))
    converted, changed = (
        profileToProfile(each, source, target, flags=Flags.BLACKPOINTCOMPENSATION)
        for each in (image, probe)
    )
    change = ImageChops.difference(probe, changed).getextrema()
    return converted if max(high for _, high in change) > SAME_COLORS else image


if __name__ == "__main__":
    model = Model(Path(sys.argv[1]))
    for path in sys.argv[2:]:
        print(f"{path}: {model.caption(path)}")
