"""The page in a browser: the server of `captioning web`, keyboard, drop, phone width, axe-core."""

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright
from required_tools import require_tool
from small_captioner import small_checkpoint, write_photos

from captioning.inference.captioner import Captioner
from captioning.inference.explanation_page import format_percent
from captioning.inference.word_steps import trace_words

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    require_tool("chromium", CHROMIUM is not None),
    pytest.mark.xdist_group("page"),  # one server and one browser are enough
]

PATIENCE = 60_000  # milliseconds; slow computers must not fail
START_SECONDS = 180  # until the server has its address; slow computers took 65
DROP = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const options = { dataTransfer: data, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", options));
}"""
DAMAGED = f"photo4 with {'a long name ' * 8}.jpg"
VEIL = """() => {
  const canvas = document.getElementById("attention");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [...data].filter((_, index) => index % 4 === 3);
}"""


@pytest.fixture(scope="module")
def captioner():
    """A tiny captioner with attention to 4x4 positions, and with concepts."""
    checkpoint = small_checkpoint(core="attention", concepts=2, image_size=128)
    concepts, vocabulary = checkpoint.model.decoder.concepts, checkpoint.vocabulary
    concepts.words[:] = torch.tensor([vocabulary.id(word) for word in ("dog", "cat", "hat")])
    return Captioner(checkpoint)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three images and a damaged one."""
    folder = tmp_path_factory.mktemp("page") / "photos"
    write_photos(folder, 3)
    (folder / DAMAGED).write_bytes((folder / "photo1.jpg").read_bytes()[:600])
    return folder


@pytest.fixture(scope="module")
def url(captioner, photos):
    """The address of ``captioning web``, which ends without an error after Ctrl-C."""
    model = photos.parent / "model"
    captioner.save_pretrained(model)
    options = f"--model {model} --port 0 --workers 1 --max-seconds 600 --device cpu"
    command = [sys.executable, "-m", "captioning", "web", str(photos), *options.split()]
    command += ["--precision", "float32", "--backend", "torch"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(START_SECONDS, process.kill)  # a silent server must not block
    timer.start()
    try:
        line = process.stderr.readline()
        timer.cancel()
        assert "Serving the page at http://localhost:" in line
        yield re.search(r"http://\S+", line)[0]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE / 1000)[1].split() == ["Stopped."]
        assert process.returncode == 0
    finally:  # whatever failed, the tests must end
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=PATIENCE)
    options = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=options, timeout=PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, url):
    """Open the page; every request must go to its server, and no script may fail."""
    pages, requests, errors = [], [], []

    def open_it(**options):
        page = browser.new_page(**options)
        page.set_default_timeout(PATIENCE)
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        # Playwright switches on its file chooser without waiting for the browser: long before use.
        page.on("filechooser", lambda chooser: None)
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_it
    for page in pages:
        page.close()
    assert errors == []
    assert [found for found in requests if not found.startswith((url, "blob:", "data:"))] == []
    assert f"{url}api/model" in requests


def add_images(page, *paths):
    page.click("#images-tab")
    page.set_input_files("#files", paths)


def test_keyboard_captions_an_image_and_moves_attention(open_page, captioner, photos):
    page, path = open_page(), photos / "photo1.jpg"
    page.locator("#folder-tab").press("ArrowLeft")
    expect(page.locator("#images-tab")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(path)
    words = captioner.caption(path).captions[0].words
    expect(page.locator("#words button")).to_have_text([*words, "end"])
    word = page.locator("#words button:focus")
    page.locator("#words button").first.focus()
    for index, step in list(enumerate(trace_words(captioner, path, words)))[1:3]:
        word.press("ArrowRight")
        expect(page.locator("#words [aria-pressed=true]")).to_have_text(words[index])
        expect(page.locator("#looked")).to_contain_text("The model looked mostly at the")
        likely = [word or "end of caption" for word, _ in step.likely]
        expect(page.locator("#bars .word")).to_have_text(likely)
        veil, weights = page.evaluate(VEIL), step.attention.flatten()
        assert len(veil) == len(weights) == 16
        assert veil[int(weights.argmax())] == 0 < veil[int(weights.argmin())]


def test_dropped_image_gets_captions_and_concepts(open_page, captioner, photos):
    page, path = open_page(), photos / "photo2.jpg"
    page.evaluate(DROP, [base64.b64encode(path.read_bytes()).decode(), "dropped.jpg"])
    expect(page.locator("#gallery button")).to_have_text([captioner.caption(path).text])
    expect(page.locator("#captions button")).to_have_count(5)
    third = page.locator("#captions button").nth(2)
    words = third.locator("span").first.inner_text().split()
    third.click()
    expect(page.locator("#words button")).to_have_text([*words, "end"])
    expect(page.locator("#concepts li")).not_to_have_count(0)


def test_percentages_are_those_of_the_explanation_page(open_page):
    shares = [1.0, 0.5, 0.0999, 0.0944, 0.00999, 0.00456, 0.000203, 0.00000123, 1e-9, 0.0]
    script = "async shares => shares.map((await import('/static/api.js')).percent)"
    assert open_page().evaluate(script, shares) == [format_percent(share) for share in shares]


def test_damaged_upload_is_a_message(open_page, photos):
    page = open_page()
    add_images(page, photos / DAMAGED, photos / "photo1.jpg")
    expect(page.locator("#detail-error")).to_contain_text(f"Cannot read '{DAMAGED}'")
    expect(page.locator("#gallery button").first).to_contain_text("Cannot read")
    expect(page.locator("#photo, #facts").locator("visible=true")).to_have_count(0)
    page.locator("#gallery button").nth(1).click()
    page.wait_for_selector("#words button")
    expect(page.locator("#detail-error")).to_be_hidden()
    expect(page.locator("#photo, #facts").locator("visible=true")).to_have_count(2)


def test_folder_is_captioned_corrected_and_saved(open_page, captioner, photos):
    page = open_page()
    page.locator("#start").press("Enter")
    expect(page.locator("#folder-counts")).to_have_text("3 of 4 captioned, 1 failed")
    first = page.get_by_label("Caption of photo1.jpg")
    second = page.get_by_label("Caption of photo2.jpg")
    expect(first).to_have_value(captioner.caption(photos / "photo1.jpg").text)
    first.select_text()
    page.keyboard.type("two dogs play in the snow")
    first.press("Enter")
    expect(second).to_be_focused()
    second.press("Enter")  # confirmed as it is
    expect(page.get_by_label("Caption of photo3.jpg")).to_be_focused()
    expect(page.locator("#folder-counts")).to_contain_text("1 corrected")
    page.locator("#save button[type=submit]").press("Enter")
    expect(page.locator("#save-result")).to_contain_text("Wrote the captions of 3 images")
    expect(page.locator("#save-result")).to_contain_text("1 has no caption.")
    correction = {"file_name": "photo1.jpg", "text": "two dogs play in the snow"}
    assert json.loads((photos / "corrections.jsonl").read_text()) == correction
    saved = [json.loads(line) for line in (photos / "captions.jsonl").read_text().splitlines()]
    texts = {row["file_name"]: row["text"] for row in saved}
    assert texts["photo1.jpg"] == "two dogs play in the snow"
    assert texts["photo2.jpg"] == captioner.caption(photos / "photo2.jpg").text


def test_late_list_keeps_the_focus_and_corrections(open_page):
    page, held = open_page(), []

    def hold_first(route):
        if held:
            route.continue_()
        else:
            held.append((route, route.fetch()))

    page.route("**/api/folder/rows?text=photo3*", hold_first)
    second, third = (page.get_by_label(f"Caption of photo{number}.jpg") for number in (2, 3))
    page.fill("#filter-text", "photo3")
    while not held:
        page.wait_for_timeout(10)
    third.fill("a late answer")
    second.focus()
    state = page.locator("li").filter(has=third).locator(".state")
    expect(state).to_have_text("✓ corrected")
    page.keyboard.type("not ")
    route, reply = held[0]
    assert "a late answer" not in reply.text()
    route.fulfill(response=reply)
    expect(page.get_by_label("Caption of photo1.jpg")).to_have_count(0)
    page.keyboard.type("lost")
    expect(second).to_have_value(re.compile("not lost"))
    expect(third).to_have_value("a late answer")


def test_saved_file_has_a_correction_that_is_on_its_way(open_page, photos):
    page, held = open_page(), []
    page.route("**/api/folder/correct", lambda route: held.append(route))  # noqa: PLW0108
    third = page.get_by_label("Caption of photo3.jpg")
    third.fill("saved at once")
    page.select_option("#save-format", "csv")
    page.locator("#save button[type=submit]").press("Enter")
    while not held:
        page.wait_for_timeout(10)
    held[0].continue_()
    expect(page.locator("#save-result")).to_contain_text("Wrote the captions of")
    assert "photo3.jpg,saved at once" in (photos / "captions.csv").read_text()


def test_correction_that_is_not_stored_stays_until_it_is(open_page):
    page = open_page()
    third = page.get_by_label("Caption of photo3.jpg")
    error = page.locator("li").filter(has=third).locator(".error")
    page.route("**/api/folder/correct", lambda route: route.abort())
    third.fill("a full disk")
    third.press("Enter")
    expect(error).to_have_text("The server does not answer. Check that it is still running.")
    page.unroute("**/api/folder/correct")
    page.request.post(page.url + "api/folder/correct", data={"id": 0, "text": "by another page"})
    page.locator("#start").press("Enter")
    expect(page.get_by_label("Caption of photo1.jpg")).to_have_value("by another page")
    expect(third).to_have_value("a full disk")
    third.press("Enter")
    expect(error).to_be_hidden()
    page.reload()
    expect(third).to_have_value("a full disk")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_page_fits_and_axe_finds_nothing_serious(open_page, photos, scheme):
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    findings = []
    for prepare in (
        lambda: page.wait_for_selector("#rows li"),
        lambda: add_images(page, photos / "photo1.jpg"),
        lambda: page.locator("#words button").nth(1).focus(),
        lambda: page.click("#search summary"),
    ):
        prepare()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        found = Axe().run(page).response["violations"]
        findings += [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"]) for each in findings] == []
