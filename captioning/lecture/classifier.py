"""Sequence classification with a recurrent network (many to one)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from captioning.errors import ConfigError, DataError
from captioning.nn.cells import build_cell
from captioning.nn.dropout import Dropout


class SequenceClassifier(nn.Module):
    """Word embedding, recurrent cell, and linear readout of the last hidden state.

    With w_1 ... w_T the words of a sequence::

        h_t, ... = cell(W_xh E[w_t] + b, h_{t-1}, ...)
        p        = softmax(W_hy h_T + b_y)

    A bag of words, ``softmax(sum_t W[w_t] + b)``, ignores the order of the words; p depends on it.

    Args:
        vocabulary_size: V, number of words.
        classes: K, number of classes; 1 for regression, such as a rating.
        cell: ``rnn``, ``relu_rnn``, ``gru`` or ``lstm``.
        embedding_size: E, size of a word vector.
        hidden_size: H, size of the hidden state.
        dropout: Dropout probability of word vectors and last hidden state (0 to below 1).

    Raises:
        ConfigError: A size or dropout is out of range, or the cell is unknown.
    """

    def __init__(
        self,
        vocabulary_size: int,
        classes: int,
        *,
        cell: str = "lstm",
        embedding_size: int = 64,
        hidden_size: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, size in (
            ("vocabulary_size", vocabulary_size),
            ("classes", classes),
            ("embedding_size", embedding_size),
        ):
            if size < 1:
                raise ConfigError(f"{name} is {size}. Use 1 or more.")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is {dropout}. Use a number from 0 to below 1.")
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        self.cell = build_cell(cell, embedding_size, hidden_size)
        self.W_hy = nn.Linear(hidden_size, classes)
        nn.init.normal_(self.W_hy.weight, std=0.1 * hidden_size**-0.5)
        nn.init.zeros_(self.W_hy.bias)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: PackedSequence) -> Float[Tensor, "N K"]:
        """Return the logits of each sequence, in the order before packing.

        Args:
            tokens: N sequences of word ids from :func:`pack`.
        """
        return self.W_hy(self.dropout(self.last_hidden(tokens)))

    def last_hidden(self, tokens: PackedSequence) -> Float[Tensor, "N H"]:
        """Return h_T of each sequence, in the order before packing.

        Each step computes only the sequences that have not ended, so there is no padding.
        """
        inputs = self.cell.project_input(self.dropout(self.embedding(tokens.data)))
        state = self.cell.initial_state(int(tokens.batch_sizes[0]))
        ended = []
        for step_inputs in inputs.split(tokens.batch_sizes.tolist()):
            count = len(step_inputs)  # sequences are sorted by length, longest first
            ended.append(state[0][count:])
            state = self.cell.step(step_inputs, tuple(part[:count] for part in state))
        last = torch.cat([state[0], *reversed(ended)])
        return last if tokens.unsorted_indices is None else last[tokens.unsorted_indices]


def pack(sequences: Sequence[Sequence[int]]) -> PackedSequence:
    """Pack sequences of word ids of any length and in any order.

    Raises:
        DataError: There are no sequences, or a sequence is empty.
    """
    if not sequences:
        raise DataError("there are no sequences to pack. Give at least one.")
    for index, tokens in enumerate(sequences):
        if not tokens:
            raise DataError(
                f"sequence {index} of {len(sequences)} is empty, so it has no last hidden state. "
                "Remove it, or end every sequence with <eos>."
            )
    return pack_sequence([torch.tensor(tokens) for tokens in sequences], enforce_sorted=False)
