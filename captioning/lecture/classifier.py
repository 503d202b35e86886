"""Many to one: a recurrent net reads a sequence and says what kind it is."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from captioning.errors import ConfigError, DataError
from captioning.nn.cells import build_cell
from captioning.nn.dropout import Dropout


class SequenceClassifier(nn.Module):
    """A word embedding, a recurrent cell, and a readout of its last hidden state alone.

    With w_1 ... w_T the words of a sequence::

        h_t, ... = cell(W_xh E[w_t] + b, h_{t-1}, ...)
        p        = softmax(W_hy h_T + b_y)

    A bag of words, ``softmax(sum_t W[w_t] + b)``, gives all orders of the same words the same p;
    here the order counts.

    Args:
        vocabulary_size: V.
        classes: K; or 1, for one number such as a rating in place of logits.
        cell: ``rnn``, ``relu_rnn``, ``gru`` or ``lstm``.
        embedding_size: E.
        hidden_size: H.
        dropout: Share of the word vectors' and of the last state's numbers dropped in training.

    Raises:
        ConfigError: A size is too small, dropout is no share, or there is no such cell.
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
                raise ConfigError(f"{name} is {size}; it is at least 1.")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is {dropout}; it is at least 0 and below 1.")
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        self.cell = build_cell(cell, embedding_size, hidden_size)
        self.W_hy = nn.Linear(hidden_size, classes)
        nn.init.normal_(self.W_hy.weight, std=0.1 * hidden_size**-0.5)
        nn.init.zeros_(self.W_hy.bias)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: PackedSequence) -> Float[Tensor, "N K"]:
        """Return the logits of each sequence, in the order in which :func:`pack` got them.

        Args:
            tokens: N sequences of word ids; a sequence's result does not depend on the others.
        """
        return self.W_hy(self.dropout(self.last_hidden(tokens)))

    def last_hidden(self, tokens: PackedSequence) -> Float[Tensor, "N H"]:
        """Return h_T of each sequence, in the order in which :func:`pack` got them.

        There is no padding: at each step the batch is cut down to the sequences that go on.
        """
        inputs = self.cell.project_input(self.dropout(self.embedding(tokens.data)))
        state = self.cell.initial_state(int(tokens.batch_sizes[0]))
        ended = []
        for step_inputs in inputs.split(tokens.batch_sizes.tolist()):
            count = len(step_inputs)  # the sequences lie from the longest to the shortest
            ended.append(state[0][count:])
            state = self.cell.step(step_inputs, tuple(part[:count] for part in state))
        last = torch.cat([state[0], *reversed(ended)])
        return last if tokens.unsorted_indices is None else last[tokens.unsorted_indices]


def pack(sequences: Sequence[Sequence[int]]) -> PackedSequence:
    """Return sequences of word ids, of any lengths and in any order, as one packed sequence.

    Raises:
        DataError: There is no sequence, or one has no word.
    """
    if not sequences:
        raise DataError("There is no sequence to pack. Give at least one.")
    for place, tokens in enumerate(sequences):
        if not tokens:
            raise DataError(
                f"Sequence {place} of {len(sequences)} is empty: there is no last hidden state. "
                "Leave it out, or let every sequence end in <eos>."
            )
    return pack_sequence([torch.tensor(tokens) for tokens in sequences], enforce_sorted=False)
