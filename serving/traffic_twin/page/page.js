// The twin's page: one WebSocket, one network, drawn again whenever a message comes.

const $ = (id) => document.getElementById(id);
const QUEUE_SHARE = 0.3; // of the limit: below this a road counts as queued
const MOST_POINTS = 1500; // of the chart; beyond, every second one is let go
// From a standing queue to free flow: ColorBrewer's red, yellow, blue, which colour-blind eyes tell apart,
// its darkest blue lightened to be seen on a dark ground too.
const COLOURS = [[178, 24, 43], [239, 108, 74], [253, 200, 110], [150, 199, 224], [62, 138, 196]];

const state = {
  network: null, roads: [], byId: new Map(), message: null, series: [], view: { zoom: 1, x: 0, y: 0 },
  hovered: null, pointer: null, messages: 0, dirty: false, rows: new Map(),
};

function colourOf(share) {
  const at = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(at), COLOURS.length - 2);
  const mixed = COLOURS[low].map((part, i) => Math.round(part + (COLOURS[low + 1][i] - part) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// ---------------------------------------------------------------- canvas

function sharp(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function bounds(edges) {
  const box = { left: Infinity, right: -Infinity, low: Infinity, high: -Infinity };
  for (const edge of edges) {
    for (const [x, y] of edge.shape) {
      box.left = Math.min(box.left, x); box.right = Math.max(box.right, x);
      box.low = Math.min(box.low, y); box.high = Math.max(box.high, y);
    }
  }
  return box;
}

function project(width, height) {
  const box = state.network.box;
  // Beside the roads there is room for the names of control points.
  const [beside, above] = [Math.min(120, width / 8), Math.min(48, height / 10)];
  const fit = Math.min((width - 2 * beside) / Math.max(box.right - box.left, 1),
    (height - 2 * above) / Math.max(box.high - box.low, 1));
  const { zoom, x, y } = state.view;
  const scale = fit * zoom;
  const middle = [(box.left + box.right) / 2, (box.low + box.high) / 2];
  return { scale, place: ([px, py]) => [width / 2 + x + (px - middle[0]) * scale, height / 2 + y - (py - middle[1]) * scale] };
}

// Both directions of a street often have the same middle: each is drawn somewhat to its right.
function beside(points, distance) {
  return points.map((point, i) => {
    const before = points[Math.max(i - 1, 0)], after = points[Math.min(i + 1, points.length - 1)];
    const dx = after[0] - before[0], dy = after[1] - before[1], length = Math.hypot(dx, dy) || 1;
    return [point[0] - (dy / length) * distance, point[1] + (dx / length) * distance];
  });
}

function layOut(width, height) {
  const { scale, place } = project(width, height);
  // True to scale a lane would be too thin to show a colour: the fewer roads, the more it is widened.
  const least = Math.min(Math.max(36 / Math.sqrt(state.roads.length), 1.6), 5);
  const perLane = Math.min(Math.max(scale * 3.2, least), 8);
  for (const road of state.roads) {
    road.width = Math.min(Math.max(perLane * road.lanes, 2.2), 26);
    road.points = beside(road.shape.map(place), road.width / 2 + 0.7);
  }
}

function trace(pen, points) {
  pen.moveTo(points[0][0], points[0][1]);
  for (let i = 1; i < points.length; i += 1) pen.lineTo(points[i][0], points[i][1]);
}

function stroke(pen, road, width, colour) {
  pen.beginPath();
  trace(pen, road.points);
  pen.lineWidth = width;
  pen.strokeStyle = colour;
  pen.stroke();
}

function drawMap() {
  const { pen, width, height } = sharp($("map"));
  if (!state.network || width === 0) return;
  layOut(width, height);
  pen.lineCap = "butt";
  pen.lineJoin = "round";
  const empty = themed("--road-empty"), casing = themed("--casing");
  const busy = state.roads.filter((road) => road.count > 0);
  for (const road of state.roads) if (!(road.count > 0)) stroke(pen, road, Math.max(road.width * 0.55, 1.1), empty);
  for (const road of busy) stroke(pen, road, road.width + 1.6, casing);
  // The slowest last, so that a queue is never hidden under a crossing road.
  busy.sort((one, other) => other.share - one.share);
  for (const road of busy) stroke(pen, road, road.width, colourOf(road.share));
  if (state.hovered) {
    stroke(pen, state.hovered, state.hovered.width + 5, themed("--ink"));
    stroke(pen, state.hovered, state.hovered.width, state.hovered.count > 0 ? colourOf(state.hovered.share) : empty);
  }
  drawControls(pen);
}

function drawControls(pen) {
  const controls = state.message ? state.message.controls : [];
  const spots = [];
  for (const control of controls) {
    const road = state.byId.get(control.edge_id);
    if (!road) continue;
    const [x, y] = road.points[0];
    const flow = control.baseline_veh_per_hour * control.multiplier;
    const spot = { control, x, y, radius: Math.min(4 + Math.sqrt(flow) / 6, 12), flow };
    spots.push(spot);
    pen.beginPath();
    pen.arc(x, y, spot.radius, 0, 2 * Math.PI);
    pen.fillStyle = themed("--panel");
    pen.fill();
    pen.lineWidth = 2.5;
    pen.strokeStyle = themed("--ink");
    pen.stroke();
  }
  drawLabels(pen, spots);
}

// The largest flows first, each where it covers no other label and no control point; who finds no place has none.
function drawLabels(pen, spots) {
  const { clientWidth, clientHeight } = $("map");
  const taken = spots.map(({ x, y, radius }) => [x - radius, y - radius, x + radius, y + radius]);
  const free = (box) => box[0] > 4 && box[2] < clientWidth - 4 && box[1] > 4 && box[3] < clientHeight - 4
    && taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
  pen.font = "600 12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  for (const { control, x, y, radius } of [...spots].sort((one, other) => other.flow - one.flow)) {
    const text = `${control.control_id}  ×${control.multiplier.toFixed(2)}`;
    const wide = pen.measureText(text).width + 10;
    const away = radius + 6;
    const [right, left] = [[x + away, y - 10], [x - away - wide, y - 10]];
    const [over, under] = [[x - wide / 2, y - away - 20], [x - wide / 2, y + away]];
    const outward = x < clientWidth / 2 ? [left, over, under, right] : [right, over, under, left];
    const box = outward
      .map(([left, top]) => [left, top, left + wide, top + 20]).find(free);
    if (!box) continue;
    taken.push(box);
    pen.fillStyle = themed("--label");
    pen.beginPath();
    pen.roundRect(box[0], box[1], wide, 20, 5);
    pen.fill();
    pen.fillStyle = themed("--ink");
    pen.fillText(text, box[0] + 5, box[1] + 10.5);
  }
}

function drawScale() {
  const pen = $("scale").getContext("2d");
  for (let x = 0; x < 220; x += 1) {
    pen.fillStyle = colourOf(x / 219);
    pen.fillRect(x, 0, 1, 12);
  }
}

function niceStep(largest, parts) {
  const rough = Math.max(largest, 1) / parts;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough && step >= 1) || 1;
}

function drawChart() {
  const { pen, width, height } = sharp($("chart"));
  const series = state.series;
  const area = { left: 40, right: width - 8, top: 8, bottom: height - 22 };
  const largest = Math.max(4, ...series.map((point) => point.vehicles));
  const step = niceStep(largest, 4);
  const top = Math.ceil(largest / step) * step;
  const first = series.length ? series[0].time : 0;
  const last = series.length ? Math.max(series[series.length - 1].time, first + 60) : 60;
  const xOf = (time) => area.left + ((time - first) / (last - first)) * (area.right - area.left);
  const yOf = (value) => area.bottom - (value / top) * (area.bottom - area.top);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = themed("--soft");
  pen.strokeStyle = themed("--grid");
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let value = 0; value <= top; value += step) {
    pen.beginPath();
    pen.moveTo(area.left, Math.round(yOf(value)) + 0.5);
    pen.lineTo(area.right, Math.round(yOf(value)) + 0.5);
    pen.stroke();
    pen.fillText(value.toLocaleString("en"), area.left - 7, yOf(value));
  }
  if (!series.length) return;
  pen.textBaseline = "alphabetic";
  const label = (point) => (point ? point.clock : "");
  pen.textAlign = "left";
  pen.fillText(label(series[0]), area.left, height - 5);
  pen.textAlign = "right";
  if (series.length > 1) pen.fillText(label(series[series.length - 1]), area.right, height - 5);
  pen.beginPath();
  series.forEach((point, i) => {
    if (i === 0) pen.moveTo(xOf(point.time), yOf(point.vehicles));
    else pen.lineTo(xOf(point.time), yOf(point.vehicles));
  });
  pen.lineWidth = 1.8;
  pen.lineJoin = "round";
  pen.strokeStyle = themed("--accent");
  pen.stroke();
  const end = series[series.length - 1];
  pen.lineTo(xOf(end.time), area.bottom);
  pen.lineTo(xOf(first), area.bottom);
  pen.closePath();
  pen.fillStyle = themed("--fill");
  pen.fill();
  pen.beginPath();
  pen.arc(xOf(end.time), yOf(end.vehicles), 3.2, 0, 2 * Math.PI);
  pen.fillStyle = themed("--accent");
  pen.fill();
}

// ---------------------------------------------------------------- text

function duration(seconds) {
  const hours = Math.floor(seconds / 3600), minutes = Math.floor((seconds % 3600) / 60);
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.round(seconds)} s`;
}

function writeFigures(message) {
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
  return vehicles;
}

function cell(row, kind, text) {
  const made = row.insertCell();
  made.className = kind;
  made.textContent = text;
  return made;
}

function writeControls(message) {
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

function writeNetwork(network) {
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

function say(kind, text) {
  document.body.dataset.state = kind;
  $("connection-text").textContent = text;
}

// ---------------------------------------------------------------- messages

function take(message) {
  const before = state.message;
  if (before && message.sim_time_s < before.sim_time_s) state.series = []; // another run
  state.message = message;
  for (const edge of message.edges) {
    const road = state.byId.get(edge.edge_id);
    if (!road) continue;
    road.count = edge.veh_count;
    road.speed = edge.mean_speed_mps;
    road.share = edge.mean_speed_mps / road.speed_limit_mps;
  }
  const vehicles = message.edges.reduce((sum, edge) => sum + edge.veh_count, 0);
  state.series.push({ time: message.sim_time_s, vehicles, clock: message.ts.slice(11, 16) });
  if (state.series.length > MOST_POINTS) {
    state.series = state.series.filter((point, i) => i % 2 === 0 || i === state.series.length - 1);
  }
  state.messages += 1;
  redraw();
}

function redraw() {
  if (state.dirty) return;
  state.dirty = true;
  requestAnimationFrame(() => {
    state.dirty = false;
    if (!state.network) return;
    if (state.message) {
      writeFigures(state.message);
      writeControls(state.message);
    }
    drawMap();
    drawChart();
    showTip();
    document.body.dataset.messages = state.messages;
    if (state.message) document.body.dataset.simTime = state.message.sim_time_s;
  });
}

async function loadNetwork() {
  const answer = await fetch("network.json", { cache: "no-store" });
  if (!answer.ok) throw new Error(`network.json: ${answer.status}`);
  const network = await answer.json();
  network.box = bounds(network.edges);
  network.histories = new Map(network.controls.map((control) => [control.control_id, control.history]));
  state.network = network;
  state.roads = network.edges.map((edge) => ({ ...edge, count: 0, speed: edge.speed_limit_mps, share: 1, points: [] }));
  state.byId = new Map(state.roads.map((road) => [road.edge_id, road]));
  state.hovered = null;
  writeNetwork(network);
}

function connect(pause) {
  say("connecting", "connecting");
  const again = (kind, text) => {
    const wait = Math.min(pause * 2, 8000);
    say(kind, `${text}, trying again`);
    setTimeout(() => connect(wait), pause * (0.75 + Math.random() / 2));
  };
  loadNetwork().then(() => {
    const address = new URL("./", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
    socket.onopen = () => { pause = 500; say("live", "live"); };
    socket.onmessage = (event) => take(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (event.code === 1011) again("failed", `the twin failed: ${event.reason}`);
      else again("waiting", event.reason || "connection lost");
    };
  }).catch(() => again("waiting", "no answer"));
}

// ---------------------------------------------------------------- pointer

function distanceTo(points, [x, y]) {
  let least = Infinity;
  for (let i = 1; i < points.length; i += 1) {
    const [ax, ay] = points[i - 1], [bx, by] = points[i];
    const dx = bx - ax, dy = by - ay, square = dx * dx + dy * dy;
    const along = square ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / square, 0), 1) : 0;
    least = Math.min(least, Math.hypot(x - ax - along * dx, y - ay - along * dy));
  }
  return least;
}

function showTip() {
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

function hover(event) {
  const box = $("map").getBoundingClientRect();
  state.pointer = [event.clientX - box.left, event.clientY - box.top];
  let best = null, least = 9;
  for (const road of state.roads) {
    const far = distanceTo(road.points, state.pointer) - road.width / 2;
    if (far < least) { best = road; least = far; }
  }
  state.hovered = best;
  redraw();
}

function zoomBy(factor, centre) {
  const { clientWidth, clientHeight } = $("map");
  const [cx, cy] = centre || [clientWidth / 2, clientHeight / 2];
  const view = state.view;
  const zoom = Math.min(Math.max(view.zoom * factor, 0.5), 60);
  const real = zoom / view.zoom;
  view.x = (view.x + clientWidth / 2 - cx) * real + cx - clientWidth / 2;
  view.y = (view.y + clientHeight / 2 - cy) * real + cy - clientHeight / 2;
  view.zoom = zoom;
  redraw();
}

function listenToPointer() {
  const map = $("map");
  let grip = null;
  map.addEventListener("pointerdown", (event) => {
    grip = [event.clientX - state.view.x, event.clientY - state.view.y];
    map.setPointerCapture(event.pointerId);
    map.classList.add("dragging");
  });
  map.addEventListener("pointerup", () => { grip = null; map.classList.remove("dragging"); });
  map.addEventListener("pointermove", (event) => {
    if (!grip) { hover(event); return; }
    state.view.x = event.clientX - grip[0];
    state.view.y = event.clientY - grip[1];
    redraw();
  });
  map.addEventListener("pointerleave", () => { state.hovered = null; state.pointer = null; redraw(); });
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = map.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 400), [event.clientX - box.left, event.clientY - box.top]);
  }, { passive: false });
  map.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.key === "+" || event.key === "=") zoomBy(1.4);
    else if (event.key === "-") zoomBy(1 / 1.4);
    else if (event.key === "0") showAll();
    else if (moves[event.key]) { state.view.x += moves[event.key][0]; state.view.y += moves[event.key][1]; redraw(); }
    else return;
    event.preventDefault();
  });
  $("zoom-in").addEventListener("click", () => zoomBy(1.5));
  $("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  $("zoom-all").addEventListener("click", showAll);
}

function showAll() {
  state.view = { zoom: 1, x: 0, y: 0 };
  redraw();
}

function listenToTheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    redraw();
  });
}

drawScale();
listenToPointer();
listenToTheme();
new ResizeObserver(redraw).observe($("map"));
connect(500);
