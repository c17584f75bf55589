// The map, its scale and the chart.

import { $, state } from "./state.js";

// From a standing queue to free flow: ColorBrewer's red, yellow, blue, which colour-blind eyes tell apart,
// its darkest blue lightened to be seen on a dark ground too.
const COLOURS = [[178, 24, 43], [239, 108, 74], [253, 200, 110], [150, 199, 224], [62, 138, 196]];

function colourOf(share) {
  const at = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(at), COLOURS.length - 2);
  const mixed = COLOURS[low].map((part, i) => Math.round(part + (COLOURS[low + 1][i] - part) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

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

export function bounds(edges) {
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

export function drawMap() {
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
  for (const panel of document.querySelectorAll(".legend, .zoom")) {
    const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = panel;
    taken.push([offsetLeft, offsetTop, offsetLeft + offsetWidth, offsetTop + offsetHeight]);
  }
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

export function drawScale() {
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

export function drawChart() {
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
