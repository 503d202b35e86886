// Requests to the server, and small helpers of the page.

export async function request(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Check that it is still running.");
  }
  const content = await reply.json().catch((error) => {
    if (error.name === "AbortError") throw error; // not an empty answer
    return {};
  });
  if (!reply.ok) {
    const error = new Error(content.error ?? `The server answered with status ${reply.status}.`);
    error.status = reply.status;
    throw error;
  }
  return content;
}

export const post = (path, content) =>
  request(path, { method: "POST", body: JSON.stringify(content ?? {}) });

export const byId = (id) => document.getElementById(id);

// Return a new element: properties such as className, attributes such as aria-label, and children.
export function element(name, properties = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") created.setAttribute(key, value);
    else created[key] = value;
  }
  created.append(...children);
  return created;
}

export function showError(place, error) {
  place.textContent = error ? sentence(error.message) : "";
  place.hidden = !error;
}

export const isUnreadable = (message) => message.startsWith("cannot read");

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function percent(share) {
  const value = 100 * share;
  if (value >= 9.95) return `${value.toFixed(0)} %`;
  if (value >= 0.995) return `${value.toFixed(1)} %`;
  if (value < 0.0001) return "< 0.0001 %";
  return `${Number(value.toPrecision(2))} %`;
}

export function track(share) {
  const bar = element("i");
  bar.style.width = `${100 * Math.min(1, share)}%`;
  return element("div", { className: "track", "aria-hidden": "true" }, bar);
}

// Hide an image that the browser cannot show, in place of its symbol for that.
export function hideIfUnreadable(image) {
  image.addEventListener("error", () => image.classList.add("unreadable"));
  image.addEventListener("load", () => image.classList.remove("unreadable"));
  return image;
}
