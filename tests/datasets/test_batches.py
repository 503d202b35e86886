"""Batches of captions: completeness, order, flips, and weights."""

from collections import Counter

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from captioning.datasets.batches import CaptionDataset, find_hflip_tokens
from captioning.errors import DataError
from captioning.text.caption_arrays import CaptionArray
from captioning.text.vocabulary import Vocabulary

CAPTIONS = [
    [[1, 4, 5, 2], [1, 6, 2], [1, 4, 4, 4, 4, 2]],
    [],
    [[1, 7, 2]],
    [[1, 8, 9, 2], [1, 9, 2]],
]


def dataset_of(captions, **settings):
    return CaptionDataset(CaptionArray.from_lists(captions), **settings)


def unpacked(batch):
    """Yield (image, tokens) of each caption, joined from inputs and targets."""
    inputs, lengths = pad_packed_sequence(batch.inputs, batch_first=True)
    packed = batch.inputs
    targets, _ = pad_packed_sequence(
        PackedSequence(
            batch.targets, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        ),
        batch_first=True,
    )
    for row, length in enumerate(lengths.tolist()):
        image = int(batch.images[batch.image_index[row]])
        assert inputs[row, 1:length].tolist() == targets[row, : length - 1].tolist()
        yield image, (int(inputs[row, 0]), *targets[row, :length].tolist())


def epoch(dataset, size, **settings):
    return [pair for batch in dataset.batches(size, **settings) for pair in unpacked(batch)]


@pytest.mark.parametrize("per_image", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_epoch_has_every_caption_once_with_its_image(size, per_image):
    expected = Counter(
        (image, tuple(tokens)) for image, captions in enumerate(CAPTIONS) for tokens in captions
    )
    assert Counter(epoch(dataset_of(CAPTIONS), size, per_image=per_image)) == expected


@pytest.mark.parametrize(("size", "per_image"), [(1, 1), (4, 2), (5, 5), (3, 5)])
def test_batch_count_and_size_match_the_arguments(size, per_image):
    dataset = dataset_of(CAPTIONS)
    batches = list(dataset.batches(size, per_image=per_image))
    assert len(batches) == dataset.batch_count(size, per_image)
    assert all(len(batch) <= max(size, per_image) for batch in batches)
    assert all(len(set(batch.images.tolist())) == len(batch.images) for batch in batches) or (
        per_image == 1
    )


def test_order_depends_only_on_seed_and_epoch():
    dataset = dataset_of([[[1, i, 2]] for i in range(4, 40)])
    torch.manual_seed(1)
    first = epoch(dataset, 4, seed=3, epoch=2)
    torch.manual_seed(2)
    assert epoch(dataset, 4, seed=3, epoch=2) == first
    assert epoch(dataset, 4, seed=3, epoch=3) != first
    assert epoch(dataset, 4, seed=4, epoch=2) != first


def test_flipped_view_swaps_left_and_right():
    vocabulary = Vocabulary.build([["dog", "left", "right"]], min_count=1)
    dog, left, right = (vocabulary.id(word) for word in ("dog", "left", "right"))
    dataset = dataset_of(
        [[[1, left, dog, right, 2]]] * 40, hflip_tokens=find_hflip_tokens(vocabulary)
    )
    seen = set()
    for batch in dataset.batches(1, views=4):
        (pair,) = unpacked(batch)
        seen.add((int(batch.views[0]), int(batch.flipped[0]), pair[1]))
    plain, exchanged = (1, left, dog, right, 2), (1, right, dog, left, 2)
    assert seen == {(0, 0, plain), (1, 1, exchanged), (2, 0, plain), (3, 1, exchanged)}


def test_batches_have_no_flipped_view_by_default():
    dataset = dataset_of(CAPTIONS)
    assert all(not batch.views.any() for batch in dataset.batches(2))


def test_find_hflip_tokens_needs_both_words():
    assert find_hflip_tokens(Vocabulary.build([["left", "dog"]], min_count=1)) == {}


def test_dataset_without_captions_is_refused():
    with pytest.raises(DataError, match="has no captions"):
        dataset_of([[], []])


@pytest.mark.parametrize("weight", [1, 3])
@pytest.mark.parametrize("per_image", [1, 2])
def test_weights_set_how_often_images_occur(per_image, weight):
    captions = [[[1, i, 2]] for i in range(4, 204)]
    dataset = dataset_of(captions, weights=[1.0] * 50 + [float(weight)] * 50 + [0.25] * 100)
    epochs = [epoch(dataset, 8, per_image=per_image, epoch=number) for number in range(40)]
    assert {len(own) for own in epochs} == {50 + 50 * weight + 25}
    for own in epochs:
        counts = Counter(image for image, _ in own)
        assert all(counts[image] == 1 for image in range(50))
        assert all(counts[image] == weight for image in range(50, 100))
        assert all(counts[image] <= 1 for image in range(100, 200))
    rare = Counter(image for own in epochs for image, _ in own if image >= 100)
    assert len(rare) == 100  # every image occurs
    assert max(rare.values()) < 25  # of 40 epochs; 10 are expected
    batches = list(dataset.batches(8, per_image=per_image))
    assert len(batches) == dataset.batch_count(8, per_image)


@pytest.mark.parametrize("per_image", [1, 2, 5])
def test_weights_apply_to_every_caption_of_an_image(per_image):
    captions = [[[1, 4 + image, 20 + n, 2] for n in range(1 + image % 5)] for image in range(10)]
    dataset = dataset_of(captions, weights=[2.0] * 5 + [1.0] * 5)
    expected = Counter(
        (image, tuple(tokens))
        for image, own in enumerate(captions)
        for tokens in own * (2 if image < 5 else 1)
    )
    found = list(dataset.batches(6, per_image=per_image))
    assert Counter(pair for batch in found for pair in unpacked(batch)) == expected
    assert len(found) == dataset.batch_count(6, per_image)


def test_weights_that_give_an_empty_epoch_are_refused():
    with pytest.raises(DataError, match=r"lowest is 0\.01"):
        dataset_of(CAPTIONS, weights=[0.01] * 4)
