// The controls of the search. They are made from the settings that the server describes.

import { byId, element } from "./api.js";

const NAMES = {
  greedy: "Greedy",
  beam: "Beam search",
  diverse: "Diverse beam search",
  sampling: "Sampling",
};
const MAIN = {
  greedy: [],
  beam: ["width", "n", "length_penalty"],
  diverse: ["groups", "width", "diversity_penalty"],
  sampling: ["temperature", "top_k", "top_p", "n"],
};
const LABELS = {
  n: "captions",
  min_length: "minimum words",
  max_length: "maximum words",
  no_repeat_ngram: "no repeated n-gram",
  rerank_weight: "n-gram reranking",
};
const SHOWN_CAPTIONS = 5;

let model;
let chosen; // name of the search method
const values = {}; // by method and setting, as texts

export function setUpSettings(description, onChange) {
  model = description;
  chosen = model.search.method;
  for (const [method, settings] of Object.entries(model.methods)) {
    values[method] = {};
    for (const [name, { default: standard }] of Object.entries(settings)) {
      values[method][name] = toText(model.search[name] ?? standard);
    }
    if ("n" in settings) values[method].n = String(SHOWN_CAPTIONS);
  }
  values.beam.width = String(Math.max(SHOWN_CAPTIONS, Number(values.beam.width)));
  values.sampling.seed = "0";
  const form = byId("settings");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    const { name } = event.target;
    if (name === "search") {
      chosen = event.target.value;
      build();
      form.elements.search.focus();
    } else {
      const { type, checked, value } = event.target;
      values[chosen][name] = type === "checkbox" ? String(checked) : value;
    }
    summarize();
    onChange();
  });
  build();
  summarize();
}

export function searchQuery() {
  const query = new URLSearchParams({ search: chosen });
  for (const [name, text] of Object.entries(values[chosen])) {
    if (model.methods[chosen][name]?.type === "array") {
      for (const word of text.split(/[\s,]+/)) if (word) query.append(name, word);
    } else if (text.trim()) {
      query.append(name, text.trim());
    }
  }
  return query;
}

export const ranksByProbability = () => !(Number(values[chosen].rerank_weight) > 0);

const labelOf = (name) => LABELS[name] ?? name.replaceAll("_", " ");

const toText = (value) => (Array.isArray(value) ? value.join(" ") : String(value));

function build() {
  const methods = element("select", { name: "search" });
  for (const method of Object.keys(model.methods)) {
    methods.append(new Option(NAMES[method] ?? method, method, false, method === chosen));
  }
  const main = MAIN[chosen];
  const others = Object.keys(model.methods[chosen]).filter((name) => !main.includes(name));
  const more = element("div", { className: "settings" }, ...others.map(control));
  byId("settings").replaceChildren(
    element("label", {}, "Method", methods),
    ...main.map(control),
    ...(chosen === "sampling" ? [seedControl()] : []),
    element("details", {}, element("summary", {}, "More settings"), more),
  );
}

function control(name) {
  const { type, description } = model.methods[chosen][name];
  const title = labelOf(name);
  const label = title.charAt(0).toUpperCase() + title.slice(1);
  const text = values[chosen][name];
  if (type === "boolean") {
    const box = element("input", { type: "checkbox", name, checked: text === "true" });
    return element(
      "label",
      { className: "check", title: description },
      element("span", {}, box, label),
    );
  }
  const kinds = { integer: ["number", "1"], number: ["number", "any"], array: ["text", ""] };
  const [kind, step] = kinds[type];
  const input = element("input", { type: kind, name, value: text });
  if (step) input.step = step;
  return element("label", { title: description }, label, input);
}

function seedControl() {
  const input = element("input", { type: "number", name: "seed", min: 0, step: 1 });
  input.value = values.sampling.seed;
  const next = element("button", { type: "button", className: "button" }, "Next");
  next.title = "Draw other captions";
  next.addEventListener("click", () => {
    input.value = String(Number(input.value) + 1);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
  return element("label", {}, "Seed", element("span", { className: "seed" }, input, next));
}

function summarize() {
  const shown = MAIN[chosen].map((name) => `${labelOf(name)} ${values[chosen][name]}`);
  const seed = chosen === "sampling" ? [`seed ${values.sampling.seed}`] : [];
  byId("search-summary").textContent = [NAMES[chosen] ?? chosen, ...shown, ...seed].join(", ");
}
