// The images of a folder: progress, corrections, and files of captions.

import { byId, element, hideIfUnreadable, post, request, showError } from "./api.js";
import { addFiles } from "./images.js";

const INTERVAL = 700; // milliseconds between two questions about progress
const made = new Map(); // rows by the number of their image
let rows = []; // of the list, in order
let listed = 0; // number of the last request for rows; older answers are dropped
let listing = Promise.resolve(); // until the answer to this request is shown
let asked = 0; // number of the last question about progress; older answers are dropped
let timer; // of the next question about progress
let running = false;
let outdated = false; // whether there may be captions that the rows do not show
let edits = 0; // increases when a correction is sent, and when it is answered

export async function setUpFolder(model) {
  byId("no-folder").hidden = model.folder;
  byId("with-folder").hidden = !model.folder;
  if (!model.folder) return;
  byId("start").addEventListener("click", startOrStop);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("filter-text").addEventListener("input", () => list());
  byId("filter-state").addEventListener("change", () => list());
  byId("more").addEventListener("click", () => list(rows.length));
  byId("save").addEventListener("submit", (event) => {
    event.preventDefault();
    save(false);
  });
  byId("save").addEventListener("change", () => showSaved(""));
  byId("replace").addEventListener("click", () => save(true));
  await Promise.all([showProgress(), list()]);
}

async function startOrStop() {
  try {
    await post(`/api/folder/${running ? "stop" : "start"}`);
    outdated = true; // the run may be over before the next question
    await showProgress();
  } catch (error) {
    showError(byId("folder-error"), error);
  }
}

async function showProgress() {
  clearTimeout(timer);
  asked += 1;
  const present = asked;
  let pause = INTERVAL;
  try {
    const status = await request("/api/folder");
    if (present !== asked) return;
    showStatus(status);
    outdated ||= running;
    if (outdated) await refresh();
    if (present === asked) outdated = running;
  } catch (error) {
    if (present !== asked) return;
    showError(byId("folder-error"), error);
    pause *= 5;
  }
  if (outdated && present === asked) timer = setTimeout(showProgress, pause);
}

function showStatus(status) {
  ({ running } = status);
  const { images, captioned, failed, corrected } = status;
  const left = images - captioned;
  byId("folder-name").textContent = status.folder;
  byId("folder-progress").max = images;
  byId("folder-progress").value = captioned + failed;
  const parts = [`${captioned} of ${images} captioned`];
  if (failed) parts.push(`${failed} failed`);
  if (corrected) parts.push(`${corrected} corrected`);
  byId("folder-counts").textContent = parts.join(", ");
  let label = captioned || failed ? `Caption the other ${left - failed}` : `Caption ${images}`;
  if (failed === left) label = "Try the failed ones again";
  byId("start").textContent = running ? "Stop" : label;
  byId("start").hidden = !running && !left;
  showError(byId("folder-error"), status.error && new Error(status.error));
}

// Return some rows with all corrections; nothing if a later request replaces the list.
async function findRows(offset, present) {
  const query = new URLSearchParams({
    text: byId("filter-text").value,
    state: byId("filter-state").value,
    offset,
  });
  for (;;) {
    const before = edits;
    const found = await request(`/api/folder/rows?${query}`);
    if (present !== listed) return undefined;
    if (before === edits) return found; // otherwise it may be older than a correction
  }
}

function list(offset = 0) {
  listed += 1;
  listing = showRows(offset, listed);
  return listing;
}

async function showRows(offset, present) {
  try {
    const found = await findRows(offset, present);
    if (found) placeRows(found, offset > 0);
  } catch (error) {
    showError(byId("folder-error"), error);
  }
}

// Update the images that are shown, without touching a caption that is being edited.
async function refresh() {
  const present = listed;
  await listing; // an answer that is older must not come later
  const found = { rows: [], total: 0 };
  for (const wanted = Math.max(1, rows.length); found.rows.length < wanted; ) {
    const page = await findRows(found.rows.length, present);
    if (!page) return;
    found.total = page.total;
    found.rows.push(...page.rows);
    if (!page.rows.length) break;
  }
  placeRows(found, false);
}

// Show rows. No element that stays is moved: it would lose the focus, and with it a person's keys.
function placeRows(found, keepOthers) {
  const shown = new Set(found.rows.map(rowOf));
  for (const row of rows) {
    if (keepOthers || row.item.contains(document.activeElement)) shown.add(row);
    else if (!shown.has(row)) row.item.remove();
  }
  rows = [...shown].sort((one, other) => one.data.id - other.data.id);
  rows.forEach((row, index) => {
    const present = byId("rows").children[index];
    if (present !== row.item) byId("rows").insertBefore(row.item, present ?? null);
  });
  showCount(found.total);
}

function rowOf(data) {
  if (!made.has(data.id)) made.set(data.id, makeRow(data));
  const row = made.get(data.id);
  show(row, data);
  return row;
}

function showCount(total) {
  byId("filter-count").textContent = `${total} image${total === 1 ? "" : "s"}`;
  byId("more").hidden = rows.length >= total;
}

function makeRow(data) {
  // "unsaved" is the correction that is not stored yet.
  const row = { data, unsaved: null, saving: Promise.resolve() };
  const source = `/api/folder/thumbnail?id=${data.id}`;
  const picture = hideIfUnreadable(element("img", { alt: "", loading: "lazy", src: source }));
  const look = element("button", { type: "button", className: "picture" }, picture);
  look.setAttribute("aria-label", `Look closer at ${data.file_name}`);
  look.addEventListener("click", () => lookCloser(row));
  row.text = element("textarea", { rows: 2, "aria-label": `Caption of ${data.file_name}` });
  row.text.addEventListener("keydown", (event) => editKey(event, row));
  row.text.addEventListener("change", () => correct(row, row.text.value));
  row.text.addEventListener("blur", () => show(row, row.data));
  row.error = element("p", { className: "error", hidden: true });
  row.state = element("span", { className: "state quiet" });
  row.undo = element("button", { type: "button", className: "undo" });
  row.undo.addEventListener("click", () => correct(row, ""));
  const name = element("span", { className: "name quiet", title: data.file_name }, data.file_name);
  const under = element("div", { className: "under" }, name, row.state);
  row.item = element("li", {}, look, row.text, row.error, row.undo, under);
  return row;
}

function show(row, data) {
  row.data = data;
  row.item.className = data.state;
  const isEdited = document.activeElement === row.text || row.unsaved !== null;
  if (!isEdited && row.text.value !== data.caption) row.text.value = data.caption;
  row.text.hidden = data.state === "failed" && !isEdited;
  row.text.placeholder = data.state === "waiting" ? "No caption yet" : "";
  if (row.unsaved === null) showError(row.error, data.error && new Error(data.error));
  row.state.textContent = { corrected: "✓ corrected", failed: "failed" }[data.state] ?? "";
  row.undo.hidden = !data.corrected || !data.generated;
  row.undo.textContent = `Use “${data.generated}” again`;
}

function editKey(event, row) {
  if (event.key === "Escape") {
    row.text.value = row.data.caption;
    row.unsaved = null;
    show(row, row.data);
  } else if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    if (row.unsaved === row.text.value) correct(row, row.unsaved); // the last attempt has failed
    const next = rows.slice(rows.indexOf(row) + 1).find((each) => !each.text.hidden);
    if (next) next.text.focus();
    else row.text.blur();
    if (next) next.text.select();
  }
}

function correct(row, text) {
  row.unsaved = text;
  row.saving = row.saving.then(() => store(row, text)); // in the order of the corrections
}

async function store(row, text) {
  edits += 1;
  try {
    const data = await post("/api/folder/correct", { id: row.data.id, text });
    if (row.unsaved === text) row.unsaved = null;
    show(row, data);
  } catch (error) {
    showError(row.error, error);
  }
  edits += 1;
  showProgress();
}

async function lookCloser(row) {
  try {
    const reply = await fetch(`/api/folder/image?id=${row.data.id}`);
    if (!reply.ok) throw new Error((await reply.json()).error);
    const content = await reply.blob();
    addFiles([new File([content], row.data.file_name, { type: content.type })]);
  } catch (error) {
    showError(row.error, error);
  }
}

async function save(overwrite) {
  showSaved("");
  const format = byId("save-format").value;
  const request = { format, corrected_only: byId("save-corrected").checked, overwrite };
  try {
    await Promise.all([...made.values()].map((row) => row.saving)); // the last one may be on its way
    if ([...made.values()].some((row) => row.unsaved !== null)) {
      throw new Error("A correction is not stored yet. Store it again, or undo it with Escape.");
    }
    const { output, written, kept, failed, error } = await post("/api/folder/save", request);
    const parts = [`Wrote the captions of ${written} image${written === 1 ? "" : "s"}: ${output}.`];
    if (kept) parts.push(`${kept} already had captions, which were kept.`);
    if (failed) parts.push(`${failed} ${failed === 1 ? "has" : "have"} no caption. ${error}`);
    showSaved(parts.join(" "));
    byId("replace").hidden = !kept;
  } catch (error) {
    showSaved(error.message, true);
    byId("replace").hidden = error.status !== 409;
  }
}

function showSaved(text, isError = false) {
  byId("save-result").textContent = text;
  byId("save-result").classList.toggle("error", isError);
  byId("replace").hidden = true;
}
