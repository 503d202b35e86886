"""Peers that do not come from this package: the textbook way, and a ViT-GPT2 of standard size."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.captioning_tasks import Settings, Subject
from benchmarks.prepared import Prepared, timed

VIT: dict[str, int] = {}
"""Sizes of the ViT; the default is google/vit-base-patch16-224."""
GPT2: dict[str, int] = {}
"""Sizes of the GPT-2; the default is gpt2, the small one."""
_BATCH_SIZE = 16
_NEW_TOKENS, _BEAMS = 16, 3


class Textbook:
    """Captions one image at a time, as the widely used PyTorch tutorials do.

    Every JPEG is decoded at full size, the encoder runs on a batch of one in float32, and a beam
    search in Python steps the hypotheses of one image together. As in
    sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning (caption.py), the attention projects the grid
    again at every step, and a finished hypothesis narrows the beam. The weights are those of the
    model, which must be an LSTM with soft attention.

    Args:
        settings: As for :class:`benchmarks.captioning_tasks.Subject`.
    """

    def __init__(self, settings: Settings) -> None:
        self.subject = Subject({**settings, "backend": "torch", "precision": "float32"})
        checkpoint = self.subject.checkpoint
        config = checkpoint.model.decoder.config
        if (config.core, config.cell, config.injection) != ("attention", "lstm", "recurrent"):
            sys.exit("benchmark: --against textbook needs an LSTM with attention; use that --model")
        self.encoder = checkpoint.model.encoder
        self.encoder.network.to(memory_format=torch.contiguous_format)
        self.preprocessing = self.encoder.preprocessing
        self.w = {name: weight.detach().clone() for name, weight in
                  checkpoint.model.decoder.state_dict().items()}  # fmt: skip
        self.w.setdefault("W_rw.weight", self.w["embedding.weight"])
        self.bos, self.eos = checkpoint.vocabulary.bos, checkpoint.vocabulary.eos
        self.width = getattr(self.subject.search, "width", 1)
        self.max_length = self.subject.search.max_length

    def read(self, path: str) -> Tensor:
        """Return the normalized pixels of a file."""
        with Image.open(path) as image:
            pixels = self.preprocessing.pixels(image.convert("RGB"))
        return self.preprocessing.normalize(pixels.unsqueeze(0))

    def encode(self, normal: Tensor) -> Tensor:
        """Return the grid ``(1, P, D)``."""
        return self.encoder._grid(normal)

    def search(self, grid: Tensor) -> list[int]:
        """Return the tokens of the best caption, as beam search without length penalty finds it."""
        k, finished = self.width, []
        grid = grid.expand(k, -1, -1)
        size = self.w["core.cell.W_hh"].shape[1]
        h, c = torch.zeros(k, size), torch.zeros(k, size)
        words = torch.full((k,), self.bos)
        sequences, totals = words.unsqueeze(1), torch.zeros(k, 1)
        for t in range(self.max_length + 1):
            log_probs, h, c = self.step(words, h, c, grid)
            scores = totals + log_probs
            # At first all hypotheses are the same.
            flat = scores[0] if t == 0 else scores.view(-1)
            best, index = flat.topk(k)
            parents, words = index // log_probs.shape[1], index % log_probs.shape[1]
            sequences = torch.cat([sequences[parents], words.unsqueeze(1)], 1)
            going = [i for i, word in enumerate(words.tolist()) if word != self.eos]
            ended = [i for i in range(k) if i not in going]
            finished += [(best[i].item(), sequences[i].tolist()) for i in ended]
            k = len(going)
            if not k:
                break
            sequences, totals = sequences[going], best[going].unsqueeze(1)
            h, c, words = h[parents[going]], c[parents[going]], words[going]
            grid = grid[parents[going]]
        finished = finished or [(totals[0].item(), sequences[0].tolist())]
        return [word for word in max(finished)[1] if word not in (self.bos, self.eos)]

    def step(
        self, words: Tensor, h: Tensor, c: Tensor, grid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-probabilities of the next word, and the state."""
        w, linear = self.w, torch.nn.functional.linear
        x, v = w["embedding.weight"][words], grid.mean(1)
        a = torch.relu(linear(grid, w["core.attention.W_a.weight"], w["core.attention.W_a.bias"]))
        query = linear(h, w["core.attention.W_he.weight"], w["core.attention.W_he.bias"])
        hidden = torch.tanh(linear(a, w["core.attention.W_ae.weight"]) + query.unsqueeze(1))
        alpha = torch.softmax(linear(hidden, w["core.attention.w_e.weight"]).squeeze(2), 1)
        z = (a * alpha.unsqueeze(2)).sum(1)
        gates = (
            linear(x, w["core.cell.W_xh"], w["core.cell.b"])
            + linear(h, w["core.cell.W_hh"])
            + linear(v, w["core.cell.W_vh"])
            + linear(z, w["core.W_zh.weight"])
        )
        f, i, o, g = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        r = linear(h, w["readout.W_hr.weight"], w["readout.W_hr.bias"])
        r = r + linear(z, w["readout.W_zr.weight"])
        if "readout.W_xr.weight" in w:
            r = r + linear(x, w["readout.W_xr.weight"])
        return torch.log_softmax(linear(r, w["W_rw.weight"], w["W_rw.bias"]), 1), h, c


def textbook(settings: Settings) -> Prepared:
    """Caption, encode or decode in the textbook way."""
    task = settings["task"]
    model = Textbook(settings)
    paths, stages = model.subject.images, {}
    read, encode = timed(model.read, stages, "reading"), timed(model.encode, stages, "encoder")
    search = timed(model.search, stages, "decoder")
    if task == "encode":
        inputs = [model.read(path) for path in paths]
        return _for_each(model.encode, inputs)
    if task == "decode":
        with torch.inference_mode():
            inputs = [model.encode(model.read(path)) for path in paths]
        return _for_each(model.search, inputs)
    prepared = _for_each(lambda path: search(encode(read(path))), paths)
    prepared.stages = stages
    return prepared


def vit_gpt2(settings: Settings) -> Prepared:
    """Caption, encode or decode with ViT-base and GPT-2 small: beam 3, exactly 16 new tokens.

    The weights are random, so nothing is downloaded.
    """
    task = settings["task"]
    try:
        from transformers import (
            GPT2Config,
            VisionEncoderDecoderConfig,
            VisionEncoderDecoderModel,
            ViTConfig,
        )
        from transformers.modeling_outputs import BaseModelOutput
    except ImportError:
        sys.exit("benchmark: --against vit-gpt2 needs transformers: pip install transformers")
    sizes = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**VIT), GPT2Config(**GPT2)
    )
    model = VisionEncoderDecoderModel(config=sizes).eval()
    size = sizes.encoder.image_size
    words = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}

    def read(paths: list[str]) -> Tensor:
        images = []
        for path in paths:
            with Image.open(path) as image:
                small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            images.append(torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8))
        pixels = torch.stack(images).view(-1, size, size, 3).permute(0, 3, 1, 2)
        return (pixels / 255 - 0.5) / 0.5

    def search(encoded: Any) -> Tensor:
        # A copy: the search repeats its rows in place.
        return model.generate(
            encoder_outputs=BaseModelOutput(encoded.last_hidden_state), num_beams=_BEAMS,
            do_sample=False, min_new_tokens=_NEW_TOKENS, max_new_tokens=_NEW_TOKENS, **words,
        )  # fmt: skip

    stages: dict[str, float] = {}
    parts = {"reading": read, "encoder": model.encoder, "decoder": search}
    timed_parts = [timed(part, stages, name) for name, part in parts.items()]
    paths, step = settings["images"], settings.get("batch_size") or _BATCH_SIZE
    batches = [paths[start : start + step] for start in range(0, len(paths), step)]
    with torch.inference_mode():
        if task == "encode":
            return _for_each(model.encoder, [read(batch) for batch in batches], len(paths))
        if task == "decode":
            inputs = [model.encoder(read(batch)) for batch in batches]
            return _for_each(search, inputs, len(paths))

    def run(batch: list[str]) -> Any:
        result: Any = batch
        for part in timed_parts:
            result = part(result)
        return result

    prepared = _for_each(run, batches, len(paths))
    prepared.stages = stages
    return prepared


def _for_each(call: Callable[[Any], Any], inputs: list[Any], units: int | None = None) -> Prepared:
    """Return a task that calls a function for each input."""

    @torch.inference_mode()
    def run() -> None:
        for each in inputs:
            call(each)

    return Prepared(run, len(inputs) if units is None else units)
