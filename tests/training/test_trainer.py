"""The training loop: resume, regularization, learning rate, and moving average."""

import io
import math

import pytest
import torch

from captioning.datasets.batches import CaptionDataset
from captioning.errors import ConfigError, TrainingError
from captioning.features.cache import ArrayRows
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features
from captioning.nn.losses import doubly_stochastic, reconstruction_error
from captioning.text.caption_arrays import CaptionArray
from captioning.training.trainer import Trainer
from captioning.training.training_config import TrainingConfig

WORDS, SIZE, IMAGES = 12, 6, 8


@pytest.fixture
def dataset():
    generator = torch.Generator().manual_seed(5)
    captions = [
        [
            [1, *torch.randint(4, WORDS, (2 + i % 4,), generator=generator).tolist(), 2]
            for i in range(3)
        ]
        for _ in range(IMAGES)
    ]
    return CaptionDataset(CaptionArray.from_lists(captions))


@pytest.fixture
def cache():
    return ArrayRows(torch.randn(IMAGES, 2, 4, SIZE))


def decoder(seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"embedding_size": 10, "hidden_size": 10, "attention_size": 10, "dropout": 0.3}
    options = DecoderConfig(**{**sizes, **settings})
    return Decoder(options, vocabulary_size=WORDS, feature_size=SIZE)


def config(**settings):
    return TrainingConfig(**{"epochs": 3, "batch_size": 5, "warmup_steps": 2, **settings})


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model_to_save.state_dict().items()}


def train_epoch(trainer, **callbacks):
    summary = trainer.train_epoch(**callbacks)
    trainer.schedule.report_epoch(better=False)
    return summary


@pytest.mark.parametrize(
    ("core", "changes"),
    [
        ("stack", {}),
        ("attention", {"schedule": "plateau", "decay_epochs": 1.0}),
        ("stack", {"accumulation_steps": 2, "max_steps": 8, "schedule": "step"}),
        ("stack", {"precision": "float16"}),
    ],
)
def test_trainer_resumed_ends_with_the_same_weights(dataset, cache, core, changes):
    settings = config(
        **changes,
        ema_decay=0.9,
        save_every=1,
        word_dropout=0.2,
        scheduled_sampling=0.5,
        doubly_stochastic_weight=0.1,
    )
    whole = Trainer(decoder(core=core), dataset, cache, settings)
    summaries = [train_epoch(whole) for _ in range(3)]

    killed, states = Trainer(decoder(core=core), dataset, cache, settings), []

    def save():
        states.append(io.BytesIO())
        torch.save(killed.state_dict(), states[-1])

    for _ in range(3):
        train_epoch(killed, save_state=save)
    for step in (1, 5, 7):  # in the first epoch, at its end, and in the second
        torch.manual_seed(99)  # another process has other random numbers
        resumed = Trainer(decoder(seed=7, core=core), dataset, cache, settings)
        states[step - 1].seek(0)
        resumed.load_state_dict(torch.load(states[step - 1], weights_only=True))
        while not resumed.finished:
            last = train_epoch(resumed)
        assert last.loss == summaries[-1].loss
        assert resumed.state_dict()["scaler"] == whole.state_dict()["scaler"]
        for name, expected in weights(whole).items():
            assert torch.equal(weights(resumed)[name], expected), name


def test_trainer_memorizes_few_captions(cache):
    captions = [[[1, 4 + i, 4 + (i * 3) % 8, 2]] for i in range(IMAGES)]
    settings = config(epochs=150, learning_rate=0.02, hflip=False, label_smoothing=0.0)
    trainer = Trainer(
        decoder(dropout=0.0), CaptionDataset(CaptionArray.from_lists(captions)), cache, settings
    )
    first = trainer.train_epoch()
    last = first
    while last.perplexity > 1.05 and not trainer.finished:
        last = trainer.train_epoch()
    assert first.perplexity > 5
    model = trainer.cached_model.decoder.eval()
    features = Features(cache.read(torch.arange(IMAGES)).mean(1))
    tokens, state = torch.ones(IMAGES, dtype=torch.long), model.start(features)
    found = []
    with torch.no_grad():
        for _ in range(3):
            log_probs, state = model.step(tokens, state)
            tokens = log_probs.argmax(1)
            found.append(tokens)
    assert torch.stack(found, 1).tolist() == [caption[0][1:] for caption in captions]
    assert last.captions_per_second > 0


def test_reconstruction_weight_lowers_reconstruction_error(dataset, cache):
    def error(weight):
        model = decoder(core="memory", dropout=0.0)
        settings = config(epochs=10, learning_rate=0.03, hflip=False, reconstruction_weight=weight)
        trainer = Trainer(model, dataset, cache, settings)
        while not trainer.finished:
            trainer.train_epoch()
        (batch,) = dataset.batches(1000)
        features = trainer.cached_model.eval().encode(cache, batch.images)
        with torch.no_grad():
            found = model.teacher_forcing(features, batch.inputs, batch.image_index).reconstruction
        rows = batch.image_index[batch.inputs.sorted_indices]
        vectors, sizes = features.vector[rows], batch.inputs.batch_sizes.tolist()
        return float(reconstruction_error(found, vectors, sizes))

    assert error(1.0) < 0.8 * error(0.0)


def test_untrained_perplexity_is_about_the_vocabulary_size(dataset, cache):
    trainer = Trainer(decoder(), dataset, cache, config(learning_rate=1e-12))
    assert math.log(trainer.train_epoch().perplexity) == pytest.approx(math.log(WORDS), rel=0.15)


@pytest.mark.parametrize(("mirror", "seen"), [(True, {0, 1}), (False, {0})])
def test_trainer_reads_the_views_of_the_batches(dataset, cache, monkeypatch, mirror, seen):
    asked = []
    read = cache.read

    def spy(images, views=None):
        asked.append((images.tolist(), views.tolist()))
        return read(images, views)

    monkeypatch.setattr(cache, "read", spy)
    Trainer(decoder(), dataset, cache, config(hflip=mirror)).train_epoch()
    drawn = list(dataset.batches(5, views=len(seen)))
    assert asked == [(batch.images.tolist(), batch.views.tolist()) for batch in drawn]
    assert {view for _, views in asked for view in views} == seen


def test_gradient_norm_is_clipped(dataset, cache):
    free = Trainer(decoder(), dataset, cache, config(clip_norm=0.0)).train_epoch()
    seen = []
    trainer = Trainer(decoder(), dataset, cache, config(clip_norm=0.01))
    step = trainer.optimizer.step

    def spy():
        norms = [p.grad.norm() for p in trainer.cached_model.parameters() if p.grad is not None]
        seen.append(float(torch.stack(norms).norm()))
        return step()

    trainer.optimizer.step = spy
    trainer.train_epoch()
    assert free.gradient_norm > 0.01
    assert max(seen) <= 0.01 * 1.001


def test_ema_follows_its_equation(dataset, cache):
    trainer = Trainer(decoder(), dataset, cache, config(ema_decay=0.5))
    expected = {n: p.detach().clone() for n, p in trainer.cached_model.named_parameters()}

    def follow(progress):
        decay = min(0.5, progress.step / (progress.step + 9))
        for name, weight in trainer.cached_model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()

    trainer.train_epoch(on_step=follow)
    for name, weight in trainer.model_to_save.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name])


def test_accumulated_gradient_equals_that_of_one_batch(dataset, cache):
    gradients, summaries = [], []
    for size, count in ((25, 1), (5, 5)):
        settings = config(hflip=False, clip_norm=0.0, batch_size=size, accumulation_steps=count)
        trainer = Trainer(decoder(dropout=0.0), dataset, cache, settings)
        summaries.append(trainer.train_epoch())
        gradients.append([weight.grad for weight in trainer.cached_model.parameters()])
    assert [summary.step for summary in summaries] == [1, 1]
    assert summaries[0].loss == pytest.approx(summaries[1].loss)
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.norm()))


def test_max_steps_ends_the_run_and_its_schedule(dataset, cache):
    trainer = Trainer(decoder(), dataset, cache, config(max_steps=7))
    steps = []
    while not trainer.finished:
        summary = trainer.train_epoch(on_step=steps.append)
    assert [progress.step for progress in steps] == list(range(1, 8))
    assert (summary.epoch, summary.step, steps[-1].steps) == (2, 7, 7)
    assert trainer.schedule.rate_at(7) == pytest.approx(0.02 * trainer.config.learning_rate)


def test_max_steps_below_those_done_ends_the_epoch(dataset, cache):
    states = []
    trainer = Trainer(decoder(), dataset, cache, config(save_every=3))
    trainer.train_epoch(save_state=lambda: states.append(trainer.state_dict()))
    resumed = Trainer(decoder(), dataset, cache, config(max_steps=2))
    resumed.load_state_dict(states[0])
    assert not resumed.finished
    assert resumed.train_epoch().step == 3
    assert resumed.finished


def test_divergence_error_advises_lower_learning_rate(dataset, cache):
    cache.features[:] = float("nan")
    trainer = Trainer(decoder(), dataset, cache, config())
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        trainer.train_epoch()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("label_smoothing", 1.0),
        ("clip_norm", -1.0),
        ("patience", -1),
        ("ema_decay", 1.0),
        ("word_dropout", 1.0),
        ("scheduled_sampling", -0.1),
        ("doubly_stochastic_weight", -1.0),
    ],
)
def test_training_config_invalid_value_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("name", ["word_dropout", "scheduled_sampling", "doubly_stochastic_weight"])
def test_regularizer_changes_the_weights(dataset, cache, name):
    ends = []
    for value in (0.0, 0.5):
        settings = config(epochs=2, **{name: value})
        trainer = Trainer(decoder(core="attention", dropout=0.0), dataset, cache, settings)
        while not trainer.finished:
            trainer.train_epoch()
        ends.append(weights(trainer)["decoder.readout.W_hr.weight"])
    assert not torch.allclose(*ends)


def test_doubly_stochastic_weight_spreads_attention(dataset, cache):
    """The penalty is lower after training with it."""
    costs = []
    for weight in (0.0, 5.0):
        settings = config(epochs=15, learning_rate=0.02, doubly_stochastic_weight=weight)
        trainer = Trainer(decoder(core="attention", dropout=0.0), dataset, cache, settings)
        while not trainer.finished:
            trainer.train_epoch()
        (batch,) = dataset.batches(100)
        trainer.cached_model.requires_grad_(False)
        features = trainer.cached_model.encode(cache, batch.images)
        output = trainer.cached_model.decoder.teacher_forcing(
            features, batch.inputs, batch.image_index
        )
        costs.append(float(doubly_stochastic(output.attention, batch.inputs.batch_sizes.tolist())))
    assert costs[1] < 0.8 * costs[0]


def test_scheduled_sampling_in_bfloat16_trains_all_weights(dataset, cache):
    """Autocast must not reuse weights that it cached in the pass without gradients."""
    settings = config(epochs=1, precision="bfloat16", scheduled_sampling=0.5, batch_size=100)
    trainer = Trainer(decoder(core="attention"), dataset, cache, settings)
    trainer.train_epoch()
    assert all(weight.grad is not None for weight in trainer.cached_model.parameters())


def test_float16_trains_as_float32_up_to_rounding(dataset, cache):
    losses = []
    for precision in ("float32", "float16"):
        trainer = Trainer(decoder(dropout=0.0), dataset, cache, config(precision=precision))
        losses.append([trainer.train_epoch().loss for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1] != losses[0]


def test_float16_overflow_omits_the_step_and_halves_the_scale(dataset, cache):
    trainer = Trainer(decoder(), dataset, cache, config(precision="float16", max_steps=1))
    state = trainer.state_dict()
    state["scaler"]["scale"] = 2.0**120
    trainer.load_state_dict(state)
    before = weights(trainer)
    trainer.train_epoch()
    assert trainer.state_dict()["scaler"]["scale"] == 2.0**119
    assert all(torch.equal(weights(trainer)[name], before[name]) for name in before)
