// Start of the page: facts about the model, and the tabs.

import { byId, request } from "./api.js";
import { setUpDetail } from "./detail.js";
import { setUpFolder } from "./folder.js";
import { captionAgain, setUpImages } from "./images.js";
import { setUpSettings } from "./settings.js";

const tabs = [...byId("tabs").children];

function selectTab(selected) {
  for (const tab of tabs) {
    const isSelected = tab === selected;
    tab.setAttribute("aria-selected", String(isSelected));
    tab.tabIndex = isSelected ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isSelected;
  }
}

function setUpTabs(first) {
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => selectTab(tab));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[(index + 1) % tabs.length];
      selectTab(other);
      other.focus();
    });
  });
  selectTab(first);
}

try {
  const model = await request("/api/model");
  byId("model").textContent = `Model: ${model.name}`;
  setUpTabs(byId(model.folder ? "folder-tab" : "images-tab"));
  setUpSettings(model, captionAgain);
  setUpDetail(model);
  setUpImages(model);
  await setUpFolder(model);
  document.body.dataset.ready = "true";
} catch (error) {
  byId("model").textContent = error.message;
}
