// How the models do: a section for each target, a card for each site; those that are seen are asked for.

import { Asking } from "./asking.js";
import { dated, stateClass } from "./history_chart.js";
import { badge, SiteCard } from "./site_card.js";
import { age, coded, node, plural, titled } from "./words.js";

const $ = (id) => document.getElementById(id);
const LOOK_S = 60, LOOK_SOON_S = 5, SHOWN_CHANGES = 4;
const STATES = ["harmed", "suspect", "no data", "healthy"];
const KINDS = { performance: "the forecasts got worse", data: "there are new data", schedule: "it is time", manual: "somebody asked" };
const asked = new URLSearchParams(location.search);
const state = {
  domains: [], labels: new Map(), cards: new Map(), shape: "", timer: null,
  domain: asked.get("domain") || "", search: asked.get("search") || "", state: asked.get("state") || "", weeks: asked.get("weeks") || "26",
};

const asking = new Asking({
  state: (kind, text) => {
    document.body.dataset.state = kind;
    $("connection-text").textContent = text;
  },
  key: (reason) => {
    $("key-reason").replaceChildren(...coded(reason));
    $("key").value = "";
    if (!$("key-dialog").open) $("key-dialog").showModal();
    $("key").focus();
  },
});

async function look() {
  clearTimeout(state.timer);
  let soon = false;
  try {
    const followed = await asking.get("data/live");
    const found = await Promise.all(followed.channels.map((channel) => asking.get(`monitoring/${encodeURIComponent(channel.channel)}`)));
    if ($("key-dialog").open) $("key-dialog").close();
    state.labels = new Map(followed.channels.flatMap((channel) => channel.series.map((series) => [`${channel.channel}/${series.quantity}`, series.label])));
    state.domains = found;
    const shape = JSON.stringify(found);
    if (shape !== state.shape) {
      state.shape = shape;
      layOut();
    }
    const newest = Math.max(...found.flatMap((one) => one.reports.map((report) => report.at_s)), 0);
    asking.on.state("here", newest ? `newest report ${ago(newest)}` : "no report yet");
    soon = !newest;
  } catch (error) {
    if (document.body.dataset.state === "locked") return;
    asking.on.state("waiting", `${error.message} Trying again.`);
    soon = true;
  }
  state.timer = setTimeout(look, (soon ? LOOK_SOON_S : LOOK_S) * 1000);
}

function ago(seconds) {
  const since = Date.now() / 1000 - seconds;
  return since < 3 * 86400 ? age(since) : `of ${dated(seconds)}`;
}

const load = (card) => asking.get(`monitoring/${encodeURIComponent(card.report.domain)}/sites/${encodeURIComponent(card.site)}`
  + `?target=${encodeURIComponent(card.report.target)}&weeks=${state.weeks}`);

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) target.card.show(); else target.card.hide();
  }
}, { rootMargin: "240px 0px" });

const reports = () => state.domains.flatMap((domain) => domain.reports);
const labelled = (domain, target) => state.labels.get(`${domain}/${target}`) || target.replaceAll("_", " ");
const inDomain = (report) => !state.domain || state.domain === report.domain;
const named = (line) => line.site.toLowerCase().includes(state.search.trim().toLowerCase());
const fits = (line) => named(line) && (!state.state || state.state === line.state);
const byState = (one, other) => STATES.indexOf(one.state) - STATES.indexOf(other.state) || one.site.localeCompare(other.site, "en", { numeric: true });

function layOut() {
  writeChips();
  observer.disconnect();
  const cards = new Map(), sections = [], total = reports().reduce((sum, report) => sum + report.assessments.length, 0);
  let shown = 0;
  for (const domain of state.domains) {
    for (const report of domain.reports) {
      if (!inDomain(report)) continue;
      const lines = report.assessments.filter(fits).sort(byState);
      shown += lines.length;
      if (lines.length || !(state.search || state.state)) sections.push(section(domain, report, lines, cards));
    }
  }
  for (const [key, card] of state.cards) if (!cards.has(key)) card.hide();
  state.cards = new Map([...state.cards, ...cards]);
  const missing = state.domains.flatMap((domain) => domain.missing.map((one) => ({ ...one, domain: domain.domain })));
  if (!reports().length) sections.push(nothingYet(missing[0]));
  else if (!shown && (state.search || state.state)) sections.push(nothingFound());
  else if (missing.length && !state.domain) sections.push(alsoMissing(missing));
  $("sites").replaceChildren(...sections);
  document.querySelectorAll(".card").forEach((card) => observer.observe(card));
  $("shown").textContent = shown === total ? plural(total, "site") : `${shown} of ${plural(total, "site")}`;
}

function section(domain, report, lines, cards) {
  const grid = node("div", { class: "grid" });
  for (const line of lines) {
    const key = `${report.domain}/${report.target}/${line.site}`, known = state.cards.get(key);
    const card = known || new SiteCard(report, line, load);
    if (known) known.take(report, line);
    cards.set(key, card);
    grid.append(card.element);
  }
  const title = `${titled(report.domain)}: ${labelled(report.domain, report.target)}`;
  const span = `${dated(report.since_s)} to ${dated(report.until_s)}`;
  const made = node("section", { "aria-label": title },
    node("h2", {}, title, node("small", {}, `${report.model_version} · actuals of ${span} · looked at on ${dated(report.at_s)}`)));
  if (report.triggers.length) made.append(node("ul", { class: "asks" }, ...report.triggers.map(trigger)));
  if (report.remarks.length) made.append(node("ul", { class: "remarks" }, ...report.remarks.map((text) => node("li", {}, ...coded(text)))));
  made.append(...modelHistory(domain, report), grid);
  return made;
}

function trigger(one) {
  return node("li", {}, node("b", {}, `A retraining is asked for: ${KINDS[one.kind]}. `), ...coded(one.reason));
}

function modelHistory(domain, report) {
  const model = domain.models.find((one) => one.target === report.target);
  if (!model) {
    const why = domain.registry === "away" ? "The registry of models does not answer: who became champion when is not known now." : "";
    return why ? [node("p", { class: "hint" }, why)] : [];
  }
  if (!model.changes.length) return [];
  const roles = Object.entries(model.versions).map(([role, version]) => `v${version} ${role}`).join(", ");
  const version = (number) => (number === null ? "none" : `v${number}`);
  const rows = model.changes.slice(0, SHOWN_CHANGES).map((change) => node("tr", { class: change.took ? null : "not" },
    node("td", { class: "when" }, `${change.at.slice(0, 10)} ${change.at.slice(11, 16)}`),
    node("td", { class: "what" }, `${change.alias}: ${version(change.from_version)} → ${version(change.to_version)}`),
    node("td", {}, change.took ? change.action : `${change.action}, did not take`),
    node("td", {}, change.approved_by ? `${change.by}, approved by ${change.approved_by}` : change.by),
    node("td", { class: "why" }, change.reason)));
  const head = node("tr", {}, ...["UTC", "alias", "what", "who", "why"].map((text) => node("th", { scope: "col" }, text)));
  const rest = model.changes.length - rows.length;
  return [node("details", { open: "" },
    node("summary", {}, node("b", {}, `Model history of ${model.model}`), ` · ${roles || "no version has a role"}`),
    node("div", { class: "scroll" }, node("table", {}, node("thead", {}, head), node("tbody", {}, ...rows))),
    ...(rest > 0 ? [node("p", { class: "hint" }, ...coded(`and ${plural(rest, "earlier change")}: \`towncast aliases ${report.domain}\` lists all`))] : []))];
}

function teaching(title, text, ...more) {
  return node("div", { class: "empty" }, node("p", { class: "title" }, title), ...(text ? [node("p", {}, ...coded(text))] : []), ...more);
}

function nothingYet(missing) {
  const command = missing ? (missing.reason.match(/`([^`]+)`/) || [])[1] : "";
  return teaching("No report yet", "A report says how each site does once forecasts have met their actuals. It appears here, without a reload, after",
    node("pre", {}, node("code", {}, command ? command.split(" ").slice(0, 2).join(" ") : "towncast monitor")));
}

function alsoMissing(missing) {
  const of = missing.map((one) => `${one.domain} (${labelled(one.domain, one.target)})`).join(", ");
  return node("p", { class: "hint" }, ...coded(`No report yet of ${of}: run \`towncast monitor\`.`));
}

function nothingFound() {
  const clear = node("button", { type: "button", class: "plain" }, "Show all sites");
  clear.addEventListener("click", () => { $("search").value = ""; choose({ search: "", domain: "", state: "" }); });
  return teaching("No site fits", "", clear);
}

function chip(kind, value, label, count) {
  const made = node("button", { type: "button", [`data-${kind}`]: value, "aria-pressed": String(state[kind] === value) }, label, " ", node("small", {}, String(count)));
  made.addEventListener("click", () => choose({ [kind]: value }));
  return made;
}

function writeChips() {
  const focused = document.activeElement?.closest(".chips button");
  const [kind, value] = Object.entries(focused?.dataset || {})[0] || [];
  const all = reports(), count = (lines, of) => lines.filter((line) => !of || line.state === of).length;
  const lines = all.filter(inDomain).flatMap((report) => report.assessments).filter(named);
  $("domains").replaceChildren(chip("domain", "", "All", all.reduce((sum, report) => sum + report.assessments.length, 0)),
    ...state.domains.filter((domain) => domain.reports.length).map((domain) => chip("domain", domain.domain, titled(domain.domain),
      domain.reports.reduce((sum, report) => sum + report.assessments.length, 0))));
  $("states").replaceChildren(chip("state", "", "Any state", lines.length), ...STATES.map((one) => chip("state", one, badge(one), count(lines, one))));
  if (kind) document.querySelector(`.chips [data-${kind}="${value}"]`)?.focus();
}

function choose(changes) {
  Object.assign(state, changes);
  const kept = new URLSearchParams();
  for (const name of ["domain", "state"]) if (state[name]) kept.set(name, state[name]);
  if (state.search.trim()) kept.set("search", state.search.trim());
  if (state.weeks !== "26") kept.set("weeks", state.weeks);
  history.replaceState(null, "", `${location.pathname}${kept.size ? `?${kept}` : ""}`);
  layOut();
}

function listen() {
  $("search").value = state.search;
  $("weeks").value = state.weeks;
  if (!$("weeks").value) $("weeks").value = state.weeks = "26";
  $("search").addEventListener("input", () => choose({ search: $("search").value }));
  $("weeks").addEventListener("change", () => {
    choose({ weeks: $("weeks").value });
    for (const card of state.cards.values()) card.forget();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName)) {
      event.preventDefault();
      $("search").focus();
    }
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    asking.useKey($("key").value);
    look();
  });
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, shown = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = shown === "dark" ? "light" : "dark";
  });
  let width = $("sites").clientWidth;
  new ResizeObserver(() => {
    if ($("sites").clientWidth === width) return;
    width = $("sites").clientWidth;
    requestAnimationFrame(() => { for (const card of state.cards.values()) if (card.seen) card.draw(); });
  }).observe($("sites"));
}

listen();
look();
