"""The self-critical objective: rewards, baseline, gradient, and training."""

import copy
import io

import pytest
import torch

from captioning.datasets.batches import CaptionDataset
from captioning.decoding.hypothesis import Hypothesis
from captioning.errors import ConfigError
from captioning.features.cache import ArrayRows
from captioning.metrics import score
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features
from captioning.text.caption_arrays import CaptionWords
from captioning.text.vocabulary import Vocabulary
from captioning.training.self_critical import SelfCriticalObjective
from captioning.training.trainer import Trainer
from captioning.training.training_config import SelfCriticalConfig, TrainingConfig

SIZE, IMAGES = 6, 6
WORDS = [
    *("a", "dog", "cat", "boy", "runs", "sits", "in", "on"),
    *("the", "grass", "snow", "street", "red", "blue"),
]
VOCABULARY = Vocabulary.build([WORDS], min_count=1)
REFERENCES = [
    [["a", "dog", "runs", "on", "the", "grass"], ["the", "red", "dog", "runs", "in", "snow"]],
    [["a", "cat", "sits", "in", "the", "street"], ["the", "cat", "sits"]],
    [["a", "boy", "runs", "in", "the", "snow"], ["a", "blue", "boy", "in", "the", "snow"]],
    [["a", "dog", "sits", "on", "a", "street"], ["the", "dog", "sits"]],
    [["a", "cat", "runs", "on", "grass"], ["a", "blue", "cat"]],
    [["the", "boy", "sits", "on", "the", "red", "grass"], ["a", "boy", "sits", "on", "grass"]],
]


def objective(**settings):
    return SelfCriticalObjective(
        CaptionWords.from_lists(REFERENCES),
        VOCABULARY,
        SelfCriticalConfig(**{"max_length": 6, **settings}),
    )


def decoder(seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"embedding_size": 10, "hidden_size": 10, "attention_size": 10, "dropout": 0.0}
    options = DecoderConfig(**{**sizes, **settings})
    return Decoder(options, vocabulary_size=len(VOCABULARY), feature_size=SIZE)


def hypothesis(words, finished=True):
    tokens = tuple(VOCABULARY.id(word) for word in words)
    return Hypothesis(tokens, 0.0, 0.0, finished, ())


def test_reward_equals_cider_of_the_scorer_with_eos():
    captions = [["a", "dog", "runs", "in", "a"], ["the", "cat"], REFERENCES[2][0], ["red", "red"]]
    images = [0, 1, 2, 3]
    found = objective().rewards(images, [hypothesis(words) for words in captions])
    candidates = {i: " ".join([*words, "xend"]) for i, words in enumerate(captions)}
    candidates |= dict.fromkeys((4, 5), "")  # document frequencies are those of all images
    references = {
        i: [" ".join([*words, "xend"]) for words in those] for i, those in enumerate(REFERENCES)
    }
    expected = score(candidates, references).per_image["cider"]
    assert found == pytest.approx(expected[images].to_numpy(), abs=1e-9)


def test_reward_is_lower_for_unfinished_caption():
    words = ["a", "dog", "runs", "on", "the", "grass"]
    whole, cut = objective().rewards([0, 0], [hypothesis(words), hypothesis(words, False)])
    assert whole > cut


def test_reward_bleu_equals_bleu_of_the_scorer():
    captions = [["a", "dog", "runs", "in", "snow"], ["the", "cat", "sits"]]
    drawn = [hypothesis(words) for words in captions]
    plain, mixed = (
        objective().rewards([0, 1], drawn),
        objective(bleu_weight=2.0).rewards([0, 1], drawn),
    )
    candidates = {i: " ".join([*words, "xend"]) for i, words in enumerate(captions)}
    references = {i: [" ".join([*w, "xend"]) for w in REFERENCES[i]] for i in candidates}
    expected = score(candidates, references).per_image["bleu_4"].to_numpy()
    assert expected[0] > 0.1
    assert mixed - plain == pytest.approx(2 * expected, abs=1e-9)


@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy"])
@pytest.mark.parametrize("attention", [False, True])
def test_loss_gradient_follows_the_equation(baseline, attention, monkeypatch):
    """Oracle: each sample alone, word by word through `step`, with its advantage as weight."""
    network = decoder(core="attention" if attention else "stack")
    goal = objective(samples=3, baseline=baseline)
    grid = torch.randn(4, 5, SIZE)
    features = Features(grid.mean(1), grid if attention else None)
    images = torch.tensor([0, 5, 2, 3])
    seen = []
    search = SelfCriticalObjective._search

    def spy(self, *arguments):
        seen.append(search(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(SelfCriticalObjective, "_search", spy)
    result = goal.loss(network.train(), features, images, torch.zeros(4, dtype=torch.long))
    result.loss.backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    network.zero_grad()
    drawn = seen[0]
    assert len({caption.tokens for caption in drawn}) > 4
    total, words = torch.zeros(()), 0
    for place, image in enumerate(images.tolist()):
        own = drawn[3 * place : 3 * place + 3]
        rewards = goal.rewards([image] * 3, own)
        for k, caption in enumerate(own):
            others = [rewards[j] for j in range(3) if j != k]
            if baseline == "greedy":
                bar = goal.rewards([image], [seen[1][place]])[0]
            else:
                bar = sum(others) / 2
            one = Features(features.vector[[place]], grid[[place]] if attention else None)
            state, last = network.start(one), VOCABULARY.bos
            ends = [VOCABULARY.eos] if caption.finished else []
            for token in [*caption.tokens, *ends]:
                log_probs, state = network.step(torch.tensor([last]), state)
                said = [i for i in range(len(VOCABULARY)) if i not in (0, 1, 3)]
                log_probs = log_probs - log_probs[:, said].logsumexp(1)
                total = total - (rewards[k] - bar) * log_probs[0, token]
                words, last = words + 1, token
    (total / words).backward()
    assert result.words == words
    assert result.loss.item() == pytest.approx((total / words).item(), abs=1e-5)
    assert max(float(g.abs().max()) for g in found.values()) > 1e-3
    for name, parameter in network.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_excluded_words_gain_no_probability(cache):
    """Otherwise ``<unk>`` gains the probability that low-reward captions lose."""
    run = trainer(cache, epochs=5, learning_rate=0.01, self_critical={"samples": 8})
    bias = run.cached_model.decoder.W_rw.bias
    with torch.no_grad():
        bias[[VOCABULARY.pad, VOCABULARY.bos, VOCABULARY.unk]] += 1.0
    while not run.finished:
        last = run.train_epoch()
    assert bias[VOCABULARY.unk].item() == pytest.approx(1.0)
    assert last.perplexity < len(VOCABULARY)  # of sampled words: no more than all words alike


def test_loss_ignores_decoder_dropout():
    network, grid = decoder(dropout=0.5, core="attention").train(), torch.randn(4, 5, SIZE)
    features, images = Features(grid.mean(1), grid), torch.arange(4)
    found = []
    for seed in (1, 1):
        torch.manual_seed(seed)
        found.append(objective(samples=6).loss(network, features, images, torch.zeros_like(images)))
    assert found[0].nll == found[1].nll
    plain = network.eval()
    torch.manual_seed(1)
    again = objective(samples=6).loss(plain, features, images, torch.zeros_like(images))
    assert again.nll == found[0].nll


@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy"])
def test_feature_dropout_is_the_same_in_all_passes(baseline, monkeypatch):
    network, size = decoder(core="attention"), (200, 5, SIZE)
    grid = torch.rand(size) + 1  # without zeros, so that each zero is a dropped feature
    seen = []
    start = Decoder._start

    def spy(self, features):
        seen.append(features)
        return start(self, features)

    monkeypatch.setattr(Decoder, "_start", spy)
    goal = objective(samples=2, baseline=baseline, feature_dropout=0.25)
    images = torch.arange(200) % IMAGES
    goal.loss(network.train(), Features(grid.mean(1), grid), images, torch.zeros_like(images))
    assert len(seen) == (3 if baseline == "greedy" else 2)
    first = seen[0]
    for other in seen[1:]:
        assert torch.equal(other.vector, first.vector)
        assert torch.equal(other.grid, first.grid)
    hidden = first.vector == 0
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert len(hidden.unique(dim=0)) > 10  # one mask per image
    expected = grid.masked_fill(hidden.unsqueeze(1), 0.0) / 0.75
    torch.testing.assert_close(first.grid, expected)
    torch.testing.assert_close(first.vector, expected.mean(1))


@pytest.fixture
def cache():
    return ArrayRows(torch.randn(IMAGES, 2, 4, SIZE))


def trainer(cache, seed=0, epochs=2, self_critical=None, **settings):
    dataset = CaptionDataset(CaptionWords.from_lists(REFERENCES).encode(VOCABULARY))
    wish = SelfCriticalConfig(**{"samples": 4, "max_length": 7, **(self_critical or {})})
    config = TrainingConfig(
        objective="self_critical",
        self_critical=wish,
        **{"epochs": epochs, "batch_size": 6, "captions_per_image": 2, "warmup_steps": 0},
        **{"hflip": False, "save_every": 1, **settings},
    )
    goal = SelfCriticalObjective(CaptionWords.from_lists(REFERENCES), VOCABULARY, wish)
    return Trainer(decoder(seed, dropout=0.2), dataset, cache, config, self_critical=goal)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_raises_the_reward(cache, precision):
    wish = {"samples": 16}
    run = trainer(cache, epochs=16, learning_rate=0.05, precision=precision, self_critical=wish)
    rewards = []
    while not run.finished:
        rewards.append(run.train_epoch().reward)
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3


def test_samples_come_from_the_current_weights(cache, monkeypatch):
    found, plain = [], SelfCriticalObjective._search

    def next_words(decoder, features):
        words = torch.arange(len(features)) + VOCABULARY.eos + 1
        return decoder.step(words, decoder.start(features))[0]

    def noted(self, decoder, features, how):
        drawn = plain(self, decoder, features, how)
        with torch.no_grad():
            pair = [next_words(each, features) for each in (decoder, copy.deepcopy(decoder))]
        found.append(pair)
        return drawn

    monkeypatch.setattr(SelfCriticalObjective, "_search", noted)
    run = trainer(cache, epochs=4, learning_rate=0.01, self_critical={"samples": 3})
    while not run.finished:
        run.train_epoch()
    for used, afresh in found:
        torch.testing.assert_close(used, afresh)


def test_cross_entropy_weight_adds_to_the_loss(cache):
    torch.manual_seed(0)
    plain = trainer(cache, learning_rate=1e-9).train_epoch()
    mixed = trainer(
        cache, learning_rate=1e-9, self_critical={"cross_entropy_weight": 0.5}
    ).train_epoch()
    # An untrained decoder's cross-entropy is about the logarithm of its vocabulary.
    assert mixed.loss - plain.loss == pytest.approx(0.5 * 2.9, rel=0.2)


def test_accumulated_self_critical_gradient_weights_words(cache):
    run = trainer(cache, accumulation_steps=2, clip_norm=0.0)
    model, total, words = copy.deepcopy(run.cached_model), 0.0, 0
    assert run.train_epoch().step == 1
    torch.manual_seed(run.config.seed)  # draws the same samples
    for batch in run.dataset.batches(6, per_image=2):
        features = model.encode(cache, batch.images, batch.views)
        result = run.loss.self_critical.loss(model.decoder, features, batch.images, batch.flipped)
        total = total + result.loss * result.words
        words += result.words
    (total / words).backward()
    for expected, found in zip(model.parameters(), run.cached_model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("batches", [1, 3, 4])
def test_self_critical_resumed_ends_with_the_same_weights(cache, batches):
    whole = trainer(cache, ema_decay=0.9)
    while not whole.finished:
        last = whole.train_epoch()
    killed, saved = trainer(cache, ema_decay=0.9), []
    while not killed.finished:
        killed.train_epoch(save_state=lambda: saved.append(_copy(killed.state_dict())))
    torch.manual_seed(99)
    resumed = trainer(cache, seed=7, ema_decay=0.9)
    resumed.load_state_dict(saved[batches - 1])
    while not resumed.finished:
        again = resumed.train_epoch()
    assert (again.loss, again.reward) == (last.loss, last.reward)
    expected = whole.model_to_save.state_dict()
    found = resumed.model_to_save.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def _copy(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 1},
        {"samples": 0, "baseline": "greedy"},
        {"bleu_weight": -1.0},
        {"max_length": 0},
        {"feature_dropout": 1.0},
        {"feature_dropout": -0.1},
    ],
)
def test_self_critical_config_invalid_value_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SelfCriticalConfig(**wrong)


def test_reward_of_flipped_image_swaps_left_and_right():
    vocabulary = Vocabulary.build([[*WORDS, "left", "right"]], min_count=1)
    references = [[["a", "dog", "on", "the", "left"]], [["a", "cat"]], [["a", "boy", "runs"]]]
    goal = SelfCriticalObjective(
        CaptionWords.from_lists(references), vocabulary, SelfCriticalConfig()
    )

    def said(side):
        words = ["a", "dog", "on", "the", side]
        return Hypothesis(tuple(vocabulary.id(word) for word in words), 0.0, 0.0, True, ())

    plain = goal.rewards([0, 0], [said("left"), said("right")])
    mirrored = goal.rewards([0, 0], [said("left"), said("right")], [1, 1])
    assert plain[0] > plain[1] + 1
    assert mirrored.tolist() == plain[::-1].tolist()
