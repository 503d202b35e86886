"""Explanations of captions: maps, the beam, the page and the figures."""

import io
import math
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from drawn_images import draw
from external_features import external_checkpoint
from playwright.sync_api import sync_playwright
from required_tools import require_tool
from small_captioner import small_checkpoint

from captioning import draw_beam, draw_concepts, draw_next_words, draw_word_maps
from captioning.cli.main import main
from captioning.decoding import BeamSearch, DiverseBeamSearch, Greedy, Sampling
from captioning.errors import ConfigError
from captioning.inference.beam_tree import layout_beam
from captioning.inference.captioner import Captioner
from captioning.inference.explanation import explain
from captioning.inference.explanation_page import format_page, format_percent
from captioning.inference.occlusion_maps import occlusion_maps
from captioning.inference.results import Caption
from captioning.inference.word_steps import trace_words
from captioning.text.vocabulary import NEVER_GENERATED

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BEAM = BeamSearch(width=3, max_length=6, min_length=2)


@pytest.fixture(scope="module")
def attentive():
    """A captioner with attention over four positions and with concepts."""
    checkpoint = small_checkpoint(core="attention", image_size=64, search=BEAM, concepts=2)
    with torch.no_grad():
        checkpoint.model.decoder.concepts.words.copy_(torch.tensor([4, 6, 8]))
        checkpoint.model.decoder.concepts.b_c.fill_(1.0)
    return Captioner(checkpoint)


@pytest.fixture(scope="module")
def explanation(attentive):
    return explain(attentive, draw(1))


# --- the beam ---------------------------------------------------------------------------------


def keep_beam(captioner, image, search):
    """Return the log-probability of each beginning of a beam search, by running every prefix."""
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    levels = [{(): 0.0}]
    with torch.inference_mode():
        start = model.start(captioner.read_pixels(image).unsqueeze(0))
        for _ in range(search.max_length):
            longer = {}
            for prefix, total in levels[-1].items():
                state = start
                for token in (vocabulary.bos, *map(vocabulary.id, prefix)):
                    log_probs, state = model.decoder.step(torch.tensor([token]), state)
                for token, log_prob in enumerate(log_probs[0].tolist()):
                    if token not in (*NEVER_GENERATED, vocabulary.eos):
                        longer[(*prefix, vocabulary.words[token])] = total + log_prob
            best = sorted(longer, key=longer.get, reverse=True)[: search.width]
            levels.append({prefix: longer[prefix] for prefix in best})
    return levels


def test_beam_has_every_prefix_that_the_search_kept(attentive, explanation):
    levels = keep_beam(attentive, draw(1), BEAM)
    found = defaultdict(dict)
    for prefix, log_prob in explanation.beam.items():
        found[len(prefix)][prefix] = log_prob
    assert len(found) > 3
    for length, prefixes in found.items():
        assert prefixes == pytest.approx(levels[length], abs=1e-4)


@pytest.mark.parametrize(
    "search",
    [
        BEAM,
        Greedy(max_length=5),
        DiverseBeamSearch(groups=2, max_length=5),
        Sampling(n=3, max_length=5),
    ],
    ids=lambda search: type(search).__name__,
)
def test_caption_equals_that_of_the_captioner(attentive, search):
    expected = attentive.caption(draw(2), search=search).captions[0]
    explanation = explain(attentive, draw(2), search=search)
    assert explanation.caption.words == expected.words
    assert explanation.caption.log_prob == pytest.approx(expected.log_prob, abs=1e-5)
    assert explanation.found[0].words == expected.words
    for each in explanation.found:
        assert each.words in explanation.beam


def test_tree_has_a_row_for_each_branch(explanation):
    nodes = layout_beam(explanation)
    beam = [prefix for prefix in explanation.beam if prefix]
    assert len(nodes) == len(beam) + len(explanation.found)
    places = {(node.row, node.column) for node in nodes}
    assert len(places) == len(nodes)
    for node in nodes:
        assert node.column == 0 or (node.parent_row, node.column - 1) in places
    best = [node for node in nodes if node.rank == 0]
    assert {node.row for node in best} == {0}
    assert [node.label for node in best[:-1]] == list(explanation.caption.words)
    assert best[-1].label == f"#1  {explanation.found[0].score:.2f}"
    assert any(node.rank is None for node in nodes)


# --- maps, words and concepts -----------------------------------------------------------------


def test_occlusion_map_is_the_loss_of_a_covered_image(captioner):
    image = draw(3, size=(32, 32))  # the size of the encoder's input
    caption = captioner.caption(image).captions[0]
    maps = occlusion_maps(captioner, image, caption, side=4)
    covered = image.copy()
    covered.paste((128, 128, 128), (4, 12, 20, 28))  # cell (2, 1) and half of its neighbors
    before, after = (trace_words(captioner, each, caption.words) for each in (image, covered))
    assert maps.shape == (len(caption.words), 4, 4)
    for word_map, one, other in zip(maps, before, after, strict=False):
        change = math.log(one.probability / other.probability)
        assert float(word_map[2, 1]) == pytest.approx(change, abs=1e-4)
    assert maps.abs().max() > 0.01


def test_occlusion_map_needs_words_and_a_side_in_range(captioner):
    caption = captioner.caption(draw(3)).captions[0]
    with pytest.raises(ConfigError, match="side is 1; it must be from 2 to 64"):
        occlusion_maps(captioner, draw(3), caption, side=1)
    for text, message in (("a zebra", "zebra"), ("", "no words")):
        foreign = Caption(text, tuple(text.split()), 0.0, finished=True, word_log_probs=())
        with pytest.raises(ConfigError, match=message):
            occlusion_maps(captioner, draw(3), foreign)


def test_maps_are_attention_or_occlusion(attentive, explanation, captioner):
    assert explanation.map_kind == "attention"
    assert explanation.maps.shape == (len(explanation.caption.words), 2, 2)
    np.testing.assert_allclose(explanation.maps.sum((1, 2)), 1, atol=1e-5)
    plain = explain(captioner, draw(1))
    assert plain.map_kind == "occlusion"
    assert plain.maps.shape == (len(plain.caption.words), 7, 7)
    assert plain.concepts == ()
    assert len(explanation.concepts) == 2
    assert explanation.image.shape == (72, 96, 3)


def test_explanation_of_model_without_cnn_is_refused():
    with pytest.raises(ConfigError, match="reads features, not images"):
        explain(Captioner(external_checkpoint()), draw(1))


# --- the page ---------------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_page_shows_every_word_and_loads_nothing(explanation):
    text = format_page(explanation)
    page = Page(text)
    assert page.tags.count("button") == len(explanation.caption.words) + 2
    assert page.tags.count("path") == len(layout_beam(explanation))
    shown = "".join(page.texts)
    likely = {word or "(end)" for step in explanation.steps for word, _ in step.likely}
    for word in {*likely, *explanation.caption.words, *dict(explanation.concepts)}:
        assert word in shown
    assert {f"{strength:.2f}" for _, strength in explanation.concepts} <= set(page.texts)
    assert not page.addresses
    assert not re.findall(r"(?<!data)[:/]//|url\((?!data:)|@import", text)


def test_page_escapes_names_and_words(explanation):
    evil = "<script>alert(1)</script>\"'\x1b"
    words = (evil, *explanation.caption.words[1:])
    caption = replace(explanation.caption, text=" ".join(words), words=words)
    steps = tuple(
        replace(step, word=evil, likely=((evil, 0.5), *step.likely[1:]))
        for step in explanation.steps
    )
    beam = {tuple(evil for _ in prefix): value for prefix, value in explanation.beam.items()}
    found = tuple(replace(each, words=(evil,) * len(each.words)) for each in explanation.found[:1])
    text = format_page(
        replace(
            explanation,
            source=f"/photos/{evil}",
            caption=caption,
            steps=steps,
            beam=beam,
            found=found,
            concepts=((evil, 0.5),),
        )
    )
    assert Page(text).tags.count("script") == 1
    assert "\x1b" not in text
    assert "<script>alert" not in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"),
        (0.0999, "10 %"),
        (0.0944, "9.4 %"),
        (0.00999, "1.0 %"),
        (0.00456, "0.46 %"),
        (0.000203, "0.02 %"),
        (0.00000123, "0.00012 %"),
        (1e-9, "< 0.0001 %"),
    ],
)
def test_percent_below_ten_has_two_digits(share, text):
    assert format_percent(share) == text


@require_tool("chromium", CHROMIUM is not None)
def test_page_in_a_browser_shows_the_chosen_word(explanation, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(format_page(explanation), encoding="utf-8")
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: problems.append(request.url))
        page.goto(path.as_uri())
        page.locator(".word").first.focus()
        for number, step in enumerate(explanation.steps[:-1]):
            page.keyboard.press("ArrowRight")
            assert page.locator(".word[aria-pressed=true] b").inner_text() == step.word
            assert f"“{step.word}”" in page.locator(".reading").inner_text()
            assert f"var(--map{number})" in page.locator(".photo").get_attribute("style")
            rows = page.locator(".next:visible li span:first-child").all_inner_texts()
            assert rows == [word or "(end)" for word, _ in step.likely]
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        found = Axe().run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
        browser.close()
    assert [each for each in problems if not each.startswith(("file:", "data:"))] == []


def test_command_writes_a_page(model, images, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["explain", images[0], "-o", str(tmp_path / "page.html"), "--model", str(model)])
    assert stop.value.code == 0
    caption, message = capsys.readouterr().err.splitlines()
    assert message == f"Wrote {tmp_path / 'page.html'}."
    assert f"<h1>{caption}</h1>" in (tmp_path / "page.html").read_text()


def test_command_with_damaged_image_keeps_the_page(model, images, tmp_path, capsys):
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(SystemExit) as stop:
        main(["explain", images[3], "-o", str(tmp_path / "page.html"), "--model", str(model)])
    assert stop.value.code == 1
    assert "file is empty" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text() == "old"


# --- figures ----------------------------------------------------------------------------------


def render(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_figures_show_words_maps_and_bars(explanation):
    words = list(explanation.caption.words)
    maps, bars = draw_word_maps(explanation), draw_next_words(explanation)
    assert [axis.get_title() for axis in maps.axes if axis.get_title()] == words
    assert sum(len(axis.images) for axis in maps.axes) == 1 + len(words)
    assert [axis.get_title() for axis in bars.axes if axis.get_title()] == [*words, "(end)"]
    widths = [[bar.get_width() for bar in axis.patches] for axis in bars.axes]
    expected = [[share for _, share in step.likely] for step in explanation.steps]
    assert widths[: len(expected)] == expected
    concepts = draw_concepts(explanation)
    assert [bar.get_width() for bar in concepts.axes[0].patches] == pytest.approx(
        [strength for _, strength in explanation.concepts]
    )
    for figure in (maps, bars, concepts):
        assert render(figure).startswith(b"\x89PNG")


def test_figure_of_the_beam_has_every_node(explanation):
    figure = draw_beam(explanation)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == [node.label for node in layout_beam(explanation)]
    assert render(figure).startswith(b"\x89PNG")


def test_figure_of_concepts_needs_concepts(explanation):
    with pytest.raises(ConfigError, match="there are no concepts"):
        draw_concepts(replace(explanation, concepts=()))


def test_figures_show_dollar_signs_as_text(explanation):
    step = replace(explanation.steps[0], word="$x$", likely=(("$x$", 0.5),))
    figure = draw_next_words(replace(explanation, steps=(step,)))
    assert figure.axes[0].get_title() == r"\$x\$"
    assert render(figure).startswith(b"\x89PNG")
