// Looking closer: hover, drag, zoom, light and dark.

import { $, redraw, state } from "./state.js";

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

export function listenToPointer() {
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

export function listenToTheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    redraw();
  });
}
