// Images that a person drops, pastes or chooses, and their captions.

import { byId, element, hideIfUnreadable, isUnreadable } from "./api.js";
import { request, sentence, showError } from "./api.js";
import { showImage } from "./detail.js";
import { searchQuery } from "./settings.js";

const AT_A_TIME = 8; // requests; the server captions them together
const DELAY = 250; // milliseconds between a change of a setting and the new captions
const images = [];
let selected;
let round = 0; // increases when the settings change
let timer;
let maxBytes;

export function setUpImages(description) {
  maxBytes = description.max_bytes;
  byId("files").addEventListener("change", ({ target }) => {
    addFiles(target.files);
    target.value = "";
  });
  document.addEventListener("paste", ({ clipboardData }) => addFiles(clipboardData.files));
  for (const name of ["dragover", "drop", "dragleave"]) {
    document.addEventListener(name, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      document.body.classList.toggle("dragging", name === "dragover");
      if (name === "drop") addFiles(event.dataTransfer.files);
    });
  }
}

export function addFiles(files) {
  const added = [...files].map((file) => ({
    file,
    url: URL.createObjectURL(file),
    captions: [],
    chosen: 0,
    error: "",
    waiting: true,
  }));
  if (!added.length) return;
  images.push(...added);
  document.body.classList.add("has-images");
  byId("images-tab").click();
  byId("gallery").hidden = false;
  byId("gallery").append(...added.map(makeItem));
  select(added[0]);
  captionAll(added);
}

export function captionAgain() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    round += 1;
    captionAll(images);
  }, DELAY);
}

function makeItem(image) {
  image.picture = hideIfUnreadable(element("img", { src: image.url, alt: "" }));
  image.text = element("span");
  const button = element("button", { type: "button" }, image.picture, image.text);
  button.addEventListener("click", () => select(image));
  image.button = button;
  update(image);
  return element("li", {}, button);
}

function update(image) {
  image.text.textContent = image.waiting
    ? `${image.file.name} …`
    : sentence(image.error) || image.captions[0].text || "(no words)";
  image.text.classList.toggle("error", Boolean(image.error));
  image.button.setAttribute("aria-pressed", String(image === selected));
}

function select(image) {
  selected = image;
  images.forEach(update);
  showImage(image);
}

async function captionAll(list) {
  const present = round;
  const waiting = list.values();
  const query = searchQuery();
  showError(byId("settings-error"));
  const work = async () => {
    for (const image of waiting) {
      if (present === round) await captionOne(image, query, present);
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, work));
}

async function captionOne(image, query, present) {
  let captions = [];
  let message = "";
  try {
    const form = new FormData();
    form.append("image", image.file);
    if (image.file.size > maxBytes) {
      const limit = (maxBytes / 1e6).toFixed(0);
      throw new Error(`The file is larger than ${limit} MB, the limit of the server. Shrink it.`);
    }
    const reply = await request(`/caption?${query}`, { method: "POST", body: form });
    ({ captions } = reply.results[0]);
  } catch (error) {
    ({ message } = error);
    if (error.status === 422 && !isUnreadable(message)) {
      showError(byId("settings-error"), error);
      byId("search").open = true;
    }
  }
  if (present !== round) return; // the settings have changed meanwhile
  Object.assign(image, { captions, error: message, chosen: 0, waiting: false });
  update(image);
  if (image === selected) showImage(image);
}
