// One card for each site: nothing is drawn or followed of one that is not seen.

import { drawChart, drawCursor, pointsOf } from "./chart.js";
import { age, coded, flag, hour, node, number, unit } from "./words.js";

const EXTRA = {
  traffic: (data) => [["congestion", `${data.congestion_level} %`], ["speed", `${number(data.average_speed)} km/h`]],
  pollution: (data) => [["AQI", data.aqi === null ? "not known" : `${data.aqi} ${data.category}`]],
  demand: (data) => (data.multiplier === null ? [] : [["of the baseline", `${data.multiplier.toFixed(2)} ×`]]),
};

export class Card {
  // `channel` is the overview's; `now` gives the town's moment.
  constructor(channel, site, now) {
    this.channel = channel;
    this.site = site;
    this.now = now;
    this.series = 0;
    this.reading = this.forecast = this.error = null;
    this.seen = false;
    this.id = `site-${channel.channel}-${encodeURIComponent(site)}`;
    this.element = node("article", { class: "card", "aria-labelledby": this.id });
    this.element.card = this;
    this.title = node("h3", { id: this.id, title: site }, site);
    this.element.append(this.title);
  }

  get key() {
    return `${this.channel.channel}/${this.site}`;
  }

  show() {
    if (this.seen) return;
    this.seen = true;
    this.build();
    this.write();
  }

  // What was known stays known: a card that is scrolled back is there at once.
  hide() {
    this.seen = false;
    this.parts = null;
    this.element.replaceChildren(this.title);
  }

  build() {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("tabindex", "0");
    this.parts = {
      svg,
      age: node("p", { class: "age" }),
      tabs: node("div", { class: "tabs", role: "group", "aria-label": "Quantity" }),
      last: node("output", { class: "value" }),
      next: node("output", { class: "value" }),
      interval: node("span", { class: "interval" }),
      lastLabel: node("span", { class: "label" }),
      nextLabel: node("span", { class: "label" }),
      extra: node("p", { class: "extra" }),
      said: node("output", { class: "said", "aria-live": "polite" }),
      version: node("span", { class: "version" }),
      notes: node("ul", { class: "notes", "aria-label": "What to know before trusting it" }),
    };
    const { age: aged, tabs, last, next, lastLabel, nextLabel, interval, extra, said, version, notes } = this.parts;
    this.element.replaceChildren(
      node("div", { class: "head" }, this.title, aged),
      node("div", { class: "figures" },
        node("p", { class: "last" }, lastLabel, last), node("p", { class: "next" }, nextLabel, next, interval)),
      svg, node("div", { class: "line" }, said, extra, tabs), node("div", { class: "foot" }, version, notes),
    );
    this.channel.series.forEach((series, i) => {
      if (this.channel.series.length < 2) return;
      const tab = node("button", { type: "button", "aria-pressed": String(i === this.series) }, series.label);
      tab.addEventListener("click", () => { this.series = i; this.write(); });
      tabs.append(tab);
    });
    this.listen(svg);
  }

  take(message) {
    if (message.channel === this.channel.channel) {
      this.error = message.error || null;
      if (!message.error) this.forecast = message.data;
    } else if (!message.error) {
      this.reading = message.data;
    }
    this.element.dataset.updates = Number(this.element.dataset.updates || 0) + 1;
    if (this.seen) this.write();
  }

  write() {
    const { parts, forecast, reading } = this, series = this.channel.series[this.series];
    this.points = pointsOf(this, series);
    parts.tabs.querySelectorAll("button").forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === this.series)));
    const last = this.points.readings.findLast((point) => point.value !== null), next = this.points.forecast[0];
    parts.last.value = number(last?.value);
    parts.next.value = number(next?.value);
    parts.interval.textContent = next && next.lower !== null ? `${number(next.lower)}–${number(next.upper)}` : "";
    parts.lastLabel.textContent = `last, ${unit(series.unit)}`;
    parts.nextLabel.textContent = next ? `forecast for ${hour(next.at)}` : "forecast";
    this.element.classList.toggle("waiting", !forecast && !this.error);
    this.element.classList.toggle("failed", Boolean(this.error));
    this.writeAge(last);
    parts.extra.replaceChildren(...(forecast ? (EXTRA[this.channel.channel]?.(forecast) || []) : [])
      .map(([label, value]) => node("span", {}, node("b", {}, value), ` ${label}`)));
    const versions = forecast?.model_version.split(", ") || [];
    parts.version.textContent = [versions[this.series] || versions[0], forecast?.role].filter(Boolean).join(" · ");
    parts.version.title = forecast?.model_version || "";
    this.writeNotes();
    this.draw();
    if (reading || forecast) this.element.dataset.ready = "1";
  }

  writeAge(last) {
    if (!this.parts) return;
    const newest = last || this.points.readings.findLast((point) => point.value !== null);
    this.parts.age.textContent = newest ? `read ${age((this.now() - newest.at) / 1000)}` : this.reading ? "never read" : "";
    this.parts.age.classList.toggle("old", Boolean(this.forecast?.quality.stale));
  }

  writeNotes() {
    const notes = this.parts.notes;
    if (this.error) {
      notes.replaceChildren(node("li", { class: "error" }, ...coded(this.error.message)));
      return;
    }
    const flags = this.forecast?.quality.lowered_by || [];
    const hint = (name) => JSON.stringify(this.forecast.quality[name] ?? "").replace(/^""$/, "");
    notes.replaceChildren(...flags.map((name) => node("li", { title: hint(name) || null, "data-flag": name }, flag(name))));
    if (this.forecast && !flags.length) notes.append(node("li", { class: "good" }, "no reservations"));
  }

  draw() {
    const width = Math.max(220, Math.round(this.parts.svg.clientWidth || 320));
    this.scale = drawChart(this.parts.svg, this.points, { now: this.now(), width, sentence: this.sentence() });
    this.point(this.cursor);
  }

  sentence() {
    const series = this.channel.series[this.series], known = this.points.readings.map((p) => p.value).filter((v) => v !== null);
    const medians = this.points.forecast.map((p) => p.value), of = unit(series.unit);
    const range = (values) => `${number(Math.min(...values))} to ${number(Math.max(...values))} ${of}`;
    const readings = known.length ? `readings of the last two days from ${range(known)}` : "no readings in the last two days";
    const next = this.points.forecast[0];
    const ahead = medians.length ? `forecast of the next day from ${range(medians)}` : "no forecast";
    const width = next && next.lower !== null ? `, the next value between ${number(next.lower)} and ${number(next.upper)}` : "";
    return `${this.site}, ${series.label}: ${readings}; ${ahead}${width}. Arrow keys tell each value.`;
  }

  // The cursor, by pointer or by arrow keys.
  listen(svg) {
    svg.addEventListener("pointermove", (event) => {
      const at = event.clientX - svg.getBoundingClientRect().left;
      const far = (point) => Math.abs(this.scale.x(point.at) - at);
      const all = this.known();
      this.point(all.length ? all.indexOf(all.reduce((best, point) => (far(point) < far(best) ? point : best))) : undefined);
    });
    svg.addEventListener("pointerleave", () => this.point(undefined));
    svg.addEventListener("blur", () => this.point(undefined));
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }, all = this.known();
      if (!(event.key in moves) || !all.length) return;
      const from = this.cursor ?? this.points.readings.filter((point) => point.value !== null).length - 1;
      this.point(Math.min(Math.max(from + moves[event.key], 0), all.length - 1));
      event.preventDefault();
    });
  }

  known() {
    return [...this.points.readings, ...this.points.forecast].filter((point) => point.value !== null);
  }

  point(index) {
    const all = this.known();
    this.cursor = index === undefined ? undefined : Math.min(index, all.length - 1);
    this.parts.said.value = drawCursor(this.parts.svg, this.cursor === undefined ? null : all[this.cursor], this.scale);
  }
}
