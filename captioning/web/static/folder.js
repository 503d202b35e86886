// The images of a folder: progress, corrections, and files of captions.

import { byId, element, hideIfUnreadable, post, request, showError } from "./api.js";
import { addFiles } from "./images.js";

const INTERVAL = 700; // milliseconds between two questions about progress
let rows = []; // of the list, in order
let listed = 0; // number of the last request for rows; older answers are dropped
let running = false;
let firstRows = Promise.resolve(); // the rows before anything is captioned

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
  firstRows = list();
  await Promise.all([showProgress(), firstRows]);
}

async function startOrStop() {
  try {
    await firstRows; // a late answer would hide the captions
    await post(`/api/folder/${running ? "stop" : "start"}`);
    await showProgress(true); // the run may be over already
  } catch (error) {
    showError(byId("folder-error"), error);
  }
}

async function showProgress(started = false) {
  let status;
  try {
    status = await request("/api/folder");
  } catch (error) {
    showError(byId("folder-error"), error);
    if (running) setTimeout(showProgress, 5 * INTERVAL);
    return;
  }
  const wasRunning = running;
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
  if (running || wasRunning || started) await refresh();
  if (running) setTimeout(showProgress, INTERVAL);
}

const query = (offset) =>
  new URLSearchParams({
    text: byId("filter-text").value,
    state: byId("filter-state").value,
    offset,
  });

async function list(offset = 0) {
  listed += 1;
  const present = listed;
  try {
    const found = await request(`/api/folder/rows?${query(offset)}`);
    if (present !== listed) return;
    const created = found.rows.map(makeRow);
    rows = offset ? [...rows, ...created] : created;
    byId("rows").replaceChildren(...rows.map((row) => row.item));
    showCount(found.total);
  } catch (error) {
    showError(byId("folder-error"), error);
  }
}

// Update the images that are shown, without touching a caption that is being edited.
async function refresh() {
  const present = listed;
  for (let offset = 0; offset < Math.max(1, rows.length); ) {
    const found = await request(`/api/folder/rows?${query(offset)}`);
    if (present !== listed) return;
    found.rows.forEach((data, index) => {
      const row = rows[offset + index];
      if (row?.data.id === data.id) show(row, data);
      else if (!row) rows.push(makeRow(data));
    });
    if (byId("rows").children.length !== rows.length) {
      byId("rows").replaceChildren(...rows.map((row) => row.item));
    }
    showCount(found.total);
    offset += Math.max(1, found.rows.length);
    if (!found.rows.length) return;
  }
}

function showCount(total) {
  byId("filter-count").textContent = `${total} image${total === 1 ? "" : "s"}`;
  byId("more").hidden = rows.length >= total;
}

function makeRow(data) {
  const row = { data, saving: Promise.resolve() };
  const source = `/api/folder/thumbnail?id=${data.id}`;
  const picture = hideIfUnreadable(element("img", { alt: "", loading: "lazy", src: source }));
  const look = element("button", { type: "button", className: "picture" }, picture);
  look.setAttribute("aria-label", `Look closer at ${data.file_name}`);
  look.addEventListener("click", () => lookCloser(row));
  row.text = element("textarea", { rows: 2, "aria-label": `Caption of ${data.file_name}` });
  row.text.addEventListener("keydown", (event) => editKey(event, row));
  row.text.addEventListener("change", () => correct(row, row.text.value));
  row.error = element("p", { className: "error", hidden: true });
  row.state = element("span", { className: "state quiet" });
  row.undo = element("button", { type: "button", className: "undo" });
  row.undo.addEventListener("click", () => correct(row, ""));
  const name = element("span", { className: "name quiet", title: data.file_name }, data.file_name);
  const under = element("div", { className: "under" }, name, row.state);
  row.item = element("li", {}, look, row.text, row.error, row.undo, under);
  show(row, data);
  return row;
}

function show(row, data) {
  row.data = data;
  row.item.className = data.state;
  const isEdited = document.activeElement === row.text;
  if (!isEdited && row.text.value !== data.caption) row.text.value = data.caption;
  row.text.hidden = data.state === "failed";
  row.text.placeholder = data.state === "waiting" ? "No caption yet" : "";
  showError(row.error, data.error && new Error(data.error));
  row.state.textContent = { corrected: "✓ corrected", failed: "failed" }[data.state] ?? "";
  row.undo.hidden = !data.corrected || !data.generated;
  row.undo.textContent = `Use “${data.generated}” again`;
}

function editKey(event, row) {
  if (event.key === "Escape") {
    row.text.value = row.data.caption;
  } else if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    const next = rows.slice(rows.indexOf(row) + 1).find((each) => !each.text.hidden);
    if (next) next.text.focus();
    else row.text.blur();
    if (next) next.text.select();
  }
}

async function correct(row, text) {
  try {
    const data = await post("/api/folder/correct", { id: row.data.id, text });
    show(row, data);
    if (document.activeElement !== row.text) row.text.value = data.caption;
    await showProgress();
  } catch (error) {
    showError(row.error, error);
  }
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
  byId("replace").hidden = true;
  const format = byId("save-format").value;
  const request = { format, corrected_only: byId("save-corrected").checked, overwrite };
  try {
    const { output, written, kept, failed, error } = await post("/api/folder/save", request);
    const parts = [`Wrote the captions of ${written} image${written === 1 ? "" : "s"}: ${output}.`];
    if (kept) parts.push(`${kept} already had captions, which were kept.`);
    if (failed) parts.push(`${failed} have no caption. ${error}`);
    byId("replace").hidden = !kept;
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
