"""Captions as arrays, against the same captions as lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from captioning.text.caption_arrays import CaptionArray, CaptionWords
from captioning.text.vocabulary import Vocabulary

NESTED = st.lists(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=4), max_size=5)


def to_lists(array):
    return [
        [
            array.ids[array.caption_starts[caption] : array.caption_starts[caption + 1]].tolist()
            for caption in range(array.image_starts[image], array.image_starts[image + 1])
        ]
        for image in range(len(array))
    ]


@given(NESTED)
def test_caption_array_of_lists_has_the_same_captions(images):
    array = CaptionArray.from_lists(images)
    assert to_lists(array) == images
    assert array.lengths.tolist() == [len(caption) for image in images for caption in image]


@given(NESTED, st.data())
def test_select_returns_captions_of_these_images(images, data):
    rows = data.draw(st.lists(st.integers(0, len(images) - 1) if images else st.nothing()))
    found = CaptionArray.from_lists(images).select(np.array(rows, int))
    assert to_lists(found) == [images[row] for row in rows]


@given(NESTED)
def test_keep_leaves_images_without_captions(images):
    array = CaptionArray.from_lists(images)
    found = array.keep(array.lengths > 2)
    assert to_lists(found) == [[c for c in image if len(c) > 2] for image in images]


@given(NESTED)
def test_surround_and_cut_change_each_caption(images):
    array = CaptionArray.from_lists(images)
    found = array.surround([7], [8, 9])
    assert to_lists(found) == [[[7, *caption, 8, 9] for caption in image] for image in images]
    assert to_lists(found.cut(array.lengths + 1)) == [[[7, *c] for c in i] for i in images]


def test_caption_words_encode_equals_vocabulary():
    captions = [["A red dog.", "..."], [], ["The dog runs"]]
    words = CaptionWords.tokenize(captions)
    vocabulary = Vocabulary.from_counts(words.counts(), min_count=2)
    assert vocabulary.words[4:] == ("dog",)
    assert words.of_image(0) == [["a", "red", "dog"]]
    assert to_lists(words.encode(vocabulary)) == [
        [vocabulary.encode(["a", "red", "dog"])],
        [],
        [vocabulary.encode(["the", "dog", "runs"])],
    ]
