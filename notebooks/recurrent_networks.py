# %% [markdown]
# # Recurrent networks: from counting words to an image captioner
#
# A sentence has no fixed length, and the order of its words matters. This notebook builds the network
# that reads and writes sentences, in ten sections. Each ends in a figure or a number.
#
# | section | shows |
# |---|---|
# | 1, 2 | two models that fail: a window of words, and a bag of words |
# | 3, 4 | the recurrent network (vanilla RNN), and the same network unrolled over time |
# | 5 | backpropagation through time, by hand and checked |
# | 6 | vanishing and exploding gradients, and three cures: clipping, ReLU with identity, the LSTM |
# | 7 | what the gates of a trained LSTM do while it reads a sentence |
# | 8 | a language model |
# | 9 | a sentiment classifier for short messages |
# | 10 | an image captioner: a language model with one more term |
#
# **Time:** about two minutes on one CPU core. No network connection is needed.
# **Install:** `pip install ".[notebooks,samples]"`. All training is small and seeded. On another
# machine the numbers may differ slightly.

# %%
import math
import random
import textwrap
from collections import Counter
from itertools import product
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as MplPath
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_sequence

from captioning import BeamSearch, Captioner, Greedy, Sampling, Vocabulary, read_captions, tokenize
from captioning.cli.samples import write_samples
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.inference.attention_maps import attention_maps
from captioning.lecture.classifier import SequenceClassifier, pack
from captioning.lecture.gradients import gradient_flow
from captioning.nn.cells import GRUCell, LSTMCell, ReLURNNCell, RNNCell, build_cell
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features
from captioning.text.tokenizers import join_words
from captioning.text.vocabulary import NEVER_GENERATED

WORK = Path("runs")  # directory for the sample photos
# Okabe & Ito (2008): colors that people with color blindness can tell apart.
BLUE, ORANGE, GREEN, RED, GRAY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#999999"
plt.rcParams.update({"figure.dpi": 76, "axes.spines.top": False, "axes.spines.right": False})
torch.set_num_threads(1)

# %% [markdown]
# ## 1. A window of words
#
# The simplest model of the next word looks at the last n words, and counts what followed them in the
# training text (Shannon 1948).
#
# Our first task has a known answer: is the verb *is* or *are*? The verb agrees with the first noun. Phrases
# with other nouns stand between the two.

# %%
NOUNS = [noun + ending for noun in ("dog", "cat", "bird", "girl") for ending in ("", "s")]
VERBS = ("is", "are")


def sentence(phrases, chance):
    """Return the words before the verb, and the index of the verb."""
    nouns = chance.choices(NOUNS, k=phrases + 1)
    words = ["the", nouns[0]]
    for noun in nouns[1:]:
        words += [chance.choice(("near", "behind")), "the", noun]
    return words, int(nouns[0].endswith("s"))


chance = random.Random(0)
PHRASES = range(6)  # between the first noun and the verb
train = {k: [sentence(k, chance) for _ in range(700)] for k in PHRASES}
test = {k: [sentence(k, chance) for _ in range(500)] for k in PHRASES}
for words, verb in (train[k][0] for k in (0, 1, 3)):
    print(" ".join(words), "->", VERBS[verb])


# %%
def window(words, n):
    return tuple((["<bos>"] * n + words)[-n:])


def window_scores(n, k):
    """Return the share of right verbs after k phrases, and the share of windows seen in training."""
    right = known = 0
    for words, verb in test[k]:
        votes = [counts[n][window(words, n), choice] for choice in (0, 1)]
        known += sum(votes) > 0
        right += 0.5 if votes[0] == votes[1] else votes[verb] > votes[1 - verb]  # a tie: half
    return right / len(test[k]), known / len(test[k])


WINDOWS = (3, 6, 9, 18)
pairs = [pair for k in PHRASES for pair in train[k]]
counts = {n: Counter((window(words, n), verb) for words, verb in pairs) for n in WINDOWS}
by_window = {n: [window_scores(n, k) for k in PHRASES] for n in WINDOWS}

# %%
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.4), sharex=True, sharey=True)
for n, color, marker in zip(WINDOWS, (GRAY, BLUE, GREEN, ORANGE), "osD^", strict=True):
    style = {"color": color, "marker": marker, "label": f"{n} words", "alpha": 0.85}
    for axes, values in zip(panels, zip(*by_window[n], strict=True), strict=True):
        axes.plot(PHRASES, [100 * value for value in values], **style)
panels[0].axhline(50, color="black", linewidth=0.8, linestyle=":")
panels[0].text(5, 45, "chance", ha="right", va="top")
panels[0].set(ylim=(-4, 104), ylabel="test sentences, %", title="Right verb")
panels[1].set(title="Window seen in training")
panels[1].legend(frameon=False, title="window of", loc="center left", bbox_to_anchor=(1, 0.5))
for axes in panels:
    axes.set(xlabel="phrases between noun and verb")
figure.tight_layout()
plt.show()

# %% [markdown]
# A window fails in two ways, and the cure of one makes the other worse.
#
# - **A short window does not contain the noun** (left). With one phrase between noun and verb, a
#   window of three words does not beat chance.
# - **A long window has rarely been seen before** (right). V words form Vⁿ windows. Even with our eleven
#   words, most windows of nine words are new.
#
# A network that reads the window instead of counting it (Bengio et al. 2003) generalizes over similar words.
# That helps with the second failure, but not with the first.

# %% [markdown]
# ## 2. A bag of words
#
# The opposite model ignores the order and counts every word of the text. The text can have any length,
# and no word is too far away.

# %%
good, bad = "The food was good, not bad at all.", "The food was bad, not good at all."
bags = [Counter(tokenize(text)) for text in (good, bad)]
print("Both reviews have the same bag:", bags[0] == bags[1])

figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.2), sharey=True)
for axes, text, counted, color in zip(panels, (good, bad), bags, (BLUE, RED), strict=True):
    words = sorted(counted)
    axes.bar(words, [counted[word] for word in words], color=color, width=0.6)
    axes.set(title=text, xlabel="word", yticks=(0, 1))
panels[0].set_ylabel("count")
figure.tight_layout()
plt.show()

# %% [markdown]
# These two reviews mean the opposite and have the same bag. No classifier on top of the bag can tell them
# apart.
#
# How well does a bag do on our verbs? We train a linear layer on the word counts of the same sentences:

# %%
toy = Vocabulary.build([words for k in PHRASES for words, _ in train[k]], min_count=1)


def encoded(sentences):
    tokens = torch.tensor([[toy.id(word) for word in words] for words, _ in sentences])
    return tokens, torch.tensor([verb for _, verb in sentences])


def fit(net, steps, learning_rate):
    """Train with Adam on batches of 64 sentences of equal length."""
    chance = random.Random(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    for _ in range(steps):
        tokens, verbs = encoded(chance.sample(train[chance.choice(PHRASES)], 64))
        loss = nn.functional.cross_entropy(net(tokens), verbs)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def accuracy(net, sentences):
    tokens, verbs = encoded(sentences)
    return (net(tokens).argmax(1) == verbs).float().mean().item()


class BagOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(len(toy), 2)

    def forward(self, tokens):
        return self.linear(nn.functional.one_hot(tokens, len(toy)).float().sum(1))


torch.manual_seed(0)
bag_net = BagOfWords()
fit(bag_net, 300, 0.03)
by_bag = [accuracy(bag_net, test[k]) for k in PHRASES]
pd.DataFrame(
    {"right verb": [f"{100 * share:.0f} %" for share in by_bag]},
    index=pd.Index(PHRASES, name="phrases between"),
).T

# %% [markdown]
# This is better than chance, because the first noun is one of the nouns in the bag. But the bag does not
# say which noun is the first.

# %% [markdown]
# ## 3. The recurrence
#
# A recurrent network keeps one vector h, the *hidden state*. It updates h with every word x, and uses the
# same two matrices each time (Elman 1990):
#
#     h = tanh(W_xh x + W_hh h)
#
# - x is the word as a vector.
# - W_xh maps the word to the size of the state.
# - W_hh carries the previous state to the new one.
# - tanh keeps every number between −1 and 1.
#
# That is the whole network. It reads any number of words, and their order counts. (`RNNCell` also adds a
# bias b, which starts at zero.) In NumPy:


# %%
def recurrence(x, W_xh, W_hh):
    """Return h after each row of x."""
    h, states = np.zeros(len(W_hh)), []
    for x_t in x:
        h = np.tanh(W_xh @ x_t + W_hh @ h)
        states.append(h)
    return np.array(states)


torch.manual_seed(0)
cell = RNNCell(input_size=8, hidden_size=12)
W_xh, W_hh = cell.W_xh.detach().numpy(), cell.W_hh.detach().numpy()
vectors = {word: torch.randn(8).numpy() for word in sorted(bags[0])}  # a random x for each word
inputs = [np.array([vectors[word] for word in tokenize(text)]) for text in (good, bad)]
states = [recurrence(x, W_xh, W_hh) for x in inputs]

package = cell(torch.tensor(np.array(inputs)))[0].detach().numpy()
print(
    f"Largest difference from captioning.nn.cells.RNNCell: {np.abs(np.array(states) - package).max():.1e}"
)
print(f"Distance between the two bags: {np.linalg.norm(inputs[0].sum(0) - inputs[1].sum(0)):.1e}")
print(f"Distance between the two last states: {np.linalg.norm(states[0][-1] - states[1][-1]):.2f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.3), sharey=True, layout="constrained")
for axes, text, shown in zip(panels, (good, bad), states, strict=True):
    image = axes.imshow(shown.T, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(shown)), tokenize(text))
    axes.set(title=text, xlabel="word just read")
panels[0].set(ylabel="unit of h", yticks=(0, 11))
figure.colorbar(image, ax=panels, label="value of the unit")
plt.show()

# %% [markdown]
# The matrices are random and nothing is trained, but the two reviews end in different states. The first
# three columns are equal. Then *good* and *bad* change the state in different ways.
#
# Next we train a recurrence with 32 units on the sentences of section 1. We also test it on sentences that
# are longer than all training sentences.


# %%
class Reader(nn.Module):
    """Word vectors, the recurrence, and a linear layer on the last state."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(toy), 16)
        self.cell = RNNCell(16, 32)
        self.W_hy = nn.Linear(32, 2)

    def forward(self, tokens):
        _, (h,) = self.cell(self.embedding(tokens))
        return self.W_hy(h)


torch.manual_seed(0)
reader = Reader()
fit(reader, 400, 0.003)
LONGER = range(11)
by_reader = [
    accuracy(reader, test[k] if k in test else [sentence(k, chance) for _ in range(500)])
    for k in LONGER
]
print(f"Largest error for one sentence length: {100 * (1 - min(by_reader)):.1f} %")

# %%
figure, axes = plt.subplots(figsize=(7.5, 3.4))
lines = (
    (LONGER, by_reader, "recurrence", RED, "o"),
    (PHRASES, by_bag, "bag of words", ORANGE, "^"),
    (PHRASES, [right for right, _ in by_window[9]], "window of 9 words", GREEN, "D"),
    (PHRASES, [right for right, _ in by_window[6]], "window of 6 words", BLUE, "s"),
)
for phrases, right, label, color, marker in lines:
    axes.plot(phrases, [100 * share for share in right], color=color, marker=marker, label=label)
axes.axhline(50, color="black", linewidth=0.8, linestyle=":", label="chance")
axes.axvspan(5.5, 10.5, color="#eeeeee", zorder=0)
axes.text(8, 62, "longer than in\ntraining", ha="center")
axes.set(ylim=(45, 103), xlim=(-0.5, 10.5), xlabel="phrases between noun and verb")
axes.set(ylabel="right verb, %", title="Three models of the verb", xticks=LONGER)
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 4. The same network, unrolled
#
# To differentiate the loop, draw the network once for every step. The loop becomes a deep feedforward
# network with one layer per word, and **all layers share the same weights**. p_t is the prediction after
# step t, and E_t its error.


# %%
def node(axes, x, y, text, color):
    box = {"boxstyle": "circle,pad=0.35", "facecolor": color, "edgecolor": "#333333"}
    axes.text(x, y, text, ha="center", va="center", fontsize=12, bbox=box)


def arrow(axes, start, end, text="", *, at=(0, 0), color="#333333", **style):
    style = {"arrowstyle": "-|>", "color": color, "shrinkA": 17, "shrinkB": 17, **style}
    axes.annotate("", end, start, arrowprops=style)
    axes.text((start[0] + end[0]) / 2 + at[0], (start[1] + end[1]) / 2 + at[1], text)


def column(axes, x, name):
    rows = (("x", "#dce9f5"), ("h", "#fbe3c8"), ("p", "#dcefdc"), ("E", "#f3f3f3"))
    for y, (letter, color) in enumerate(rows):
        node(axes, x, 1.2 * y, f"${letter}_{{{name}}}$" if name else f"${letter}$", color)
    for y, weight in ((0, "$W_{xh}$"), (1.2, "$W_{hy}$"), (2.4, "")):
        arrow(axes, (x, y), (x, y + 1.2), weight, at=(-0.5, -0.06))


figure, axes = plt.subplots(figsize=(9.5, 4.2))
column(axes, 0, "")
loop = MplPath([(0.17, 1.35), (1.0, 2.1), (1.0, 0.3), (0.19, 1.05)], [1, 4, 4, 4])
axes.add_patch(FancyArrowPatch(path=loop, arrowstyle="-|>", mutation_scale=12, color="#333333"))
axes.text(0.85, 1.2, "$W_{hh}$", va="center")
axes.text(1.6, 1.2, "=", fontsize=24, ha="center", va="center")
node(axes, 2.3, 1.2, "$h_0$", "#fbe3c8")
dashed = {"color": RED, "linestyle": "--"}  # the path of the gradient, for section 5
for t in range(1, 5):
    x = 2.3 + 1.4 * t
    column(axes, x, "T" if t == 4 else t)
    arrow(axes, (x - 1.4, 1.2), (x, 1.2), "$W_{hh}$", at=(-0.2, 0.1))
    if t > 1:
        arrow(axes, (x, 1.1), (x - 1.4, 1.1), connectionstyle="arc3,rad=-0.4", **dashed)
arrow(axes, (x, 3.6), (x, 2.4), connectionstyle="arc3,rad=-0.6", **dashed)
arrow(axes, (x, 2.4), (x, 1.2), connectionstyle="arc3,rad=-0.6", **dashed)
axes.text(x + 0.5, 2.4, "gradient\nof $E_T$", color=RED, va="center")
axes.set(xlim=(-0.7, 9.2), ylim=(-0.5, 4.1))
axes.set_title(
    "Left: one step with a loop. Right: unrolled over T steps (dashed: path of the gradient)"
)
axes.axis("off")
plt.show()

# %% [markdown]
# ## 5. Backpropagation through time
#
# The unrolled network is an ordinary network, so the chain rule applies (Werbos 1990). Two things are new:
#
# - h_t receives gradient from its own error E_t **and** from h_{t+1}.
# - All layers share their weights, so the gradient of W_hh is a **sum over steps**.
#
# E is the sum of all E_t, y_t the correct word, and a_t the argument of tanh:
#
#     p_t = softmax(W_hy h_t)                  E_t = −log p_t[y_t]
#
#     ∂E/∂h_t  = W_hyᵀ (p_t − onehot(y_t)) + W_hhᵀ ∂E/∂a_{t+1}
#     ∂E/∂a_t  = ∂E/∂h_t · (1 − h_t²)
#     ∂E/∂W_hh = Σ_t ∂E/∂a_t h_{t−1}ᵀ
#
# The same equations in NumPy, for a network that predicts one of five words after each of twelve inputs:

# %%
rng = np.random.default_rng(0)
T, E, H, V = 12, 3, 6, 5
shapes = {"W_xh": (H, E), "W_hh": (H, H), "W_hy": (V, H)}
weights = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
x, y = rng.normal(size=(T, E)), rng.integers(V, size=T)  # inputs, and correct words


def forward(W_xh, W_hh, W_hy):
    """Return the states, the probabilities, and the sum of all E_t = -log p_t[y_t]."""
    h = np.vstack([np.zeros((1, H)), recurrence(x, W_xh, W_hh)])  # h[0] is the state before
    scores = np.exp(h[1:] @ W_hy.T)
    p = scores / scores.sum(1, keepdims=True)
    return h, p, -np.log(p[range(T), y]).sum()


def backward(W_xh, W_hh, W_hy):
    h, p, _ = forward(W_xh, W_hh, W_hy)
    gradient = {name: np.zeros(shape) for name, shape in shapes.items()}
    from_later = np.zeros(H)
    for t in reversed(range(T)):
        d_logits = p[t] - (np.arange(V) == y[t])  # of cross-entropy and softmax
        d_h = W_hy.T @ d_logits + from_later
        d_a = d_h * (1 - h[t + 1] ** 2)
        gradient["W_hy"] += np.outer(d_logits, h[t + 1])
        gradient["W_xh"] += np.outer(d_a, x[t])
        gradient["W_hh"] += np.outer(d_a, h[t])
        from_later = W_hh.T @ d_a
    return gradient


by_hand = backward(**weights)

# %% [markdown]
# Two checks: automatic differentiation of the package's cell, and finite differences.

# %%
cell = RNNCell(E, H).double()
W_hy = torch.tensor(weights["W_hy"], requires_grad=True)
with torch.no_grad():
    cell.W_xh.copy_(torch.tensor(weights["W_xh"]))
    cell.W_hh.copy_(torch.tensor(weights["W_hh"]))
hidden, _ = cell(torch.tensor(x)[None])
nn.functional.cross_entropy(hidden[0] @ W_hy.T, torch.tensor(y), reduction="sum").backward()
autograd = {"W_xh": cell.W_xh.grad, "W_hh": cell.W_hh.grad, "W_hy": W_hy.grad}


def by_difference(name, step=1e-5):
    found = np.zeros(shapes[name])
    for place in np.ndindex(found.shape):
        ends = []
        for sign in (1, -1):
            moved = {key: value.copy() for key, value in weights.items()}
            moved[name][place] += sign * step
            ends.append(forward(**moved)[2])
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


pd.DataFrame(
    {
        name: {
            "largest entry of the gradient": np.abs(by_hand[name]).max(),
            "largest difference from autograd": np.abs(
                by_hand[name] - autograd[name].numpy()
            ).max(),
            "largest difference from finite differences": np.abs(
                by_hand[name] - by_difference(name)
            ).max(),
        }
        for name in shapes
    }
).map("{:.1e}".format)

# %% [markdown]
# The gradient is also a sum of terms, one for each error E_t and each step k ≤ t. A term says how much E_t
# depends on W_hh at step k (Pascanu et al. 2013, equation 4). The figure shows the norm of every term:

# %%
h, p, _ = forward(**weights)
shares = np.full((T, T), np.nan)  # one term of the sum for each E_t and step k
total = np.zeros((H, H))
for t in range(T):
    d_h = weights["W_hy"].T @ (p[t] - (np.arange(V) == y[t]))
    for k in reversed(range(t + 1)):
        d_a = d_h * (1 - h[k + 1] ** 2)
        share = np.outer(d_a, h[k])
        shares[t, k], total = np.linalg.norm(share), total + share
        d_h = weights["W_hh"].T @ d_a
print("The sum of all terms is the gradient above:", np.allclose(total, by_hand["W_hh"]))

figure, axes = plt.subplots(figsize=(5.6, 4.2))
image = axes.imshow(np.log10(shares[1:, 1:]), cmap="viridis", extent=(1.5, T + 0.5, T + 0.5, 1.5))
axes.set(xlabel="step k", ylabel="step t of the error $E_t$", xticks=range(2, T + 1, 2))
axes.set_title("Terms of the gradient of $W_{hh}$")
figure.colorbar(image, label=r"$\log_{10}$ of the norm")
figure.tight_layout()
plt.show()

# %% [markdown]
# The diagonal is bright, and the left is dark: an error gives a strong gradient to the steps just before
# it, and almost none to steps far back. (Step 1 is left out, because h_0 is zero.) The next
# section explains why.

# %% [markdown]
# ## 6. Vanishing and exploding gradients
#
# From h_T back to h_k the gradient passes T − k layers. Each layer multiplies it by the same matrix and by
# the slopes of tanh: ∂h_i/∂h_{i−1} = diag(1 − h_i²) W_hh. A slope is at most one. So each factor is at most
# σ, the **largest singular value** of W_hh (Pascanu et al. 2013, section 2.1, equations 5 to 7):
#
#     |∂E_T/∂h_k|  ≤  |∂E_T/∂h_T| · σ^(T−k)
#
# `gradient_flow` measures the gradient at each step. It also returns a tighter bound, in which each factor is
# σ times the largest slope of its step.

# %%
T = 60


def plain_cell(scale, gaussian=False):
    """Return a tanh cell; orthogonal matrices have all singular values equal, random ones do not."""
    torch.manual_seed(0)
    cell = RNNCell(8, 64)
    with torch.no_grad():
        if gaussian:
            nn.init.normal_(cell.W_hh, std=64**-0.5)
        cell.W_hh.mul_(scale)
    return cell


def flow_of(cell, scale):
    x = scale * torch.randn(T, 8, generator=torch.Generator().manual_seed(1))
    return gradient_flow(cell, x, torch.sum)


def describe(cell):
    W_hh = cell.W_hh.detach()
    radius = torch.linalg.eigvals(W_hh).abs().max()
    return f"σ = {torch.linalg.matrix_norm(W_hh, 2):.1f}, radius {radius:.1f}"


SMALL, LARGE = 0.1, 3.0  # scales of the inputs
below, at, above, random_matrix = (
    plain_cell(0.8),
    plain_cell(1.0),
    plain_cell(2.0),
    plain_cell(0.85, gaussian=True),
)
lines = [
    [(below, SMALL, BLUE), (at, SMALL, GREEN), (above, SMALL, RED)],
    [(above, SMALL, RED), (above, LARGE, ORANGE), (random_matrix, SMALL, GRAY)],
]
flows = [
    [
        (
            f"{describe(cell)}, {'small' if scale == SMALL else 'large'} inputs",
            flow_of(cell, scale),
            color,
        )
        for cell, scale, color in panel
    ]
    for panel in lines
]
print(f"{'|dE_T/dh_1| over |dE_T/dh_T|':44s}    found    bound")
for label, flow, _ in flows[0] + flows[1][1:]:
    print(
        f"{label:44s}  {flow.hidden[0] / flow.hidden[-1]:.1e}  {flow.bound[0] / flow.bound[-1]:.1e}"
    )


# %%
def draw_flow(axes, norms, label, color, **style):
    axes.semilogy(range(1, len(norms) + 1), norms / norms[-1], color=color, label=label, **style)


figure, panels = plt.subplots(1, 2, figsize=(10.5, 3.9), sharey=True)
for axes, panel in zip(panels, flows, strict=True):
    for label, flow, color in panel:
        draw_flow(axes, flow.hidden, label, color, linewidth=2)
        draw_flow(axes, flow.bound, None, color, linestyle="--", linewidth=1)
    axes.plot([], [], color="black", linestyle="--", linewidth=1, label="upper bound")
    axes.set(xlabel="step k", ylim=(1e-9, 1e7), xlim=(1, T))
    axes.legend(frameon=False, fontsize=9, loc="lower right")
panels[0].set(ylabel=r"$|\partial E_T / \partial h_k|$ relative to step T")
panels[0].set_title("σ below, at and above one: small inputs")
panels[1].set_title("σ above one does not always explode")
figure.tight_layout()
plt.show()

# %% [markdown]
# **Left.** With σ below one the gradient *must* vanish, and it stays close to the bound. With σ = 2 it
# explodes here, but less than the bound allows, because the states grow until tanh saturates.
#
# **Right.** With σ above one the gradient *can* explode, but it does not have to.
#
# - Large inputs saturate tanh. Its slopes are then close to zero, and the gradient vanishes although σ is 2.
# - Over many steps, the growth is governed by the **spectral radius** of W_hh, its largest absolute
#   eigenvalue. The radius can be below one while σ is above one.
#
# So σ < 1 is sufficient for vanishing gradients, and σ > 1 is necessary for exploding gradients.
#
# ### Cure 1: gradient clipping against explosion
#
# The smallest recurrent network that explodes has one unit (Pascanu et al., section 2.3 and figure 6):
# h_t = tanh(w h_{t−1} + b), with fifty steps from h_0 = 0.5 and the error E = (h_50 − 0.4)². It has only two
# weights, so we can draw the error for every pair (w, b).

# %%
TARGET, STEPS, RATE = 0.4, 60, 0.1
one_unit = RNNCell(1, 1).double()


def descend(largest_norm):
    """Return (w, b), E and the gradient's norm at each step of gradient descent."""
    w, b = torch.tensor([[1.8]]).double(), torch.tensor([0.0]).double()
    path = []
    for _ in range(STEPS):
        with torch.no_grad():
            one_unit.W_hh.copy_(w)
            one_unit.b.copy_(b)
        start = (torch.full((1, 1), 0.5).double(),)
        _, (h,) = one_unit(torch.zeros(1, 50, 1).double(), start)
        error = (h - TARGET).square().sum()
        gradient = torch.autograd.grad(error, (one_unit.W_hh, one_unit.b))
        norm = math.hypot(*(part.item() for part in gradient))
        path.append((w.item(), b.item(), error.item(), norm))
        shrink = min(1.0, largest_norm / norm)  # clipping keeps the direction and limits the length
        w, b = (old - RATE * shrink * part for old, part in zip((w, b), gradient, strict=True))
    return np.array(path).T


free, clipped = descend(math.inf), descend(1.0)
print(
    f"Without clipping: largest gradient norm {free[3].max():.0f}, largest step {RATE * free[3].max():.1f}"
)
print(
    f"With clipping:    largest gradient norm {clipped[3].max():.0f}, largest step {RATE * 1.0:.1f}"
)
print(
    f"E after the last step: {free[2, -1]:.3f} without clipping, {clipped[2, -1]:.3f} with clipping"
)

# %%
w, b = np.meshgrid(np.linspace(0.4, 2.2, 240), np.linspace(-0.4, 3.0, 240))
h = np.full(w.shape, 0.5)
for _ in range(50):
    h = np.tanh(w * h + b)

figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.0), width_ratios=(1.25, 1))
surface = panels[0].contourf(w, b, (h - TARGET) ** 2, levels=30, cmap="Greys")
figure.colorbar(surface, ax=panels[0], label="error E", format="%.1f")
for path, color, label in ((free, RED, "without clipping"), (clipped, BLUE, "clipped at norm 1")):
    panels[0].plot(*path[:2], color=color, marker="o", markersize=3, label=label)
    panels[1].semilogy(path[2], color=color, label=label)
panels[0].plot(1.8, 0, "k*", markersize=11, label="start")
panels[0].set(xlabel="w", ylabel="b", title="Error for each (w, b), and two descents")
panels[0].legend(frameon=False, loc="upper right")
panels[1].set(xlabel="step of gradient descent", ylabel="error E", title="Error of both descents")
panels[1].legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.7))
figure.tight_layout()
plt.show()

# %% [markdown]
# In the dark wedge h_50 is negative. Above the wedge it is positive. Where w is above 1, the border between
# these two regions is a cliff with a very large gradient. The figure shows gradient descent without and with
# clipping. Both runs meet the cliff.
#
# - **Without clipping**, one step with the large gradient ends far away, where the error is flat. The
#   descent does not leave this plateau.
# - **With clipping** (algorithm 1 of the paper), the step has the same direction but a limited length. The
#   descent follows the cliff and reaches the minimum.
#
# ### Cures 2 and 3: architectures against vanishing
#
# Clipping does not help when the gradient vanishes. Two architectures do:
#
# - **ReLU with identity initialization** (IRNN, Le et al. 2015): ReLU replaces tanh, and W_hh starts as the
#   identity matrix. An active unit passes its gradient on unchanged.
# - **LSTM** (Hochreiter & Schmidhuber 1997): besides h there is a cell state c, which is updated by a *sum*,
#   c' = f·c + i·g. Along c the gradient is multiplied only by the forget gate f. The first LSTM had no f, so
#   this factor was one. Gers et al. (2000) added f so that the network can forget. A positive bias b_f makes
#   the network start by remembering (Jozefowicz et al. 2015).


# %%
def lstm(forget_bias):
    torch.manual_seed(0)
    cell = LSTMCell(8, 64)
    with torch.no_grad():
        cell.b[:64] = forget_bias  # the rows of f come first
    return cell


numbers = torch.rand(T, 8, generator=torch.Generator().manual_seed(1))  # between 0 and 1
alive = {}
for name, kind in {"tanh": RNNCell, "ReLU": ReLURNNCell, "GRU": GRUCell}.items():
    torch.manual_seed(0)
    alive[name] = gradient_flow(kind(8, 64), numbers, torch.sum)
memory = {bias: gradient_flow(lstm(bias), numbers, torch.sum).memory[:-1] for bias in (0, 1, 3, 5)}

figure, panels = plt.subplots(1, 2, figsize=(10.5, 3.9), sharey=True)
for (name, flow), color in zip(alive.items(), (BLUE, RED, GREEN), strict=True):
    draw_flow(panels[0], flow.hidden, name, color, linewidth=2)
shades = ("#fdbb84", "#fc8d59", "#d7301f", "#7f0000")
for (bias, norms), color in zip(memory.items(), shades, strict=True):
    share = 1 / (1 + math.exp(-bias))
    draw_flow(panels[1], norms, f"$b_f$ = {bias}: f starts near {share:.2f}", color, linewidth=2)
    powers = share ** np.arange(len(norms) - 1, -1, -1)
    draw_flow(panels[1], powers, None, color, linestyle="--", linewidth=1)
panels[1].plot([], [], color="black", linestyle="--", linewidth=1, label="$f^{T-k}$")
panels[0].set(
    ylabel="norm relative to the last step",
    title=r"Hidden state: $|\partial E_T / \partial h_k|$",
)
panels[1].set_title(r"Cell state of an LSTM: $|\partial E_T / \partial c_k|$")
for axes in panels:
    axes.set(xlabel="step k", ylim=(1e-13, 1e3), xlim=(1, T))
    axes.legend(frameon=False, fontsize=9, loc="lower right")
figure.tight_layout()
print(
    "Hidden state, first step over last:",
    ", ".join(f"{name} {flow.hidden[0] / flow.hidden[-1]:.0e}" for name, flow in alive.items()),
)
print(
    "Cell state of an LSTM, first step over last:",
    ", ".join(f"b_f = {bias}: {norms[0] / norms[-1]:.0e}" for bias, norms in memory.items()),
)
plt.show()

# %% [markdown]
# None of these networks is trained. All read the same 60 inputs.
#
# - The ReLU network keeps its gradient.
# - The LSTM keeps it along c if the forget gates are close to one. With gates of one half, the gradient
#   vanishes as in a tanh network. (The solid lines lie above the dashed ones because c also acts on later
#   steps through h.)
#
# With zero bias, a gated network does not start with a long memory, but it can *learn* one. The gates of
# the GRU start at one half, and it still solves the next task.
#
# ### A task that needs a long memory
#
# The *adding problem* (Hochreiter & Schmidhuber 1997, experiment 4; Le et al. 2015, section 4.1): read fifty
# random numbers, two of which are marked, and answer with the sum of these two. The constant answer 1 has a
# mean squared error of 1/6. The four cells (tanh, ReLU, GRU and LSTM) get the same data,
# size, learning rate and clipping.

# %%
LENGTH, SIZE, ROWS, ROUNDS = 50, 32, 50, 500


def adding(rows, generator):
    numbers = torch.rand(rows, LENGTH, generator=generator)
    marks = torch.zeros(rows, LENGTH)
    for half in (0, LENGTH // 2):  # one in each half
        place = torch.randint(half, half + LENGTH // 2, (rows, 1), generator=generator)
        marks.scatter_(1, place, 1.0)
    return torch.stack([numbers, marks], 2), (numbers * marks).sum(1)


def train_adding(name):
    """Return the loss of each step, and the answers for 1000 new sequences."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    cell, W_hy = build_cell(name, 2, SIZE), nn.Linear(SIZE, 1)
    net = nn.ModuleList([cell, W_hy])
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    for _ in range(ROUNDS):
        x, y = adding(ROWS, generator)
        _, (h, *_) = cell(x)
        loss = (W_hy(h)[:, 0] - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, W_hy(cell(fresh)[1][0])[:, 0]


fresh, sums = adding(1000, torch.Generator().manual_seed(2))
NAMES = {"rnn": "tanh", "relu_rnn": "ReLU", "gru": "GRU", "lstm": "LSTM"}
added = {name: train_adding(name) for name in NAMES}
errors = {"constant 1": (sums - 1).square().mean().item()} | {
    NAMES[name]: (answers - sums).square().mean().item() for name, (_, answers) in added.items()
}
pd.DataFrame({"mean squared error on new sequences": errors}).round(4)

# %%
figure, panels = plt.subplots(1, 3, figsize=(11.5, 3.6), width_ratios=(1.5, 1, 1))
for (name, (losses, _)), color in zip(added.items(), (BLUE, RED, GREEN, ORANGE), strict=True):
    smooth = pd.Series(losses).rolling(20, min_periods=1).median()
    panels[0].semilogy(smooth, color=color, label=NAMES[name])
panels[0].axhline(1 / 6, color="black", linewidth=0.8, linestyle=":")
panels[0].text(490, 0.2, "constant answer 1", ha="right", va="bottom")
panels[0].set(ylim=(5e-4, 1), xlabel="training step", ylabel="squared error (running median)")
panels[0].set_title(f"Adding problem with {LENGTH} numbers")
panels[0].legend(frameon=False, loc="lower left")
for axes, name, color in zip(panels[1:], ("rnn", "lstm"), (BLUE, ORANGE), strict=True):
    axes.plot([0, 2], [0, 2], color="black", linewidth=0.8, linestyle=":")
    axes.scatter(sums[:300], added[name][1][:300], s=6, color=color)
    axes.set(xlabel="correct sum", ylabel="answer", title=NAMES[name], xlim=(0, 2), ylim=(0, 2))
    axes.set(xticks=(0, 1, 2), yticks=(0, 1, 2))
figure.tight_layout()
plt.show()

# %% [markdown]
# The tanh network learns the constant answer and stays there, because almost no gradient reaches the
# marked steps. The other three networks solve the task. The loss of the LSTM falls suddenly after a long
# plateau.

# %% [markdown]
# ## 7. Inside a trained LSTM
#
# Now we look into an LSTM with 512 units: the decoder of the model that comes with the package. It reads a
# sentence, and we record the inputs of its cell. From them we compute the gates with the equations in the
# docstring of `LSTMCell`. The check: the cell state from these gates equals that of the decoder.

# %%
captioner = Captioner.from_pretrained(precision="float32")
model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
decoder = model.decoder
D, H = decoder.sizes.feature_size, decoder.config.hidden_size
NO_IMAGE = Features(torch.zeros(1, D), torch.zeros(1, 1, D))  # a vector and a grid of zeros


@torch.no_grad()
def read(words, state):
    """Feed words to the decoder; return the log-probabilities after each, and the last state."""
    found = []
    for word in words:
        log_probs, state = decoder.step(torch.tensor([vocabulary.id(word)]), state)
        found.append(log_probs[0])
    return torch.stack(found), state


text = "a man in a red shirt and two dogs are standing in front of a white building"
words = ["<bos>", *tokenize(text)]
with patch.object(decoder.core.cell, "step", wraps=decoder.core.cell.step) as recorded:
    _, last = read(words, decoder.start(NO_IMAGE))

f, i, o = torch.zeros(3, len(words), H)
with torch.inference_mode():
    for t, call in enumerate(recorded.call_args_list):
        inputs, (h, c) = call.args  # inputs: all terms except W_hh h
        gates = (inputs + h @ decoder.core.cell.W_hh.T)[0]
        f[t], i[t], o[t] = torch.sigmoid(gates[: 3 * H]).chunk(3)
        memory = f[t] * c[0] + i[t] * torch.tanh(gates[3 * H :])
print(
    f"{H} units; largest difference from the cell state of the decoder: {(memory - last.recurrent[1][0]).abs().max():.1e}"
)

# %%
GATES = (
    ("Forget gate f: share of c that is kept", f),
    ("Input gate i: share of the input that is written to c", i),
    ("Output gate o: share of c that h shows", o),
)
figure, panels = plt.subplots(3, 1, figsize=(9.5, 5.4), sharex=True, sharey=True)
for axes, (label, gate), color in zip(panels, GATES, (BLUE, GREEN, ORANGE), strict=True):
    for low, high, alpha in ((0.1, 0.9, 0.2), (0.25, 0.75, 0.35)):
        bounds = torch.quantile(gate, torch.tensor([low, high]), dim=1)
        axes.fill_between(range(len(words)), *bounds, color=color, alpha=alpha, linewidth=0)
    axes.plot(gate.median(1).values, color=color, marker="o", markersize=4)
    axes.set(ylim=(0, 1), ylabel="value")
    axes.set_title(
        f"{label} (line: median of all units; bands: 50 % and 80 % of them)",
        loc="left",
        fontsize=10,
    )
panels[-1].set_xticks(range(len(words)), words, rotation=45, ha="right")
panels[-1].set_xlabel("word just read")
figure.tight_layout()
plt.show()

# %% [markdown]
# At every word some gates are wide open and others almost closed: the bands say more than the medians.
#
# How long does the LSTM remember a word? What is written at word k is multiplied by every later f. The product
# of these f is the share that remains:

# %%
left = torch.ones(len(words), len(words), H)  # written at word k, after word t, unit
for k in range(len(words)):
    left[k, k + 1 :] = f[k + 1 :].cumprod(0)
keepers = f[1:].log().mean(0).topk(H // 20).indices  # the units that remember longest
corner = np.tril(np.ones((len(words), len(words)), bool), -1)  # t before k
shown = {
    "All units": left.mean(2),
    f"The {len(keepers)} units that remember longest": left[:, :, keepers].mean(2),
}

figure, panels = plt.subplots(1, 2, figsize=(11.5, 5.2), sharey=True, layout="constrained")
for axes, (name, mean) in zip(panels, shown.items(), strict=True):
    image = axes.imshow(np.ma.array(mean.numpy(), mask=corner), cmap="magma", vmin=0, vmax=1)
    axes.set_xticks(range(len(words)), words, rotation=60, ha="right")
    axes.set(title=name, xlabel="word just read")
panels[0].set_yticks(range(len(words)), words)
panels[0].set_ylabel("word at which c was written")
figure.colorbar(image, ax=panels, label="share that remains (mean product of f)", shrink=0.8)
for name, mean in shown.items():
    print(f"{name}: {100 * mean.diagonal(5).mean():.0f} % remain after five more words")
plt.show()

# %% [markdown]
# On average, most of a word is forgotten after a few more words. A small number of units remember for much
# longer. These time scales were not set by hand: the network learned them.

# %% [markdown]
# ## 8. A language model
#
# A softmax on h gives the probability of each next word. The product of these probabilities is the
# probability of the sentence (Mikolov et al. 2010).
#
# The package's model is a captioner, but some of its training captions had no image, only zeros. So with
# zeros instead of an image its decoder *is* a language model. Unlike a bag of words, it depends on the order:


# %%
def log_prob(words, features=NO_IMAGE):
    """Return the log-probability of each word and of the end, given the words before it."""
    found, _ = read(["<bos>", *words], decoder.start(features))
    following = torch.tensor(vocabulary.encode(words)[1:])
    return found.gather(1, following[:, None])[:, 0]


ordered = tokenize("a cat is sitting on a table")
chance = random.Random(0)
for number in range(4):
    text = ordered if not number else chance.sample(ordered, len(ordered))
    print(f"log p = {log_prob(text).sum():7.2f}   {' '.join(text)}")

# %% [markdown]
# To write a sentence, draw a word from this distribution, feed it to the network, and repeat. Here is a
# sentence that starts with *the cat*:

# %%
generator = torch.Generator().manual_seed(6)
NEVER = torch.tensor(NEVER_GENERATED)
written, pages = ["the", "cat"], []
log_probs, state = read(["<bos>", *written], decoder.start(NO_IMAGE))
while len(pages) < 9:
    probs = log_probs[-1].exp().index_fill(0, NEVER, 0.0)
    drawn = torch.multinomial(probs, 1, generator=generator).item()
    pages.append(("... " * (len(written) > 3) + " ".join(written[-3:]), probs, drawn))
    if drawn == vocabulary.eos:
        break
    written.append(vocabulary.words[drawn])
    log_probs, state = read(written[-1:], state)

figure, panels = plt.subplots(3, 3, figsize=(11, 7.2), sharex=True)
for axes, (before, probs, drawn) in zip(panels.flat, pages, strict=False):
    best = probs.topk(6).indices.tolist()
    tokens = best if drawn in best else [*best, drawn]
    colors = [ORANGE if token == drawn else BLUE for token in tokens]
    bars = axes.barh([vocabulary.words[token] for token in tokens], probs[tokens], color=colors)
    axes.bar_label(bars, [f"{probs[token]:.3f}" * (token == drawn) for token in tokens], padding=3)
    axes.invert_yaxis()
    axes.set_title(f"{before} ___", loc="left", fontsize=10)
for axes in panels.flat[len(pages) :]:
    axes.axis("off")
for axes in panels.flat[max(0, len(pages) - 3) : len(pages)]:
    axes.set_xlabel("probability")
    axes.tick_params(labelbottom=True)
panels.flat[0].set(xlim=(0, 1.3), xticks=(0, 0.5, 1))
figure.suptitle(
    f"Six most probable words at each step, and the word that was drawn (orange): {join_words(written)}",
    x=0.02,
    ha="left",
)
figure.tight_layout()
plt.show()

# %% [markdown]
# **Temperature.** Divide the log-probabilities by a temperature τ before the softmax. With τ below one,
# probable words become more probable. With τ above one, all words become more equal. These words may follow
# *a cat is sitting on a*:

# %%
TEMPERATURES = (0.5, 1.0, 2.0)
log_probs, _ = read(["<bos>", *tokenize("a cat is sitting on a")], decoder.start(NO_IMAGE))
best = log_probs[-1].topk(12).indices
figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
for axes, temperature, color in zip(panels, TEMPERATURES, (BLUE, GREEN, RED), strict=True):
    probs = (log_probs[-1] / temperature).softmax(0)
    entropy = -(probs * probs.log()).sum() / math.log(2)
    axes.bar([vocabulary.words[token] for token in best], probs[best], color=color)
    axes.tick_params(axis="x", rotation=60)
    axes.set_title(f"τ = {temperature} (entropy {entropy:.1f} bits)")
    axes.set_xlabel("next word")
panels[0].set_ylabel("probability")
figure.tight_layout()
plt.show()

# %%
# The search starts from the state after "the", with the word "cat".
_, the = read(["<bos>", "the"], decoder.start(NO_IMAGE))
for temperature in TEMPERATURES:
    found = search(
        decoder.step,
        the,
        Sampling(temperature=temperature, n=4, max_length=14),
        TokenConstraints(vocabulary.id("cat"), vocabulary.eos, banned=NEVER_GENERATED),
        generator=torch.Generator().manual_seed(0),
    )
    for hypothesis in found[0]:
        text = join_words(["the", "cat", *vocabulary.decode(hypothesis.tokens)])
        print(f"τ = {temperature}   log p = {hypothesis.log_prob:7.1f}   {text}")

# %% [markdown]
# At τ = 0.5 the sentences are safe and similar. At τ = 1 they follow the model's own distribution. At τ = 2
# they make no sense, and their log-probability is much lower.

# %% [markdown]
# ## 9. Sentiment of short messages
#
# The same cells can read a whole sentence and give one answer at its end, for example whether a short message
# is positive or negative. Our messages are generated. Half of them contain a positive and a negative word, and
# the word *not* decides. We compare an LSTM with a bag of words on messages that were not in training:

# %%
THINGS = ("food", "movie", "day", "song", "phone", "game")
POSITIVE = ("good", "great", "nice", "excellent", "wonderful", "fun")
NEGATIVE = ("bad", "terrible", "awful", "boring", "poor", "sad")
PATTERNS = (  # the class (1: positive) if the first word is positive and the second negative
    ("the {thing} was {first}, not {second} at all", 1),
    ("my {thing} was not {first} but {second}", 0),
    ("such a {first} {thing} today", 1),
    ("this {thing} is not {first}", 0),
)


def write_messages():
    """Return each message as words, with its class."""
    messages = {}
    for thing, (pattern, label) in product(THINGS, PATTERNS):
        for positive, negative in product(POSITIVE, NEGATIVE):
            for first, second, own in (
                (positive, negative, label),
                (negative, positive, 1 - label),
            ):
                messages[pattern.format(thing=thing, first=first, second=second)] = own
    return [(tokenize(text), label) for text, label in messages.items()]


messages = write_messages()
random.Random(0).shuffle(messages)
message_words = Vocabulary.build([words for words, _ in messages], min_count=1)
new_messages, known_messages = messages[:200], messages[200:]


def encode_messages(messages):
    tokens = [[message_words.id(word) for word in words] for words, _ in messages]
    return tokens, torch.tensor([float(label) for _, label in messages])


def count_words(tokens):
    return torch.stack(
        [torch.bincount(torch.tensor(row), minlength=len(message_words)).float() for row in tokens]
    )


def fit_sentiment(net, prepare):
    """Train on batches of 64 messages, and return the share of new messages with the right class."""
    chance = random.Random(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(200):
        tokens, labels = encode_messages(chance.sample(known_messages, 64))
        loss = nn.functional.binary_cross_entropy_with_logits(net(prepare(tokens))[:, 0], labels)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net.eval()
    tokens, labels = encode_messages(new_messages)
    with torch.no_grad():
        return ((net(prepare(tokens))[:, 0] > 0) == labels.bool()).float().mean().item()


torch.manual_seed(0)
sentiment = SequenceClassifier(
    len(message_words), 1, cell="lstm", embedding_size=16, hidden_size=32, dropout=0.2
)
bag_sentiment = nn.Linear(len(message_words), 1)
right = fit_sentiment(sentiment, pack), fit_sentiment(bag_sentiment, count_words)
print(
    f"Right class for new messages: LSTM {100 * right[0]:.0f} %, bag of words {100 * right[1]:.0f} %"
)

# %% [markdown]
# The bag of words does not beat chance: in this task the order decides. The classifier can also answer
# after each word:

# %%
examples = (
    "the food was good, not bad at all",
    "the food was bad, not good at all",
    "my phone was not terrible but fun",
)
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True)
for axes, text in zip(panels, examples, strict=True):
    words = tokenize(text)
    tokens = [message_words.id(word) for word in words]
    with torch.no_grad():
        probs = sentiment(pack([tokens[: t + 1] for t in range(len(tokens))])).sigmoid()[:, 0]
    axes.bar(
        range(len(words)), probs - 0.5, bottom=0.5, color=[BLUE if p > 0.5 else RED for p in probs]
    )
    axes.axhline(0.5, color="black", linewidth=0.8)
    axes.set_xticks(range(len(words)), words, rotation=45, ha="right")
    axes.set(title=text, ylim=(0, 1), xlabel="message up to this word")
panels[0].set_ylabel("probability of positive")
figure.tight_layout()
plt.show()

# %% [markdown]
# The network was trained on the answer after the last word only. The bars before it show how the answer
# develops: *not* and the word that follows turn it around.
#
# **Real tweets** are different. On 3,432 rated tweets (Hutto & Gilbert 2014), a bag of words is right for 89.1 %,
# an LSTM for 89.4 %, and a plain RNN for 87.9 %: in most tweets single words decide, so a network hardly learns
# from them that the order matters. `scripts/classify_tweets.py` repeats this experiment.

# %% [markdown]
# ## 10. The captioner: one more term
#
# A language model writes about the world in general. To make it write about *one image*, a CNN turns the image
# into a vector v, and v enters the recurrence:
#
#     before:  h = tanh(W_xh x + W_hh h)
#     now:     h = tanh(W_xh x + W_hh h + W_vh v)
#
# Here v enters at every step (the injection `recurrent`). Karpathy & Fei-Fei (2015) add the term only in the step
# that predicts the first word (`first_word`). Vinyals et al. (2015) add a step before that one, with v as its
# input (`first_step`).
#
# We train a tanh network of 64 units on 32 drawn images from the repository. v comes from the CNN of the package's
# model, which is not trained here. For 30 % of the captions v is zero, so that the network also learns to
# write without an image.


# %%
@torch.no_grad()
def encode(images):
    return torch.cat(
        [model.encoder(captioner.read_pixels(image.path)[None]).vector for image in images]
    )


drawn = {
    split: read_captions("coco:../data/tiny", split=split).images for split in ("train", "test")
}
seen = encode(drawn["train"])
captions = [tokenize(caption) for image in drawn["train"] for caption in image.captions]
small_words = Vocabulary.build(captions, min_count=1)
tokens = [torch.tensor(small_words.encode(words)) for words in captions]
before = pack_sequence([row[:-1] for row in tokens], enforce_sorted=False)
after = pack_sequence([row[1:] for row in tokens], enforce_sorted=False)
of_caption = seen.repeat_interleave(5, 0)  # five captions per image

torch.manual_seed(0)
options = DecoderConfig(cell="rnn", embedding_size=64, hidden_size=64, dropout=0.2)
small = Decoder(options, vocabulary_size=len(small_words), feature_size=D)
optimizer = torch.optim.Adam(small.parameters(), lr=0.003)
for _ in range(200):
    shown = torch.bernoulli(torch.full((len(tokens), 1), 0.7))
    logits = small(
        Features(of_caption * shown), before
    )  # teacher forcing: the inputs are the reference words
    loss = nn.functional.cross_entropy(logits, after.data)
    optimizer.zero_grad()
    loss.backward()
    clip_grad_norm_(small.parameters(), 1.0)
    optimizer.step()
small.eval()
for name, weight in small.core.cell.named_parameters():
    print(f"{name}: {' x '.join(map(str, weight.shape))}")


# %%
def best_captions(decoder, vocabulary, features, method):
    constraints = TokenConstraints.resolve(method, vocabulary)
    found = search(decoder.step, decoder.start(features), method, constraints)
    return [join_words(vocabulary.decode(hypotheses[0].tokens)) for hypotheses in found]


unseen = drawn["test"]
with_v, without_v = (
    best_captions(small, small_words, Features(v), Greedy())
    for v in (encode(unseen), torch.zeros(len(unseen), D))
)
figure, panels = plt.subplots(2, 4, figsize=(10, 5.9), layout="constrained")
for axes, image, text in zip(panels.flat, unseen, with_v, strict=True):
    with Image.open(image.path) as pixels:
        axes.imshow(pixels.convert("RGB"), interpolation="nearest")
    axes.axis("off")
    axes.set_title(textwrap.fill(text, 27), fontsize=10)
figure.suptitle(f"Captions of new images, with v (without v, for all of them: {without_v[0]})")
print(
    f"Different captions of {len(unseen)} images: {len(set(with_v))} with v, {len(set(without_v))} without v"
)
plt.show()

# %% [markdown]
# With one more matrix product, which is computed once per image, the captions describe the images. Some are
# wrong, because 32 training images are few. Without v the network writes the same sentence for all images.
#
# ### Photos
#
# The package's model is the same idea at full size: an LSTM in which every gate has its own W_vh v, and soft
# attention over the CNN's grid of features (Xu et al. 2015). The photos come from Python packages;
# `captioning samples photos` writes them to a folder, with their sources.

# %%
set_matplotlib_formats("jpeg")  # photos are too large as PNG
photos = {path.stem: path for path in write_samples(WORK / "photos")}
chosen = [photos[name] for name in ("cat", "temple", "cameraman") if name in photos]


@torch.no_grad()
def features_of(photo, *, v=True, grid=True):
    found = model.encoder(captioner.read_pixels(photo)[None])
    return Features(found.vector * v, None if found.grid is None else found.grid * grid)


BEAM = BeamSearch(width=5, length_penalty=0.5, no_repeat_ngram=2)  # without reranking
no_image = best_captions(decoder, vocabulary, NO_IMAGE, BEAM)[0]
figure, panels = plt.subplots(1, len(chosen), figsize=(10, 4.3), layout="constrained")
for axes, photo in zip(panels, chosen, strict=True):
    words = captioner.caption(photo, search=BEAM).captions[0].words
    log_p = [log_prob(words, features).sum() for features in (features_of(photo), NO_IMAGE)]
    with Image.open(photo) as pixels:
        axes.imshow(pixels.convert("RGB"))
    axes.set_title(textwrap.fill(join_words(words), 34), fontsize=11)
    axes.set_xlabel(
        f"log p with the image: {log_p[0]:.1f}\nwithout it: {log_p[1]:.1f}", fontsize=11
    )
    axes.set(xticks=[], yticks=[], anchor="N")
    axes.spines[:].set_visible(False)
figure.suptitle(f"Captions with the image (without an image: {no_image})")
plt.show()

# %% [markdown]
# Each caption is more probable with its photo than without. The image enters in two places: v and
# the grid. What happens without one of them? (In training the model had both or neither.)

# %%
photo = chosen[0]
own = captioner.caption(photo, search=BEAM).captions[0].words
rows = {}
names = {
    "v and grid": (True, True),
    "v only": (True, False),
    "grid only": (False, True),
    "neither": (False, False),
}
for name, (v, grid) in names.items():
    features = features_of(photo, v=v, grid=grid)
    rows[name] = {
        "best caption": best_captions(decoder, vocabulary, features, BEAM)[0],
        "log p of the caption in the first row": round(log_prob(own, features).sum().item(), 2),
    }
pd.set_option("display.max_colwidth", None)
pd.DataFrame(rows).T

# %% [markdown]
# Which words become more probable because of the image? The bars show the log-probability of each word with
# the image, minus that without it:

# %%
gain = log_prob(own, features_of(photo)) - log_prob(own)
figure, axes = plt.subplots(figsize=(8.5, 3.0))
axes.bar(range(len(gain)), gain, color=[BLUE if value > 0 else RED for value in gain])
axes.axhline(0, color="black", linewidth=0.8)
axes.set_xticks(range(len(gain)), [*own, "<eos>"], rotation=30, ha="right")
axes.set(xlabel="word of the caption", ylabel="gain in log p (nats)")
axes.set_title(f"Gain from the image for each word, {gain.sum():.1f} nats in total")
figure.tight_layout()
plt.show()

# %% [markdown]
# Words about the content gain most. Words that follow from grammar gain little. The last figure shows the
# attention weights for each word, as in figure 2 of Xu et al. 2015:

# %%
maps = attention_maps(captioner, photo, captioner.caption(photo, search=BEAM).captions[0])
as_seen = captioner.read_pixels(photo).float().mean(0)  # resized to a square, as for the encoder
side, columns = len(as_seen), 5
lines = math.ceil(len(own) / columns)
figure, panels = plt.subplots(lines, columns, figsize=(10, 2.3 * lines), layout="constrained")
for axes in panels.flat:
    axes.axis("off")
for axes, word, weight in zip(panels.flat, own, maps, strict=False):
    axes.imshow(as_seen, cmap="gray")
    style = {"cmap": "inferno", "alpha": 0.55, "interpolation": "bicubic", "vmin": 0}
    image = axes.imshow(weight, extent=(0, side, side, 0), vmax=maps.max(), **style)
    axes.set_title(word, fontsize=12)
figure.suptitle(f"Attention for each word (grid of {maps.shape[1]} by {maps.shape[2]})")
figure.colorbar(image, ax=panels, label="attention weight", shrink=0.8)
plt.show()

# %% [markdown]
# ## Next steps
#
# - `captioning caption photo.jpg` captions your own photos.
# - `captioning train` trains such a model on COCO or Flickr8k.
# - [evaluate.ipynb](evaluate.ipynb) measures how good the captions are.
#
# ## Sources
#
# - Shannon (1948), A mathematical theory of communication, Bell System Technical Journal 27.
# - Elman (1990), Finding structure in time, Cognitive Science 14.
# - Werbos (1990), Backpropagation through time: what it does and how to do it, Proceedings of the IEEE 78.
# - Hochreiter & Schmidhuber (1997), Long short-term memory, Neural Computation 9.
# - Gers, Schmidhuber & Cummins (2000), Learning to forget: continual prediction with LSTM, Neural Computation 12.
# - Bengio, Ducharme, Vincent & Jauvin (2003), A neural probabilistic language model, JMLR 3.
# - Mikolov et al. (2010), Recurrent neural network based language model, Interspeech.
# - Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, ICML.
# - Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, EMNLP (the GRU).
# - Hutto & Gilbert (2014), VADER: a parsimonious rule-based model for sentiment analysis, ICWSM.
# - Le, Jaitly & Hinton (2015), A simple way to initialize recurrent networks of rectified linear units, arXiv:1504.00941.
# - Jozefowicz, Zaremba & Sutskever (2015), An empirical exploration of recurrent network architectures, ICML.
# - Vinyals, Toshev, Bengio & Erhan (2015), Show and tell: a neural image caption generator, CVPR.
# - Karpathy & Fei-Fei (2015), Deep visual-semantic alignments for generating image descriptions, CVPR.
# - Xu et al. (2015), Show, attend and tell: neural image caption generation with visual attention, ICML.
