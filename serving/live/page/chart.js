// Readings up to now, and the forecast with its interval after them.

import { clock, day, number } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const HOUR = 3600e3, BEFORE = 48 * HOUR, AFTER = 24 * HOUR;
const HEIGHT = 138, LEFT = 40, RIGHT = 8, TOP = 10, BOTTOM = 20;

export function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A series of a card as points: readings [{at, value}], and forecast [{at, value, lower, upper}].
export function pointsOf(card, series) {
  const recent = card.reading?.recent, readings = [], forecast = [];
  if (recent) {
    const values = recent.values[series.quantity] || [], until = Date.parse(recent.until);
    values.forEach((value, i) => {
      readings.push({ at: until - (values.length - 1 - i) * recent.step_s * 1000, value });
    });
  }
  const predictions = card.forecast?.forecast;
  for (const entry of (series.part ? predictions?.[series.part] : predictions) || []) {
    const interval = entry.confidence_interval;
    const [lower, upper] = Array.isArray(interval) ? interval : interval ? [interval.lower, interval.upper] : [null, null];
    forecast.push({ at: Date.parse(entry.timestamp), value: entry[series.field], lower, upper, confidence: interval?.confidence });
  }
  return { readings, forecast: forecast.filter((point) => point.at <= (forecast[0]?.at ?? 0) + AFTER) };
}

export function ticks(low, high, about = 4) {
  const rough = (high - low) / about || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(10)));
  return found;
}

function scales(points, now, width) {
  const values = [...points.readings.map((p) => p.value), ...points.forecast.flatMap((p) => [p.value, p.lower, p.upper])]
    .filter((value) => value !== null && value !== undefined);
  let low = Math.min(...values), high = Math.max(...values);
  if (!values.length) { low = 0; high = 1; }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  const floor = low >= 0 ? Math.max(0, low - room) : low - room;
  const ceiling = high + room;
  // Where the last readings are old, what there is is drawn all the same.
  const last = points.readings.at(-1)?.at ?? now, end = Math.max(now, points.forecast.at(-1)?.at ?? now + AFTER);
  const start = Math.min(now - BEFORE, Math.max(last - BEFORE, now - 3 * BEFORE));
  return {
    start, end, low: floor, high: ceiling,
    x: (at) => LEFT + ((at - start) / (end - start)) * (width - LEFT - RIGHT),
    y: (value) => TOP + (1 - (value - floor) / (ceiling - floor)) * (HEIGHT - TOP - BOTTOM),
  };
}

// A line that is broken where a value is missing; a value alone is a short dash.
function path(points, { x, y }) {
  let drawn = "", pen = false;
  for (const [i, { at, value }] of points.entries()) {
    if (value === null || value === undefined) { pen = false; continue; }
    drawn += `${pen ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    if (!pen && (points[i + 1]?.value ?? null) === null) drawn += "h2";
    pen = true;
  }
  return drawn;
}

function band(points, { x, y }) {
  const known = points.filter((point) => point.lower !== null);
  if (!known.length) return "";
  const corner = (at, value) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
  const above = known.map((point) => corner(point.at, point.upper));
  const below = known.map((point) => corner(point.at, point.lower)).reverse();
  return `M${above.join("L")}L${below.join("L")}Z`;
}

function midnights(start, end) {
  const found = [], at = new Date(start);
  at.setHours(24, 0, 0, 0);
  for (; at.getTime() < end; at.setDate(at.getDate() + 1)) found.push(at.getTime());
  return found;
}

export function drawChart(svg, points, { now, width, sentence }) {
  const scale = scales(points, now, width), { x, y } = scale;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("height", HEIGHT);
  svg.setAttribute("aria-label", sentence);
  for (const value of ticks(scale.low, scale.high)) {
    svg.append(shape("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { class: "tick", x: LEFT - 6, y: y(value) + 3.5, "text-anchor": "end" }, number(value)));
  }
  for (const at of midnights(scale.start, scale.end)) {
    svg.append(shape("line", { class: "rule", x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM + 4 }));
    if (x(at) < width - 34) svg.append(shape("text", { class: "tick", x: x(at) + 4, y: HEIGHT - 6 }, day(at)));
  }
  svg.append(shape("path", { class: "band", d: band(points.forecast, scale) }));
  svg.append(shape("line", { class: "now", x1: x(now), x2: x(now), y1: TOP - 4, y2: HEIGHT - BOTTOM + 4 }));
  svg.append(shape("path", { class: "reading", d: path(points.readings, scale) }));
  const joined = points.readings.findLast((point) => point.value !== null);
  const first = points.forecast[0];
  const start = joined && first && first.at - joined.at <= 2 * HOUR ? [joined] : [];
  svg.append(shape("path", { class: "median", d: path([...start, ...points.forecast], scale) }));
  return scale;
}

// The cursor at one point, and what it says.
export function drawCursor(svg, point, scale) {
  svg.querySelector(".cursor")?.remove();
  if (!point) return "";
  const group = shape("g", { class: "cursor" });
  group.append(shape("line", { x1: scale.x(point.at), x2: scale.x(point.at), y1: TOP, y2: HEIGHT - BOTTOM }));
  group.append(shape("circle", { cx: scale.x(point.at), cy: scale.y(point.value), r: 3.5 }));
  svg.append(group);
  const interval = point.lower === null || point.lower === undefined ? "" : ` (${number(point.lower)} to ${number(point.upper)})`;
  const kind = point.lower === undefined ? "measured" : "forecast";
  return `${clock(point.at)}  ${kind} ${number(point.value)}${interval}`;
}
