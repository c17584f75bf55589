// A site's weeks: error, coverage, and drift above one another, with what the reports said of it.

import { shape, ticks } from "./chart.js";
import { number } from "./words.js";

const WEEK_S = 7 * 86400;
const LEFT = 40, RIGHT = 10, TOP = 14;
const ROWS = { error: [18, 58], coverage: [100, 42], drift: [166, 34] };
const MARKS = 206, MUCH = 4;
export const HEIGHT = 234;
const MONTH = new Intl.DateTimeFormat("en-GB", { month: "short", timeZone: "UTC" });
const YEAR = new Intl.DateTimeFormat("en-GB", { month: "short", year: "2-digit", timeZone: "UTC" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });

export const dated = (seconds) => DAY.format(seconds * 1000);
export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);
export const stateClass = (state) => (state === "no data" ? "none" : state);
export const shortVersion = (version) => (version.match(/-(v\d+)$/) || [])[1] || version;

// What one report says of drift: the line that is furthest beyond its threshold, or nearest to it.
export function furthest(drift) {
  const known = drift.filter((line) => line.value !== null);
  return known.reduce((most, line) => (!most || line.value / line.threshold > most.value / most.threshold ? line : most), null);
}

const lineKey = (line) => `${line.of}/${line.name}/${line.measure}`;

// What each line of drift usually is at the site: the median of its looks.
export function usualDrift(looks) {
  const values = new Map(), usual = new Map();
  for (const line of looks.flatMap((look) => look.drift)) {
    if (line.value !== null) values.set(lineKey(line), [...(values.get(lineKey(line)) || []), line.value]);
  }
  for (const [key, found] of values) usual.set(key, found.sort((one, other) => one - other)[Math.floor(found.length / 2)]);
  return usual;
}

export const usually = (line, usual) => usual.get(lineKey(line)) ?? null;

// How many times as large as usual here a line is. Beyond their thresholds most are in most weeks: a town has seasons.
export const timesUsual = (line, usual) => (line.value === null || !usually(line, usual) ? 0 : line.value / usually(line, usual));
export const standsOut = (line, usual) => line.value !== null && line.value > line.threshold && timesUsual(line, usual) > MUCH;

// The line that stands out most, or null.
function outstanding(drift, usual) {
  const found = drift.filter((line) => standsOut(line, usual));
  return found.reduce((most, line) => (!most || timesUsual(line, usual) > timesUsual(most, usual) ? line : most), null);
}

// Weeks as points of all that is known of them: [{at, begin, error, coverage, versions, state, usual, nominal, drift}].
export function weeksOf(history) {
  const usual = usualDrift(history.looks);
  const weeks = history.weeks.map((week) => ({
    at: week.begin_s + WEEK_S / 2, begin: week.begin, error: week.error, coverage: week.coverage, versions: week.model_versions,
    steps: week.steps, state: null, usual: null, nominal: null, drift: null, much: null,
  }));
  for (const look of history.looks) {
    const until = look.assessment?.until_s || look.at_s;
    let week = weeks.findLast((one) => one.at - WEEK_S / 2 < until);
    if (!week || until - week.at > WEEK_S) {
      week = { at: until - WEEK_S / 2, begin: null, error: null, coverage: null, versions: [], steps: 0 };
      weeks.push(week);
      weeks.sort((one, other) => one.at - other.at);
    }
    Object.assign(week, {
      state: look.assessment?.state || null, usual: look.assessment?.usual_error ?? null,
      nominal: look.assessment?.nominal_coverage ?? null, drift: furthest(look.drift),
      much: outstanding(look.drift, usual),
    });
  }
  return weeks;
}

function rowOf(name, low, high, by = (value) => value) {
  const [top, height] = ROWS[name], share = (value) => (by(Math.min(Math.max(value, low), high)) - by(low)) / (by(high) - by(low) || 1);
  return { top, bottom: top + height, y: (value) => top + (1 - share(value)) * height };
}

function lineOf(weeks, field, x, y) {
  let drawn = "", before = null;
  for (const week of weeks) {
    if (week[field] === null) { before = null; continue; }
    // A week without a value breaks the line.
    drawn += `${before && week.at - before < 1.5 * WEEK_S ? "L" : "M"}${x(week.at).toFixed(1)} ${y(week[field]).toFixed(1)}`;
    before = week.at;
  }
  return drawn;
}

function months(start, end) {
  const found = [], at = new Date(start * 1000);
  at.setUTCDate(1);
  at.setUTCHours(0, 0, 0, 0);
  for (at.setUTCMonth(at.getUTCMonth() + 1); at / 1000 < end; at.setUTCMonth(at.getUTCMonth() + 1)) found.push(at / 1000);
  const every = Math.ceil(found.length / 7);
  return found.filter((_, i) => i % every === 0);
}

// The moments at which another version began to forecast.
function changes(versions) {
  return versions.slice(1).map((span) => ({ at: span.since_s, name: shortVersion(span.model_version) }));
}

function drawRow(svg, title, row, marks, width, label) {
  svg.append(shape("text", { class: "title", x: LEFT, y: row.top - 5 }, title));
  for (const value of marks) {
    svg.append(shape("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: row.y(value), y2: row.y(value) }));
    svg.append(shape("text", { class: "tick", x: LEFT - 6, y: row.y(value) + 3.5, "text-anchor": "end" }, label(value)));
  }
}

const dashed = (svg, y, width) => svg.append(shape("line", { class: "usual", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));

function dots(svg, weeks, field, x, y) {
  if (weeks.length > 60) return;
  for (const week of weeks) {
    if (week[field] !== null) svg.append(shape("circle", { class: "dots", cx: x(week.at), cy: y(week[field]), r: 2 }));
  }
}

// Draws it, and gives where a week is: {x}.
export function drawHistory(svg, weeks, versions, { width, unit, sentence }) {
  svg.replaceChildren();
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, "aria-label": sentence })) svg.setAttribute(key, value);
  const start = weeks[0].at - WEEK_S / 2, end = weeks.at(-1).at + WEEK_S / 2;
  const x = (at) => LEFT + ((at - start) / (end - start)) * (width - LEFT - RIGHT);
  const last = (field) => weeks.findLast((week) => week[field] !== null && week[field] !== undefined)?.[field] ?? null;
  const usual = last("usual"), nominal = last("nominal");

  const highest = Math.max(...weeks.map((week) => week.error ?? 0), usual ?? 0) * 1.08 || 1;
  const error = rowOf("error", 0, highest);
  drawRow(svg, `error, ${unit}`, error, ticks(0, highest, 3), width, number);
  const lowest = Math.min(0.5, ...weeks.map((week) => week.coverage ?? 1));
  const coverage = rowOf("coverage", lowest, 1);
  drawRow(svg, "coverage", coverage, lowest < 0.5 ? [0, 0.5, 1].filter((value) => value >= lowest) : [0.5, 0.75, 1], width, percent);
  const ratios = weeks.map((week) => (week.drift ? week.drift.value / week.drift.threshold : 0));
  const most = Math.max(10, ...ratios), drift = rowOf("drift", 0.4, most, Math.log10);
  drawRow(svg, "drift, times its threshold", drift, [1, 10, 100, 1000].filter((value) => value <= most), width, (value) => `${value} ×`);

  for (const at of months(start, end)) {
    svg.append(shape("line", { class: "rule", x1: x(at), x2: x(at), y1: TOP, y2: MARKS - 2 }));
    const format = new Date(at * 1000).getUTCMonth() === 0 ? YEAR : MONTH;
    if (x(at) < width - 34) svg.append(shape("text", { class: "tick", x: x(at) + 3, y: HEIGHT - 6 }, format.format(at * 1000)));
  }
  if (usual !== null) dashed(svg, error.y(usual), width);
  if (nominal !== null) dashed(svg, coverage.y(nominal), width);
  svg.append(shape("path", { class: "median", d: lineOf(weeks, "error", x, error.y) }));
  svg.append(shape("path", { class: "median", d: lineOf(weeks, "coverage", x, coverage.y) }));
  dots(svg, weeks, "error", x, error.y);
  dots(svg, weeks, "coverage", x, coverage.y);
  const step = x(start + WEEK_S) - x(start), bar = Math.max(1, step * 0.7);
  weeks.forEach((week, i) => {
    if (week.drift) {
      const y = drift.y(ratios[i]), kind = week.much ? "bar over much" : ratios[i] > 1 ? "bar over" : "bar";
      svg.append(shape("rect", { class: kind, x: x(week.at) - bar / 2, width: bar, y, height: drift.bottom - y }));
    }
    if (week.state) {
      svg.append(shape("rect", { class: `mark ${stateClass(week.state)}`, x: x(week.at) - bar / 2, width: bar, y: MARKS, height: 7, rx: 1.5 }));
    }
  });
  dashed(svg, drift.y(1), width);
  let free = -Infinity;
  for (const { at, name } of changes(versions)) {
    if (at < start || at > end) continue;
    svg.append(shape("line", { class: "change", x1: x(at), x2: x(at), y1: 4, y2: MARKS }));
    // Names that would stand in one another are left out; the line below the chart has all.
    if (x(at) > free && x(at) < width - 24) {
      svg.append(shape("text", { class: "version", x: x(at) + 3, y: 11 }, name));
      free = x(at) + 8 + 6 * name.length;
    }
  }
  return { x };
}

export function drawWeekCursor(svg, week, scale) {
  svg.querySelector(".cursor")?.remove();
  if (!week) return "";
  const group = shape("g", { class: "cursor" });
  group.append(shape("line", { x1: scale.x(week.at), x2: scale.x(week.at), y1: TOP, y2: MARKS + 7 }));
  svg.append(group);
  const parts = [`week of ${week.begin ? dated(Date.parse(week.begin) / 1000) : dated(week.at - WEEK_S / 2)}:`, `error ${number(week.error)},`, `coverage ${percent(week.coverage)}`];
  const line = week.much || week.drift;
  if (line) parts.push(`· ${line.of === "prediction" ? "forecasts" : line.name} ${(line.value / line.threshold).toFixed(1)} ×`);
  if (week.state) parts.push(`· ${week.state}`);
  if (week.versions.length) parts.push(`· ${week.versions.map(shortVersion).join(", ")}`);
  return parts.join(" ");
}
