// Figures, control points and what is said about them.

import { $, redraw, state } from "./state.js";

const QUEUE_SHARE = 0.3; // of the limit: below this a road counts as queued

function duration(seconds) {
  const hours = Math.floor(seconds / 3600), minutes = Math.floor((seconds % 3600) / 60);
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.round(seconds)} s`;
}

export function writeFigures(message) {
  let vehicles = 0, weighted = 0, queued = 0;
  for (const edge of message.edges) {
    const road = state.byId.get(edge.edge_id);
    if (!road) continue;
    vehicles += edge.veh_count;
    weighted += edge.veh_count * road.share;
    if (edge.veh_count > 0 && road.share < QUEUE_SHARE) queued += 1;
  }
  $("vehicles").value = vehicles.toLocaleString("en");
  $("speed").value = vehicles ? `${Math.round((100 * weighted) / vehicles)} %` : "–";
  $("queues").value = queued;
  const [date, clock] = message.ts.split("T");
  $("clock-time").textContent = clock;
  $("clock-time").dateTime = `${message.ts}Z`;
  $("clock-date").textContent = `${date} UTC`;
  const speed = state.network.speed;
  const pace = speed === 0 ? "as fast as it can" : speed === 1 ? "real time" : `${speed} × real time`;
  $("elapsed").textContent = `${duration(message.sim_time_s)} simulated, ${pace}`;
  $("map").setAttribute("aria-label", `Road network at ${clock}: ${vehicles} vehicles, ${queued} roads below 30 % of their limit`);
}

function cell(row, kind, text) {
  const made = row.insertCell();
  made.className = kind;
  made.textContent = text;
  return made;
}

export function writeControls(message) {
  for (const control of message.controls) {
    let row = state.rows.get(control.control_id);
    if (!row) {
      const line = $("controls").insertRow();
      const point = cell(line, "point", control.control_id);
      const history = state.network.histories.get(control.control_id);
      if (history === "assumed" || history === "moved") {
        const tag = document.createElement("small");
        tag.textContent = history === "assumed" ? "history assumed" : "old readings";
        point.append(tag);
      }
      cell(line, "road", control.edge_id).title = control.edge_id;
      cell(line, "number", `${control.baseline_veh_per_hour.toLocaleString("en")} `);
      const unit = document.createElement("small");
      unit.textContent = "/h";
      line.cells[2].append(unit);
      const holder = cell(line, "multiplier", "");
      const value = document.createElement("span"), bar = document.createElement("div"), fill = document.createElement("i");
      bar.className = "bar";
      bar.append(fill);
      holder.append(value, bar);
      line.addEventListener("pointerenter", () => { state.hovered = state.byId.get(control.edge_id) || null; redraw(); });
      line.addEventListener("pointerleave", () => { state.hovered = null; redraw(); });
      row = { value, fill };
      state.rows.set(control.control_id, row);
    }
    row.value.textContent = `× ${control.multiplier.toFixed(2)}`;
    // The mark at 40 % of the bar is the baseline.
    row.fill.style.width = `${Math.min(control.multiplier * 40, 100)}%`;
  }
}

export function writeNetwork(network) {
  $("model").textContent = network.model;
  const kinds = [...network.histories.values()];
  const assumed = kinds.filter((kind) => kind === "assumed").length;
  const moved = kinds.filter((kind) => kind === "moved").length;
  const parts = [];
  if (assumed) parts.push(`${assumed} of ${kinds.length} were never measured: the profile of the known sites, scaled to their baseline, stands in.`);
  if (moved) parts.push(`${moved} of ${kinds.length} have old readings, moved by whole weeks to stand in for the last ones.`);
  $("notice").hidden = parts.length === 0;
  $("notice").textContent = parts.join(" ");
  $("controls").replaceChildren();
  state.rows.clear();
}

export function say(kind, text) {
  document.body.dataset.state = kind;
  $("connection-text").textContent = text;
}

export function showTip() {
  const tip = $("tip"), road = state.hovered;
  if (!road || !state.pointer) { tip.hidden = true; return; }
  const kmh = (mps) => Math.round(mps * 3.6);
  const lines = [
    `${road.count} vehicle${road.count === 1 ? "" : "s"}`,
    road.count ? `${kmh(road.speed)} of ${kmh(road.speed_limit_mps)} km/h (${Math.round(road.share * 100)} %)` : `limit ${kmh(road.speed_limit_mps)} km/h`,
    `${Math.round(road.length_m)} m, ${road.lanes} lane${road.lanes === 1 ? "" : "s"}`,
  ];
  const title = document.createElement("b");
  title.textContent = road.edge_id;
  tip.replaceChildren(title, ...lines.map((text) => {
    const line = document.createElement("span");
    line.textContent = text;
    return line;
  }));
  tip.hidden = false;
  const { clientWidth, clientHeight } = $("map");
  const [x, y] = state.pointer;
  tip.style.left = `${x + 18 + tip.offsetWidth > clientWidth ? x - tip.offsetWidth - 12 : x + 18}px`;
  tip.style.top = `${Math.min(y + 12, clientHeight - tip.offsetHeight - 8)}px`;
}
