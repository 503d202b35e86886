"""Training on several processes. Oracle: the same run in one process."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import failing_job
import process_job
import pytest
import torch

from captioning import processes
from captioning.cli.main import main
from captioning.datasets.batches import CaptionDataset
from captioning.errors import ConfigError
from captioning.features.cache import ArrayRows
from captioning.features.cached_model import CachedModel
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.split_encoder import split_encoder
from captioning.text.caption_arrays import CaptionArray
from captioning.training import batch_loss, gradients
from captioning.training.batch_loss import BatchLoss
from captioning.training.batch_parts import select_part
from captioning.training.step_sums import StepSums
from captioning.training.training_config import TrainingConfig

WORDS, SIZE, IMAGES = 12, 6, 7
RUNS = ("noisy", "stopped", "memory", "self_critical", "augmented")


def make_dataset():
    generator = torch.Generator().manual_seed(5)
    captions = [
        [
            [1, *torch.randint(4, WORDS, (2 + (image + i) % 5,), generator=generator).tolist(), 2]
            for i in range(2)
        ]
        for image in range(IMAGES)
    ]
    return CaptionDataset(CaptionArray.from_lists(captions))


def compute_gradients(monkeypatch, count, batch, **shape):
    """Return the gradient, the loss and the random state after it, with ``count`` processes."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 10, "hidden_size": 10, "attention_size": 10, "dropout": 0.3}
    decoder = Decoder(
        DecoderConfig(**{**sizes, **shape}), vocabulary_size=WORDS, feature_size=SIZE
    ).train()
    cache = ArrayRows(torch.randn(IMAGES, 1, 4, SIZE))
    config = TrainingConfig(doubly_stochastic_weight=0.5)
    loss = BatchLoss(CachedModel(decoder), cache, config)
    total, states = 0.0, set()
    for index in range(count):
        torch.manual_seed(1)  # the state is that of all processes
        monkeypatch.setattr(batch_loss, "process_index", lambda index=index: index)
        monkeypatch.setattr(batch_loss, "process_count", lambda: count)
        result = loss(batch, 0.0)
        result.loss.backward()
        total += float(result.loss.detach())
        states.add(torch.get_rng_state().numpy().tobytes())
    (state,) = states
    return [weight.grad for weight in decoder.parameters()], total, state


@pytest.mark.parametrize("count", [2, 3, 9])  # 9: more than images
@pytest.mark.parametrize(
    "shape",
    [
        {"core": "attention"},
        {"layers": 3, "recurrent_dropout": 0.2, "readout": "deep"},
    ],
    ids=["attention", "layers"],
)
def test_gradients_of_parts_add_up_to_that_of_the_batch(monkeypatch, shape, count):
    (batch,) = make_dataset().batches(100, per_image=2)
    expected, loss, state = compute_gradients(monkeypatch, 1, batch, **shape)
    found, sum_of_losses, found_state = compute_gradients(monkeypatch, count, batch, **shape)
    assert sum_of_losses == pytest.approx(loss, rel=1e-5)
    assert found_state == state
    for one, several in zip(expected, found, strict=True):
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-6)


def test_encoder_gradients_of_parts_add_up_to_that_of_the_batch(monkeypatch):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=64))
    front, tail = split_encoder(encoder, 2)
    with torch.no_grad():
        rows = front(torch.randint(256, (IMAGES, 3, 64, 64), dtype=torch.uint8)).grid
    sizes = DecoderConfig(core="attention", embedding_size=10, hidden_size=10, attention_size=10)
    decoder = Decoder(sizes, vocabulary_size=WORDS, feature_size=encoder.feature_size)
    model = CachedModel(decoder, tail).train()
    loss = BatchLoss(model, ArrayRows(rows[:, None]), TrainingConfig())
    (batch,) = make_dataset().batches(100, per_image=2)
    found = []
    for count in (1, 3):
        model.zero_grad()
        for index in range(count):
            torch.manual_seed(1)
            monkeypatch.setattr(batch_loss, "process_index", lambda index=index: index)
            monkeypatch.setattr(batch_loss, "process_count", lambda count=count: count)
            loss(batch, 0.0).loss.backward()
        found.append([weight.grad.clone() for weight in tail.parameters()])
    assert max(float(gradient.abs().max()) for gradient in found[0]) > 1e-3
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(three, one, rtol=1e-4, atol=1e-6)


def test_summed_gradients_of_a_cnn_update_the_same_weights(monkeypatch):
    monkeypatch.setattr(gradients, "process_count", lambda: 2)
    monkeypatch.setattr(gradients, "add_over_processes", lambda values: values)
    images = torch.rand(2, 3, 8, 8)
    trained = []
    for exchange in (False, True):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        network(images).square().sum().backward()
        if exchange:
            gradients.add_gradients_over_processes(network, StepSums(), stop=False)
        optimizer.step()
        trained.append(network.weight.detach())
    assert torch.equal(*trained)


@pytest.mark.parametrize("by_words", [False, True])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_parts_of_a_batch_contain_each_caption_once(count, by_words):
    (batch,) = make_dataset().batches(100, per_image=2)
    parts = [select_part(batch, index, count, by_words=by_words) for index in range(count)]
    busy = [part for part in parts if not part.part.idle]
    assert sum(part.token_share for part in parts) == pytest.approx(1)
    assert torch.cat([part.batch.images for part in busy]).tolist() == batch.images.tolist()
    tokens = torch.cat([part.part.tokens.index for part in busy])
    assert sorted(tokens.tolist()) == list(range(len(batch.targets)))
    for part in parts:
        assert torch.equal(part.batch.targets, batch.targets[part.part.tokens.index])
        assert torch.equal(part.batch.inputs.data, batch.inputs.data[part.part.tokens.index])


@pytest.mark.parametrize("by_words", [False, True])
def test_parts_of_a_batch_have_even_words_or_images(by_words):
    lengths = [4] * 4 + [1] * 8
    captions = [[[1, *[5] * (length - 1), 2]] for length in lengths]
    (batch,) = CaptionDataset(CaptionArray.from_lists(captions)).batches(100, seed=3)
    parts = [select_part(batch, index, 2, by_words=by_words).batch for index in range(2)]
    words = [sum(lengths[row] for row in part.images.tolist()) for part in parts]
    assert sum(words) == sum(lengths)
    assert (abs(words[0] - words[1]) <= max(lengths)) == by_words
    assert ([len(part.images) for part in parts] == [6, 6]) != by_words


@pytest.fixture(scope="module")
def outputs(trained, tmp_path_factory):
    """Folders of what one process and three processes wrote. Each resumes a run of the other."""
    one, three = folders = [tmp_path_factory.mktemp(name) for name in ("one", "three")]
    process_job.run_all(one, trained)
    shutil.copytree(one / "handed_over", three / "taken_over")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    words += [process_job.__file__, str(three), str(trained)]
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    job = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert job.returncode == 0, job.stderr[-3000:]
    shutil.copytree(three / "handed_over", one / "taken_over")
    process_job.resume(process_job.noisy(one / "taken_over"))
    return folders


def read_state(folder, name):
    return torch.load(folder / name / "state.pt", weights_only=True)["trainer"]


def read_values(folder, name, column):
    with (folder / name / "log.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def check_states(state, reference):
    """Compare the states of two runs. Weights may differ by rounding."""
    assert state["position"] == reference["position"]
    assert all(map(torch.equal, state["random"], reference["random"]))
    for weight, expected in reference["cached_model"].items():
        found = state["cached_model"][weight]
        if not expected.is_floating_point():
            assert torch.equal(found, expected), weight
            continue
        # Adam enlarges rounding where the gradient is close to 0, as in attention.
        relative, absolute = (1e-3, 3e-5) if "attention" in weight else (1e-4, 1e-5)
        limit = relative * float(expected.norm()) + absolute
        assert float((found - expected).norm()) <= limit, weight


@pytest.mark.parametrize("name", RUNS)
def test_three_processes_train_as_one_process(outputs, name):
    one, three = (read_state(folder, name) for folder in outputs)
    check_states(three, one)
    for column in ("loss", "reward", "CIDEr"):
        losses = [read_values(folder, name, column) for folder in outputs]
        assert losses[1] == pytest.approx(losses[0], abs=1e-4), column


def test_only_the_main_process_reports_the_number(outputs):
    one, three = ((folder / "messages.txt").read_text().splitlines() for folder in outputs)
    assert three[0] == "Training in 3 processes."
    assert not any("processes" in line for line in one)


def test_stopped_processes_resume_to_the_same_weights(outputs):
    for folder in outputs:
        whole, stopped = (read_state(folder, name) for name in ("noisy", "stopped"))
        for weight, expected in whole["cached_model"].items():
            assert torch.equal(stopped["cached_model"][weight], expected), weight


@pytest.mark.parametrize("index", [0, 1], ids=["three_to_one", "one_to_three"])
def test_run_resumed_by_another_number_ends_the_same(outputs, index):
    check_states(read_state(outputs[index], "taken_over"), read_state(outputs[0], "noisy"))


@pytest.mark.parametrize("file", ["captions.json", "scores.txt"])
def test_three_processes_evaluate_as_one_process(outputs, file):
    one, three = ((folder / file).read_text() for folder in outputs)
    assert three == one


@pytest.mark.parametrize(
    ("variable", "value", "flag"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", r"--mixed_precision \(bf16\)"),
        ("ACCELERATE_USE_FSDP", "true", r"--use_fsdp \(true\)"),
    ],
)
def test_unused_flag_of_accelerate_launch_is_refused(monkeypatch, variable, value, flag):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    processes.refuse_unused_options()
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"with {flag}, which has no effect"):
        processes.refuse_unused_options()
    with pytest.raises(SystemExit) as stop:
        main(["info"])
    assert stop.value.code != 0


def test_error_of_one_process_ends_all_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "3",
    }
    job |= {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, failing_job.__file__],
            env={**os.environ, **job, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(3)
    ]
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, -9]
    main, other = (json.loads(text) for text in printed[:2])
    assert main[:-1] == [
        "DataError: no captions",
        "DataError: process 2 of 3: no images",
        "TrainingStoppedError: process 2 of 3: stopped",
        "TrainingError: diverged",
        "done",
    ]
    assert other[:-1] == ["exit 1", "exit 1", "exit 75", "exit 1", "done"]
    for text in (main[-1], other[-1]):
        assert text.startswith("TrainingError: lost the connection to another process of the job")
        assert text.endswith("Run the same command again to continue.")
