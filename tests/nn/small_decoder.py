"""Images, captions and stepping for the tests of decoders."""

import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from captioning.nn.features import Features

V, D, P, EOS = 11, 6, 4, 2
CAPTIONS = [[1, 4, 5, 6, 7], [1, 8], [1, 9, 4, 4], [1, 5, 5]]


def images(count=4) -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(count, D, generator=generator, dtype=torch.float64),
        torch.randn(count, P, D, generator=generator, dtype=torch.float64),
    )


def packed(captions):
    return pack_sequence([torch.tensor(c) for c in captions], enforce_sorted=False)


def by_caption(values, captions):
    """Cut what was found for packed captions into one tensor per caption."""
    padded, lengths = pad_packed_sequence(packed(captions)._replace(data=values), batch_first=True)
    return [row[:length] for row, length in zip(padded, lengths, strict=True)]


def stepped(decoder, features, caption):
    """Log-probabilities of one caption for each image, step by step."""
    state, rows = decoder.start(features), []
    for token in caption:
        log_probs, state = decoder.step(torch.tensor([token] * len(state)), state)
        rows.append(log_probs)
    return torch.stack(rows, 1)
