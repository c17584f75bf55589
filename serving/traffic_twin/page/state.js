// What the parts of the page share: the network, the latest message, what is looked at.

export const $ = (id) => document.getElementById(id);

export const state = {
  network: null, roads: [], byId: new Map(), message: null, series: [], view: { zoom: 1, x: 0, y: 0 },
  hovered: null, pointer: null, messages: 0, rows: new Map(),
};

// What draws; set by page.js, asked for by whoever changes something.
let draw = () => {};
let dirty = false;

export function drawWith(work) {
  draw = work;
}

// Once for each frame of the screen, however many messages come.
export function redraw() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => {
    dirty = false;
    draw();
  });
}
