"""Small decoders of every variant, with images and captions for them."""

from dataclasses import replace

import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from captioning.nn.cells import CELLS
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features
from captioning.nn.injections import INJECTIONS
from captioning.nn.presets import PRESETS, preset

V, D, P, E, H, EOS = 11, 6, 4, 5, 7, 2
CAPTIONS = [[1, 4, 5, 6, 7], [1, 8], [1, 9, 4, 4], [1, 5, 5]]
CORES = ("stack", "attention", "top_down")
SINGLE_LAYER = {
    f"{cell}, {injection}, {core}": DecoderConfig(cell=cell, injection=injection, core=core)
    for cell in CELLS
    for injection in INJECTIONS
    for core in CORES
    if core == "stack" or injection != "none"
}
# Several layers under each injection, and special layers with another cell than in their paper.
COMBINED = {
    **{
        f"{cell}, {injection}, 3 layers": DecoderConfig(cell=cell, injection=injection, layers=3)
        for cell in CELLS
        for injection in ("recurrent", "first_word", "first_step", "init_state", "merge")
    },
    "lstm, every_input, 2 layers": DecoderConfig(injection="every_input", layers=2),
    "lstm, none, 2 layers": DecoderConfig(injection="none", layers=2),
    "lstm, attention, 2 layers": DecoderConfig(layers=2, core="attention"),
    "lstm, top_down, tied": DecoderConfig(core="top_down"),
    "gru, factored": DecoderConfig(cell="gru", layers=3, factored=True),
    "rnn, factored": DecoderConfig(cell="rnn", layers=2, factored=True, injection="first_word"),
    "gru, deep": DecoderConfig(cell="gru", readout="deep", embedding_layers=2),
    "lstm, merge, deep": DecoderConfig(injection="merge", readout="deep"),
    "lstm, memory, deep": DecoderConfig(core="memory", readout="deep"),
    "gru, multimodal": DecoderConfig(cell="gru", injection="merge", readout="multimodal"),
    "lstm, memory, 2 layers": DecoderConfig(core="memory", layers=2, embedding_layers=2),
    "gru, memory": DecoderConfig(cell="gru", injection="first_step", core="memory"),
    "relu_rnn, memory": DecoderConfig(cell="relu_rnn", injection="init_state", core="memory"),
}
MULTI_LAYER = {**{name: preset(name) for name in PRESETS}, **COMBINED}
VARIANTS = {**MULTI_LAYER, **SINGLE_LAYER}


def build_decoder(variant="lstm, recurrent, stack", **changes) -> Decoder:
    """A small decoder in float64, with weights large enough to make words differ."""
    sizes = {"embedding_size": E, "hidden_size": H, "attention_size": 6, "dropout": 0.0}
    config = replace(VARIANTS[variant], **{**sizes, **changes})
    decoder = Decoder(config, vocabulary_size=V, feature_size=D).double()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return decoder


def random_features(count=4) -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(count, D, generator=generator, dtype=torch.float64),
        torch.randn(count, P, D, generator=generator, dtype=torch.float64),
    )


def change_vector(features) -> Features:
    return Features(features.vector + 1, features.grid)


def pack(captions):
    return pack_sequence([torch.tensor(c) for c in captions], enforce_sorted=False)


def split_by_caption(values, captions):
    """Split values of packed captions into one tensor per caption."""
    padded, lengths = pad_packed_sequence(pack(captions)._replace(data=values), batch_first=True)
    return [row[:length] for row, length in zip(padded, lengths, strict=True)]


def teach_captions(decoder, features, captions, image=None):
    """Log-probabilities by teacher forcing, one tensor per caption."""
    log_probs = decoder(features, pack(captions), image).log_softmax(1)
    return split_by_caption(log_probs, captions)


def step_caption(decoder, features, caption):
    """Log-probabilities of one caption for each image by stepping."""
    state, rows = decoder.start(features), []
    for token in caption:
        log_probs, state = decoder.step(torch.tensor([token] * len(state)), state)
        rows.append(log_probs)
    return torch.stack(rows, 1)
