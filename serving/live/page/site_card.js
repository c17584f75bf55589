// One card for each site: its state in words, its figures beside the usual ones, its weeks.

import { drawHistory, drawWeekCursor, furthest, HEIGHT, percent, shortVersion, standsOut, stateClass, timesUsual, usualDrift, usually, weeksOf } from "./history_chart.js";
import { coded, node, number, plural, unit } from "./words.js";

const MEASURES = { psi: "PSI", ks: "KS", wasserstein: "Wasserstein" };

const SHOWN_NOTES = 2;

const drifted = (line) => `${line.of === "prediction" ? "forecasts" : line.name.replaceAll("_", " ")} drifted`;
export const badge = (state) => node("span", { class: `state ${stateClass(state)}` }, state);

export class SiteCard {
  // `load` gives the site's history of so many weeks.
  constructor(report, assessment, load) {
    this.report = report;
    this.site = assessment.site;
    this.assessment = assessment;
    this.load = load;
    this.history = this.error = null;
    this.weeks = [];
    this.seen = false;
    this.element = node("article", { class: "card", tabindex: "-1" });
    this.element.card = this;
    this.id = `site-${report.domain}-${report.target}-${encodeURIComponent(this.site)}`;
    this.element.setAttribute("aria-labelledby", this.id);
    this.title = node("h3", { id: this.id, title: this.site }, this.site);
    this.hide();
  }

  get key() {
    return `${this.report.domain}/${this.report.target}/${this.site}`;
  }

  take(report, assessment) {
    const renewed = report.id !== this.report.id;
    this.report = report;
    this.assessment = assessment;
    if (renewed) this.history = null;
    if (this.seen) this.show(true);
  }

  forget() {
    this.history = null;
    if (this.seen) this.show(true);
  }

  hide() {
    this.seen = false;
    this.parts = null;
    this.element.className = `card ${stateClass(this.assessment.state)}`;
    this.element.replaceChildren(node("div", { class: "head" }, this.title, badge(this.assessment.state)));
  }

  async show(again = false) {
    if (this.seen && !again) return;
    this.seen = true;
    this.build();
    if (!this.history) {
      try {
        this.history = await this.load(this);
        this.error = null;
      } catch (error) {
        this.error = error.message;
      }
    }
    if (this.parts) this.write();
  }

  build() {
    const { assessment } = this;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ class: "history", role: "img", tabindex: "0", height: HEIGHT })) svg.setAttribute(name, value);
    this.parts = {
      svg, said: node("output", { class: "said", "aria-live": "polite" }), versions: node("p", { class: "versions" }),
      notes: node("ul", { class: "notes", "aria-label": "What has drifted" }),
    };
    this.element.className = `card ${stateClass(assessment.state)}`;
    this.element.replaceChildren(
      node("div", { class: "head" }, this.title, badge(assessment.state)),
      node("p", { class: "reason" }, assessment.reason),
      this.figures(), svg, node("div", { class: "line" }, this.parts.said, this.parts.versions), this.parts.notes,
    );
    this.writeNotes();
    this.listen(svg);
  }

  figures() {
    const { assessment, report } = this, { error, usual_error: usual, coverage, nominal_coverage: nominal } = assessment;
    const ratio = error !== null && usual ? error / usual - 1 : null;
    const beside = usual === null ? "" : `usually ${number(usual)}${ratio === null ? "" : ` (${ratio >= 0 ? "+" : "−"}${Math.round(Math.abs(ratio) * 100)} %)`}`;
    const estimate = report.estimates.find((one) => one.site === this.site);
    const figure = (kind, label, value, more, bad) => node("p", { class: kind },
      node("span", { class: "label" }, label), node("output", { class: bad ? "value bad" : "value" }, value), node("span", { class: "beside" }, more));
    const made = node("div", { class: "figures" },
      figure("error", `error, ${unit(report.unit)}`, number(error), beside, ratio !== null && ratio > 0.5),
      figure("coverage", "coverage", percent(coverage), nominal === null ? "" : `of ${percent(nominal)}`, coverage !== null && nominal !== null && coverage < nominal - 0.15));
    if (estimate && estimate.error !== null) {
      made.append(figure("estimate", "expected next", number(estimate.error), "", false));
    }
    return made;
  }

  writeNotes() {
    const usual = usualDrift(this.history?.looks || []), byName = new Map();
    for (const line of this.report.drift.filter((one) => one.site === this.site && one.drifted)) {
      byName.set(`${line.of}/${line.name}`, [...(byName.get(`${line.of}/${line.name}`) || []), line]);
    }
    const most = (lines) => lines.reduce((best, line) => (timesUsual(line, usual) > timesUsual(best, usual) ? line : best), furthest(lines));
    const shown = [...byName.values()].map(most).sort((one, other) => timesUsual(other, usual) - timesUsual(one, usual));
    const rest = shown.splice(SHOWN_NOTES);
    this.parts.notes.replaceChildren(...shown.map((line) => {
      const before = usually(line, usual), said = before === null ? "" : `, usually ${number(before)}`;
      const title = `beyond the threshold of ${number(line.threshold)}`;
      return node("li", { title, class: standsOut(line, usual) ? null : "usual" }, `${drifted(line)}: ${MEASURES[line.measure]} ${number(line.value)}${said}`);
    }));
    if (rest.length) this.parts.notes.append(node("li", { class: "usual", title: rest.map(drifted).join(", ") }, `and ${rest.length} more`));
  }

  write() {
    if (this.error) {
      this.parts.svg.replaceChildren();
      this.parts.versions.replaceChildren(...coded(this.error));
      this.element.dataset.ready = "error";
      return;
    }
    this.weeks = weeksOf(this.history);
    this.parts.versions.textContent = this.history.versions
      .map((span) => `${shortVersion(span.model_version)}: error ${number(span.error)}, coverage ${percent(span.coverage)}`).join(" → ")
      || "no forecast of these weeks has its actual yet";
    this.writeNotes();
    this.draw();
    this.element.dataset.ready = "1";
  }

  draw() {
    if (!this.parts || !this.weeks.length) return;
    const width = Math.max(240, Math.round(this.parts.svg.clientWidth || 340));
    this.scale = drawHistory(this.parts.svg, this.weeks, this.history.versions, { width, unit: unit(this.history.unit), sentence: this.sentence() });
    this.point(this.cursor);
  }

  sentence() {
    const { error, usual_error: usual, coverage, state } = this.assessment;
    return `${this.site}: ${state}; error ${number(error)} ${unit(this.report.unit)}, usually ${number(usual)}; coverage ${percent(coverage)}. `
      + `${plural(this.weeks.length, "week")} of history: arrow keys tell each.`;
  }

  // The cursor, by pointer or by arrow keys.
  listen(svg) {
    svg.addEventListener("pointermove", (event) => {
      if (!this.weeks.length) return;
      const at = event.clientX - svg.getBoundingClientRect().left, far = (week) => Math.abs(this.scale.x(week.at) - at);
      this.point(this.weeks.indexOf(this.weeks.reduce((best, week) => (far(week) < far(best) ? week : best))));
    });
    svg.addEventListener("pointerleave", () => this.point(undefined));
    svg.addEventListener("blur", () => this.point(undefined));
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (!(event.key in moves) || !this.weeks.length) return;
      this.point(Math.min(Math.max((this.cursor ?? this.weeks.length) + moves[event.key], 0), this.weeks.length - 1));
      event.preventDefault();
    });
  }

  point(index) {
    this.cursor = index === undefined ? undefined : Math.min(index, this.weeks.length - 1);
    this.parts.said.value = drawWeekCursor(this.parts.svg, this.cursor === undefined ? null : this.weeks[this.cursor], this.scale);
  }
}
