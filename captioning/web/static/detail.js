// One image: its captions, and for each word the attention and the probable next words.

import { byId, element, isUnreadable, percent, request, showError, track } from "./api.js";
import { ranksByProbability } from "./settings.js";

const VEIL = 0.7; // darkness of the parts of the image that get no attention
let model;
let image; // the image that is shown
let explanation;
let pending = new AbortController();

export function setUpDetail(description) {
  model = description;
  const figure = byId("photo").parentElement;
  figure.classList.toggle("crop", model.fit === "crop");
  byId("photo").addEventListener("load", ({ target }) => {
    figure.classList.toggle("wide", target.naturalWidth > target.naturalHeight);
    figure.classList.toggle("tall", target.naturalWidth <= target.naturalHeight);
  });
  byId("words").addEventListener("keydown", moveBetweenWords);
}

// Show an image: {file, url, captions, error, chosen}.
export function showImage(shown) {
  if (image !== shown) clear(); // the words of another image
  image = shown;
  byId("detail").hidden = !image;
  if (!image) return;
  if (byId("photo").src !== image.url) byId("photo").src = image.url;
  byId("photo").alt = image.captions[image.chosen]?.text ?? image.file.name;
  showError(byId("detail-error"), image.error && new Error(image.error));
  // A browser shows the readable part of a damaged image, with much space below it.
  byId("photo").parentElement.hidden = isUnreadable(image.error);
  byId("facts").hidden = !image.captions.length;
  listCaptions();
  const caption = image.captions[image.chosen];
  if (caption) explain(caption);
  else clear();
}

function clear() {
  explanation = undefined;
  pending.abort();
  byId("words").replaceChildren();
  byId("next").hidden = byId("concepts-part").hidden = true;
  byId("looked").textContent = "";
  byId("attention").hidden = true;
}

function listCaptions() {
  const largest = Math.max(...image.captions.map((caption) => caption.probability));
  byId("captions").replaceChildren(
    ...image.captions.map((caption, index) => {
      const button = element(
        "button",
        { type: "button", "aria-pressed": String(index === image.chosen) },
        element("span", {}, caption.text || "(no words)"),
        element("span", { className: "number" }, percent(caption.probability)),
        track(caption.probability / (largest || 1)),
      );
      button.addEventListener("click", () => {
        image.chosen = index;
        showImage(image);
        byId("captions").children[index].firstChild.focus();
      });
      return element("li", {}, button);
    }),
  );
  const order = ranksByProbability() ? "" : " The order also depends on n-gram reranking.";
  byId("captions-note").textContent = image.captions.length
    ? `Probability of the whole caption.${order}`
    : "";
}

async function explain(caption) {
  pending.abort();
  pending = new AbortController();
  const { signal } = pending;
  const form = new FormData();
  form.append("image", image.file);
  form.append("caption", caption.text);
  try {
    explanation = await request("/explain", { method: "POST", body: form, signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    clear();
    showError(byId("detail-error"), error);
    return;
  }
  // The browser cannot show every format that the server reads.
  if (!byId("photo").naturalWidth) byId("photo").src = explanation.thumbnail;
  listWords();
  listConcepts();
}

function listWords() {
  const buttons = explanation.steps.map((step, index) => {
    const button = element("button", { type: "button", "aria-pressed": "false" });
    button.textContent = step.word || "end";
    button.className = step.word ? "" : "end";
    button.tabIndex = index ? -1 : 0;
    button.addEventListener("pointerenter", () => selectWord(index));
    button.addEventListener("focus", () => selectWord(index));
    return button;
  });
  const focused = [...byId("words").children].indexOf(document.activeElement);
  byId("words").replaceChildren(...buttons);
  byId("attention").hidden = true;
  byId("next").hidden = true;
  byId("looked").textContent = model.attention
    ? "Point at a word, or use the arrow keys, to see where the model looked."
    : "Point at a word, or use the arrow keys, to see what else was probable.";
  buttons[Math.min(focused, buttons.length - 1)]?.focus(); // arrow keys still go to the words
}

function moveBetweenWords(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const buttons = [...byId("words").children];
  const present = buttons.indexOf(document.activeElement);
  if (!step || present < 0) return;
  event.preventDefault();
  buttons[(present + step + buttons.length) % buttons.length].focus();
}

function selectWord(index) {
  const step = explanation.steps[index];
  [...byId("words").children].forEach((button, each) => {
    button.setAttribute("aria-pressed", String(each === index));
    button.tabIndex = each === index ? 0 : -1;
  });
  byId("next").hidden = false;
  byId("next-title").textContent = index
    ? `Next word after “${explanation.words.slice(Math.max(0, index - 3), index).join(" ")}”`
    : "First word";
  byId("bars").replaceChildren(
    ...step.likely.map(({ word, probability }) =>
      bar(word || "end of caption", probability, percent(probability), [
        ...(word === step.word ? ["chosen"] : []),
        ...(word ? [] : ["end"]),
      ]),
    ),
  );
  const name = step.word ? `“${step.word}”` : "The end";
  const place = step.attention && ` The model looked mostly at the ${describePlace(step.attention)}.`;
  byId("looked").textContent = `${name}: ${percent(step.probability)}.${place ?? ""}`;
  drawAttention(step.attention);
}

function bar(word, share, number, classes = []) {
  return element(
    "li",
    { className: classes.join(" ") },
    element("span", { className: "word", title: word }, word),
    track(share),
    element("span", { className: "number" }, number),
  );
}

function listConcepts() {
  byId("concepts-part").hidden = !explanation.concepts.length;
  byId("concepts").replaceChildren(
    ...explanation.concepts.map(({ word, strength }) => bar(word, strength, strength.toFixed(2))),
  );
}

function drawAttention(map) {
  const canvas = byId("attention");
  canvas.hidden = !map;
  if (!map) return;
  const side = map.length;
  const largest = Math.max(...map.flat());
  canvas.width = canvas.height = side; // the browser scales it smoothly
  const pixels = new ImageData(side, side);
  map.flat().forEach((weight, cell) => {
    pixels.data[4 * cell + 3] = 255 * VEIL * (1 - weight / largest);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function describePlace(map) {
  const cells = map.flat();
  const best = cells.indexOf(Math.max(...cells));
  const third = (place) => Math.min(2, Math.floor((3 * (place + 0.5)) / map.length));
  const row = ["top", "middle", "bottom"][third(Math.floor(best / map.length))];
  const column = ["left", "center", "right"][third(best % map.length)];
  if (row === "middle" && column === "center") return "center";
  return column === "center" ? `${row}` : `${row} ${column}`;
}
