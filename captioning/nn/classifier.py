"""Many to one: a recurrent net reads a sequence and says what kind it is."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioning.errors import SettingsError
from captioning.nn.cells import build_cell
from captioning.nn.dropout import Dropout


class SequenceClassifier(nn.Module):
    """A word embedding, a recurrent cell, and a readout of its last state alone.

    With w_1 ... w_T the words of a sequence::

        h_t, ... = cell(W_xh E[w_t] + b, h_{t-1}, ...)
        p        = softmax(W_hy h_T + b_y)

    A bag of words adds up what each word says for itself; here the order counts.

    Args:
        vocabulary_size: V.
        classes: K, at least two.
        cell: ``rnn``, ``relu_rnn``, ``gru`` or ``lstm``.
        embedding_size: E.
        hidden_size: H.
        dropout: Share of the word vectors' and of the last state's numbers dropped in training.

    Raises:
        SettingsError: A size is too small, or there is no such cell.
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
        if vocabulary_size < 1 or classes < 2:
            raise SettingsError(
                f"vocabulary_size is {vocabulary_size} and classes is {classes}; there is at least "
                "one word, and there are two classes to tell apart."
            )
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.cell = build_cell(cell, embedding_size, hidden_size)
        self.W_hy = nn.Linear(hidden_size, classes)
        nn.init.normal_(self.W_hy.weight, std=0.1 * hidden_size**-0.5)
        nn.init.zeros_(self.W_hy.bias)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: PackedSequence) -> Float[Tensor, "N K"]:
        """Return the logits of each sequence, in the order in which they were packed.

        Args:
            tokens: The sequences (:func:`torch.nn.utils.rnn.pack_sequence`); there is no padding,
                and a sequence's result does not depend on the others.
        """
        inputs = self.cell.project_input(self.dropout(self.embedding(tokens.data)))
        state = self.cell.initial_state(int(tokens.batch_sizes[0]))
        ended = []
        for step_inputs in inputs.split(tokens.batch_sizes.tolist()):
            count = len(step_inputs)  # the sequences lie from the longest to the shortest
            ended.append(state[0][count:])
            state = self.cell.step(step_inputs, tuple(part[:count] for part in state))
        last = torch.cat([state[0], *reversed(ended)])
        if tokens.unsorted_indices is not None:
            last = last[tokens.unsorted_indices]
        return self.W_hy(self.dropout(last))
