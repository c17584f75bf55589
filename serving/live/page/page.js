// The dashboard: sections of cards, those that are seen are followed.

import { Card } from "./cards.js";
import { Connection } from "./socket.js";
import { coded, node, plural, titled } from "./words.js";

const $ = (id) => document.getElementById(id);
const FLUSH_MS = 500; // between two rounds of subscriptions: clients may not say much in a second
const asked = new URLSearchParams(location.search);
const state = {
  channels: [], cards: new Map(), domain: asked.get("domain") || "", search: asked.get("search") || "",
  seen: new Set(), followed: new Set(), offset: 0, updates: 0, shape: "",
};
const now = () => Date.now() + state.offset;

const connection = new Connection({
  state: (kind, text) => {
    document.body.dataset.state = kind;
    $("connection-text").textContent = text;
    if (kind === "live") {
      state.followed.clear();
      if ($("key-dialog").open) $("key-dialog").close();
      flush();
    }
  },
  overview: takeOverview,
  message: takeMessage,
  key: (reason) => {
    $("key-reason").replaceChildren(...coded(reason));
    $("key").value = "";
    if (!$("key-dialog").open) $("key-dialog").showModal();
    $("key").focus();
  },
});

function takeOverview(overview) {
  state.offset = Date.parse(overview.timestamp) - Date.now();
  state.channels = overview.channels;
  // Sections are made anew only where something is another: scrolled places and open cursors stay.
  const shape = JSON.stringify(overview.channels);
  if (shape === state.shape) return;
  state.shape = shape;
  layOut();
}

function takeMessage(message) {
  if (message.error && !message.channel) {
    // What was not answered is said again; what is wrong otherwise is for who reads the console.
    if (message.error.code === "RATE_LIMITED") { state.followed.clear(); setTimeout(flush, 1200); }
    else console.warn(message.error.message);
    return;
  }
  const channel = state.channels.find((one) => one.channel === (message.data?.domain || message.channel));
  if (!channel || !message.data) return;
  state.offset = Date.parse(message.timestamp) - Date.now();
  state.cards.get(`${channel.channel}/${message.data[channel.id]}`)?.take(message);
  const interval = (message.data.forecast?.[0] || message.data.forecast?.["PM2.5"]?.[0])?.confidence_interval;
  if (interval?.confidence) $("confidence").textContent = `${interval.confidence * 100} % interval`;
  state.updates += 1;
  document.body.dataset.updates = state.updates;
}

// Which sites are seen, and from that what is followed.
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const { card } = target;
    if (isIntersecting) { state.seen.add(card); card.show(); } else { state.seen.delete(card); card.hide(); }
  }
  flush();
}, { rootMargin: "240px 0px" });

let flushing = null;

function flush() {
  if (flushing) return;
  follow();
  flushing = setTimeout(() => { flushing = null; follow(); }, FLUSH_MS);
}

function follow() {
  if (document.body.dataset.state !== "live") return;
  const wanted = new Set([...state.seen].map((card) => card.key));
  tell("subscribe", [...wanted].filter((key) => !state.followed.has(key)));
  tell("unsubscribe", [...state.followed].filter((key) => !wanted.has(key)));
  state.followed = wanted;
}

function tell(action, keys) {
  const readings = {};
  for (const channel of state.channels) {
    const names = keys.filter((key) => key.startsWith(`${channel.channel}/`)).map((key) => key.slice(channel.channel.length + 1));
    if (!names.length) continue;
    readings[channel.filter] = names;
    connection.say({ action, channel: channel.channel, filters: { [channel.filter]: names } });
  }
  if (Object.keys(readings).length) connection.say({ action, channel: "readings", filters: readings });
}

const fits = (channel, site) => (!state.domain || state.domain === channel.channel)
  && site.toLowerCase().includes(state.search.trim().toLowerCase());

function layOut() {
  writeDomains();
  observer.disconnect();
  state.seen.clear();
  const cards = new Map(), sections = [];
  let shown = 0;
  for (const channel of state.channels) {
    if (state.domain && state.domain !== channel.channel) continue;
    const chosen = channel.sites.filter((site) => fits(channel, site));
    shown += chosen.length;
    if (chosen.length || (!state.search && !channel.ready) || (!state.search && !channel.sites.length)) {
      sections.push(section(channel, chosen, cards));
    }
  }
  for (const [key, card] of state.cards) if (!cards.has(key)) card.hide();
  // Cards that are not shown now keep what they know, as long as their site is there.
  for (const channel of state.channels) {
    for (const site of channel.sites) {
      const key = `${channel.channel}/${site}`;
      if (!cards.has(key) && state.cards.has(key)) cards.set(key, state.cards.get(key));
    }
  }
  state.cards = cards;
  if (!state.channels.some((channel) => channel.ready)) sections.unshift(nothingLoaded());
  else if (!shown && state.search) sections.push(nothingFound());
  $("sites").replaceChildren(...sections);
  document.querySelectorAll(".card").forEach((card) => observer.observe(card));
  const total = state.channels.reduce((sum, channel) => sum + channel.sites.length, 0);
  $("shown").textContent = shown === total ? plural(total, "site") : `${shown} of ${plural(total, "site")}`;
  flush();
}

function section(channel, sites, cards) {
  const grid = node("div", { class: "grid" });
  for (const site of sites) {
    const key = `${channel.channel}/${site}`, card = state.cards.get(key) || new Card(channel, site, now);
    card.channel = channel;
    card.hide();
    cards.set(key, card);
    grid.append(card.element);
  }
  const versions = channel.models.map((model) => model.model_version).filter(Boolean).join(", ");
  const made = node("section", { "aria-label": titled(channel.channel) },
    node("h2", {}, titled(channel.channel), node("small", {}, versions || "no model yet")));
  const missing = channel.models.filter((model) => model.reason);
  if (!channel.ready) made.append(teaching(`No model of ${channel.channel} answers yet`, missing[0]?.reason));
  else if (!channel.sites.length) {
    made.append(teaching(`No ${channel.entity} is known yet`, "A site appears here with its first readings.", "towncast ingest --help"));
  }
  if (channel.ready && missing.length) made.append(node("p", { class: "hint" }, ...coded(missing[0].reason)));
  made.append(grid);
  return made;
}

function teaching(title, text, command) {
  return node("div", { class: "empty" }, node("p", { class: "title" }, title),
    ...(text ? [node("p", {}, ...coded(text))] : []), ...(command ? [node("pre", {}, node("code", {}, command))] : []));
}

function nothingLoaded() {
  return teaching("No model is loaded yet",
    "Forecasts appear here, without a reload, as soon as one is trained and registered. This trains one of traffic in minutes:", "make train");
}

function nothingFound() {
  const made = teaching(`No site is called like “${state.search.trim()}”`, "");
  const clear = node("button", { type: "button", class: "plain" }, "Show all sites");
  clear.addEventListener("click", () => { $("search").value = ""; choose({ search: "", domain: "" }); });
  made.append(clear);
  return made;
}

function writeDomains() {
  const focused = document.activeElement?.dataset?.domain;
  const chip = (domain, label, count) => {
    const made = node("button", { type: "button", "data-domain": domain, "aria-pressed": String(state.domain === domain) },
      `${label} `, node("small", {}, String(count)));
    made.addEventListener("click", () => choose({ domain }));
    return made;
  };
  const total = state.channels.reduce((sum, channel) => sum + channel.sites.length, 0);
  $("domains").replaceChildren(chip("", "All", total),
    ...state.channels.map((channel) => chip(channel.channel, titled(channel.channel), channel.sites.length)));
  if (focused !== undefined) $("domains").querySelector(`[data-domain="${focused}"]`)?.focus();
}

function choose(changes) {
  Object.assign(state, changes);
  const kept = new URLSearchParams();
  if (state.domain) kept.set("domain", state.domain);
  if (state.search.trim()) kept.set("search", state.search.trim());
  history.replaceState(null, "", `${location.pathname}${kept.size ? `?${kept}` : ""}`);
  layOut();
}

function listen() {
  $("search").value = state.search;
  $("search").addEventListener("input", () => choose({ search: $("search").value }));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName)) {
      event.preventDefault();
      $("search").focus();
    }
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    connection.useKey($("key").value);
  });
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, shown = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = shown === "dark" ? "light" : "dark";
  });
  const redraw = () => { for (const card of state.seen) card.draw(); };
  let width = $("sites").clientWidth;
  new ResizeObserver(() => {
    if ($("sites").clientWidth === width) return;
    width = $("sites").clientWidth;
    requestAnimationFrame(redraw);
  }).observe($("sites"));
  // Ages and the line of now go on without any message.
  setInterval(() => { for (const card of state.seen) card.write(); }, 60e3);
  $("clock").textContent = `Times are of ${Intl.DateTimeFormat().resolvedOptions().timeZone.replaceAll("_", " ")}, this browser's time zone.`;
}

listen();
connection.connect();
