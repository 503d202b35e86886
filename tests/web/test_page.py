"""The page in a browser: a real server process, keyboard, drop, paste, phone width and axe-core."""

import base64
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from playwright.sync_api import expect, sync_playwright
from required_tools import require_tool
from small_captioner import small_checkpoint, write_photos

from captioning.decoding import Sampling
from captioning.inference.captioner import Captioner
from captioning.inference.word_steps import find_concepts, trace_words

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = require_tool("chromium", CHROMIUM is not None)

PATIENCE = 120_000  # milliseconds; a busy computer is no failure
DROP = """([type, content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const event = type === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def seeing():
    """A tiny captioner with attention and concepts."""
    checkpoint = small_checkpoint(core="attention", concepts=2, image_size=128)
    concepts, vocabulary = checkpoint.model.decoder.concepts, checkpoint.vocabulary
    concepts.words[:] = torch.tensor([vocabulary.id(word) for word in ("dog", "cat", "hat")])
    concepts.W_cv.zero_()
    concepts.b_c[:] = torch.tensor([0.0, 1.0, 2.0])
    return Captioner(checkpoint)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "photos"
    write_photos(folder, 5)
    (folder / "photo6.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.fixture(scope="module")
def url(seeing, photos):
    """The address of ``captioning web``, which ends without an error after Ctrl-C."""
    model = photos.parent / "model"
    seeing.save_pretrained(model)
    words = [
        "web",
        photos,
        "--model",
        model,
        "--port",
        "0",
        "--workers",
        "1",
        "--max-seconds",
        "600",
    ]
    command = [sys.executable, "-m", "captioning", *map(str, words)]
    command += ["--device", "cpu", "--precision", "float32", "--backend", "torch"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        yield re.search(r"http://\S+", line)[0]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().split() == ["Stopped."]
    assert process.returncode == 0


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=PATIENCE)
    options = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, url):
    """Open the page; every request must go to its server, and no script may fail."""
    pages, problems = [], []

    def open_it(**options):
        page = browser.new_page(**options)
        page.set_default_timeout(PATIENCE)
        pages.append(page)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((url, "blob:", "data:")) or problems.append(request.url)
            ),
        )
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_it
    for page in pages:
        page.close()
    assert problems == []


def percent(text):
    return float(text.replace("<", "").replace("%", "").strip()) / 100


def add_image(page, path):
    page.click("#images-tab")
    page.set_input_files("#files", path)
    page.wait_for_selector("#words button")


def test_keyboard_captions_an_image_and_shows_attention(open_page, seeing, photos):
    page, path = open_page(), photos / "photo1.jpg"
    page.focus("#folder-tab")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(path)
    page.wait_for_selector("#words button")
    caption = seeing.caption(path).captions[0]
    assert page.locator("#words").inner_text().split() == [*caption.words, "end"]
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.parentElement.id") == "words":
            break
    page.keyboard.press("ArrowRight")
    steps = trace_words(seeing, path, caption.words)
    expect(page.locator("#looked")).to_contain_text(f"“{caption.words[1]}”")
    expect(page.locator("#looked")).to_contain_text("The model looked mostly at the")
    bars = page.locator("#bars li")
    names = [word or "end of caption" for word, _ in steps[1].likely]
    assert bars.locator(".word").all_inner_texts() == names
    for text, (_, probability) in zip(
        bars.locator(".number").all_inner_texts(), steps[1].likely, strict=True
    ):
        assert percent(text) == pytest.approx(probability, rel=0.06, abs=2e-6)
    veil = page.evaluate("""() => {
      const canvas = document.getElementById("attention");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return [...data].filter((_, index) => index % 4 === 3);
    }""")
    weights = steps[1].attention.flatten()
    assert len(veil) == len(weights)
    assert veil[int(weights.argmax())] == 0 < max(veil)


def test_captions_have_probabilities_and_can_be_chosen(open_page, seeing, photos):
    page = open_page()
    add_image(page, photos / "photo2.jpg")
    shown = page.locator("#captions button")
    assert shown.count() == 5
    for text in shown.locator(".number").all_inner_texts():
        assert 0 <= percent(text) <= 1
    words = shown.nth(2).locator("span").first.inner_text().split()
    shown.nth(2).click()
    expect(page.locator("#words button")).to_have_text([*words, "end"])
    concepts = find_concepts(seeing, photos / "photo2.jpg")
    expect(page.locator("#concepts .word")).to_have_text([word for word, _ in concepts])


def test_sampling_follows_temperature_and_seed(open_page, seeing, photos):
    page, path = open_page(), photos / "photo3.jpg"
    add_image(page, path)
    page.click("#search summary")
    page.select_option("[name=search]", "sampling")
    page.fill("[name=temperature]", "0.5")
    page.fill("[name=n]", "3")
    page.fill("[name=seed]", "6")
    page.get_by_role("button", name="Next").click()
    seeded = Captioner(seeing.checkpoint, seed=7)
    search = Sampling(temperature=0.5, n=3, max_length=8)
    found = [caption.text for caption in seeded.caption(path, search=search).captions]
    expect(page.locator("#captions button span:first-child")).to_have_text(found)
    page.fill("[name=temperature]", "0")
    page.keyboard.press("Tab")
    expect(page.locator("#settings-error")).to_contain_text("Temperature is 0.0; it must be")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_dropped_and_pasted_images_are_captioned(open_page, photos, kind):

    page = open_page()
    content = base64.b64encode((photos / "photo1.jpg").read_bytes()).decode()
    page.evaluate(DROP, [kind, content, "dropped.jpg"])
    page.wait_for_selector("#words button")
    expect(page.locator("#gallery button")).to_have_count(1)


def test_damaged_upload_is_a_message(open_page, photos):
    page = open_page()
    page.click("#images-tab")
    page.set_input_files("#files", [photos / "photo6.jpg", photos / "photo1.jpg"])
    expect(page.locator("#detail-error")).to_contain_text("Cannot read 'photo6.jpg'")
    page.locator("#gallery button").nth(1).click()
    page.wait_for_selector("#words button")
    expect(page.locator("#detail-error")).to_be_hidden()


def test_folder_is_captioned_corrected_and_saved(open_page, seeing, photos):
    page = open_page()
    for name in ("captions.jsonl", "corrections.jsonl"):
        (photos / name).unlink(missing_ok=True)
    page.focus("#start")
    page.keyboard.press("Enter")
    expect(page.locator("#folder-counts")).to_contain_text("5 of 6 captioned, 1 failed")
    first = page.get_by_label("Caption of photo1.jpg")
    expect(first).to_have_value(seeing.caption(photos / "photo1.jpg").text)
    first.focus()
    first.select_text()
    page.keyboard.type("two dogs play in the snow")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Caption of photo2.jpg")).to_be_focused()
    expect(page.locator("#folder-counts")).to_contain_text("1 corrected")
    page.fill("#filter-text", "two dogs")
    expect(page.locator("#rows li")).to_have_count(1)
    page.check("#save-corrected")
    page.focus("#save button[type=submit]")
    page.keyboard.press("Enter")
    expect(page.locator("#save-result")).to_contain_text("Wrote the captions of 1 image")
    page.uncheck("#save-corrected")
    page.click("#save button[type=submit]")
    expect(page.locator("#save-result")).to_contain_text("exists")
    page.click("#replace")
    expect(page.locator("#save-result")).to_contain_text("Wrote the captions of 5 images")
    saved = [json.loads(line) for line in (photos / "captions.jsonl").read_text().splitlines()]
    assert {row["file_name"]: row["text"] for row in saved}["photo1.jpg"] == (
        "two dogs play in the snow"
    )
    page.get_by_role("button", name="Use “").click()
    expect(page.locator("#folder-counts")).not_to_contain_text("corrected")
    page.fill("#filter-text", "photo3")
    page.get_by_role("button", name="Look closer at photo3.jpg").click()
    page.wait_for_selector("#words button")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_needs_no_scrolling_and_axe_finds_nothing(open_page, photos, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    findings = []
    for prepare in (lambda: None, lambda: add_image(page, photos / "photo1.jpg"),
                    lambda: page.click("#search summary")):  # fmt: skip
        prepare()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360
        found = Axe().run(page).response["violations"]
        findings += [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"]) for each in findings] == []
