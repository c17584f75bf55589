// The twin's page: one WebSocket, one network, drawn again whenever a message comes.

import { bounds, drawChart, drawMap, drawScale } from "./drawing.js";
import { listenToPointer, listenToTheme } from "./pointer.js";
import { $, drawWith, redraw, state } from "./state.js";
import { say, showTip, writeControls, writeFigures, writeNetwork } from "./text.js";

const MOST_POINTS = 1500; // of the chart; beyond, every second one is let go

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

function drawAll() {
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

drawWith(drawAll);
drawScale();
listenToPointer();
listenToTheme();
new ResizeObserver(redraw).observe($("map"));
connect(500);
