"""Presets: decoder configs of captioners from the literature.

All presets share what they do not define: the CNN, the data, dropout, and the readout's linear
layer W_hr between hidden state and words. The first papers have no such layer; if E is at least H
it does not restrict the model, because ``W_rw W_hr`` can be any matrix. As in the papers, and
unlike the default config, output weights are not tied to the word vectors.
"""

from collections.abc import Callable

from captioning.errors import ConfigError
from captioning.messages import suggest
from captioning.nn.decoder_config import DecoderConfig


def m_rnn() -> DecoderConfig:
    """Mao et al. 2014, Explain images with multimodal recurrent neural networks, section 3.

    Two embedding layers, a recurrent layer without image, and a multimodal layer that adds the
    projections of word, recurrent layer and image::

        w(t) = the second embedding of the word
        r(t) = f(U_r r(t-1) + w(t))                        f the rectifier
        m(t) = g(V_w w(t) + V_r r(t) + V_I I)              g(x) = 1.7159 tanh(2x/3)
        p    = softmax of a linear layer of m(t)

    Changed: w(t) enters the recurrent layer through W_xh, so their sizes can differ. A rectifier
    separates the embedding layers. U_r starts as the identity, because with other initial
    weights the state r(t) vanishes or explodes.
    """
    return DecoderConfig(
        cell="relu_rnn",
        injection="merge",
        readout="multimodal",
        embedding_layers=2,
        tie_weights=False,
    )


def neuraltalk() -> DecoderConfig:
    """Karpathy & Fei-Fei 2015, Deep visual-semantic alignments, section 3.3.

    A plain recurrent network. The image is a term of the gates in only the step that predicts the
    first word, which the authors found better than a term in every step::

        b_v = W_hi CNN(I)
        h_t = f(W_hx x_t + W_hh h_{t-1} + b_h + 1(t=1) b_v)
        y_t = softmax(W_oh h_t + b_o)

    f is the rectifier. Changed: W_hh starts as the identity. With the injection ``recurrent``
    instead of ``first_word``, b_v is a term of every step: h = f(W_xh x + W_hh h + W_vh v).
    """
    return DecoderConfig(cell="relu_rnn", injection="first_word", tie_weights=False)


def show_and_tell() -> DecoderConfig:
    """Vinyals et al. 2015, Show and Tell, section 3.1.

    An LSTM that reads the image as the input of an additional first step::

        x_{-1}  = CNN(I)                                   projected to the size of a word
        x_t     = W_e S_t                                  t = 0 ... N-1
        p_{t+1} = LSTM(x_t)

    Changed: the forget gate's bias starts at one.
    """
    return DecoderConfig(cell="lstm", injection="first_step", tie_weights=False)


def lrcn() -> DecoderConfig:
    """Donahue et al. 2015, Long-term recurrent convolutional networks, section 4.2: LRCN_2f.

    Two factored LSTMs: the first reads words; the second reads the output of the first and, in
    every step, the image::

        h1_t = LSTM_1(E[w_t], h1_{t-1})
        h2_t = LSTM_2([h1_t; v], h2_{t-1})
        p    = softmax(W h2_t)

    ``W [h1; v]`` is ``W_xh h1 + W_vh v``: the injection ``recurrent`` of the second layer. Changed:
    dropout between the layers.
    """
    return DecoderConfig(
        cell="lstm", injection="recurrent", layers=2, factored=True, tie_weights=False
    )


def minds_eye() -> DecoderConfig:
    """Chen & Zitnick 2015, Mind's Eye, section 3: a recurrent visual memory.

    The language layer s sees the image. A memory u reads only words; it reconstructs the image
    features and helps to predict the next word::

        s_t  = f(W_sw w_t + W_ss s_{t-1} + W_sv v)
        u_t  = f(W_uw w_t + W_uu u_{t-1})
        v~_t = W_vu u_t
        p    = softmax(W_ws s_t + W_wu u_t)

    The training loss is the cross-entropy of the words and the squared error of v~. The memory also
    finds the image of a sentence (:mod:`captioning.evaluation.retrieval`). Changed: f is tanh
    (paper: sigmoid). The softmax is over all words (paper: word classes and n-gram features). W_sv
    reaches all of s (paper: half of s).
    """
    return DecoderConfig(cell="rnn", injection="recurrent", core="memory", tie_weights=False)


def show_attend_tell() -> DecoderConfig:
    """Xu et al. 2015, Show, Attend and Tell, section 3.1.2: soft attention.

    An LSTM whose initial state comes from the mean of the grid. Each step reads the context vector
    z; the readout sees h, z, and the word::

        c_0, h_0 = f_init(mean_i a_i)
        z_t      = sum_i alpha_ti a_i,  alpha_t = softmax of an MLP of a_i and h_{t-1}
        p        = softmax(L_o (E[w_{t-1}] + L_h h_t + L_z z_t))

    Changed: the readout sees E[w] through a matrix W_xr. z has no gate beta (section 4.2.1). f_init
    is one layer. A rectified layer projects the grid to size A. For the paper's doubly stochastic
    loss see :func:`captioning.nn.losses.doubly_stochastic`.
    """
    return DecoderConfig(
        cell="lstm", injection="init_state", core="attention", readout="deep", tie_weights=False
    )


def up_down() -> DecoderConfig:
    """Anderson et al. 2018, Bottom-up and top-down attention, section 3.2.

    Two LSTMs. The first reads the word, the mean feature and the last state of the second, and
    controls the attention. The second reads the context vector and the state of the first::

        h1_t = LSTM_1([h2_{t-1}; v; E[w_t]], h1_{t-1})
        z_t  = attention over the regions with h1_t
        h2_t = LSTM_2([z_t; h1_t], h2_{t-1})
        p    = softmax(W h2_t)

    Changed: the regions are grid positions, not detections.
    """
    return DecoderConfig(cell="lstm", injection="recurrent", core="top_down", tie_weights=False)


def language_model() -> DecoderConfig:
    """Mikolov et al. 2010, recurrent language model: here an LSTM that sees no image.

    ``p(w_t | w_1 ... w_{t-1}) = softmax(W h_t)``. Its scores are the baseline without images.
    """
    return DecoderConfig(cell="lstm", injection="none", tie_weights=False)


PRESETS: dict[str, Callable[[], DecoderConfig]] = {
    "m-rnn": m_rnn,
    "neuraltalk": neuraltalk,
    "show-and-tell": show_and_tell,
    "lrcn": lrcn,
    "minds-eye": minds_eye,
    "show-attend-tell": show_attend_tell,
    "up-down": up_down,
    "language-model": language_model,
}


def preset(name: str) -> DecoderConfig:
    """Return the decoder config of a captioner from the literature.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset {name!r}. Use one of {', '.join(PRESETS)}.{suggest(name, PRESETS)}"
        )
    return PRESETS[name]()
