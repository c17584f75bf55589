// Numbers, moments and flags, as people read them.

const FLAGS = {
  stale: "starts from an old reading",
  missing: "gaps in the last day",
  long_gap: "a day or more was not measured",
  short_history: "little history",
  constant: "sensor may be stuck",
  missing_inputs: "some inputs missing",
  out_of_range: "outside what it was trained on",
  unseen_site: "not trained on this site",
  weather_missing: "no weather forecast",
  old_features: "features not renewed",
};

export const flag = (name) => FLAGS[name] || name.replaceAll("_", " ");

export const unit = (name) => name.replace("ug/m3", "µg/m³").replace("m3", "m³");

export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export function age(seconds) {
  const minutes = Math.max(0, Math.round(seconds / 60));
  if (minutes < 2) return "just now";
  if (minutes < 90) return `${minutes} min ago`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h ago` : `${Math.round(hours / 24)} days ago`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric" });

const HOUR = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const hour = (moment) => HOUR.format(moment);
export const clock = (moment) => CLOCK.format(moment).replace(",", "");
export const day = (moment) => DAY.format(moment).replace(",", "");

export const plural = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;

export const titled = (name) => name.charAt(0).toUpperCase() + name.slice(1);

// The makings of all nodes: text stays text, whatever is in it.
export function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Messages of the API put commands between backticks.
export const coded = (text) => text.split("`").map((part, i) => (i % 2 ? node("code", {}, part) : part));
