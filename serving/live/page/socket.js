// The connection: it comes back by itself, and asks for the key where one is needed.

export const KEY = "towncast-key";
const LOOK_S = 30, LOOK_SOON_S = 5;

export class Connection {
  // `on` has state(kind, text), overview(overview), message(message) and key(reason).
  constructor(on) {
    this.on = on;
    this.socket = null;
    this.pause = 500;
    this.timer = null;
  }

  get key() {
    return sessionStorage.getItem(KEY) || "";
  }

  useKey(key) {
    sessionStorage.setItem(KEY, key.trim());
    this.connect();
  }

  async connect() {
    clearTimeout(this.timer);
    this.on.state("connecting", "connecting");
    let answer;
    try {
      answer = await fetch("data/live", { cache: "no-store", headers: this.key ? { Authorization: `Bearer ${this.key}` } : {} });
    } catch {
      this.again("no answer");
      return;
    }
    const content = await answer.json().catch(() => ({}));
    if (answer.status === 401 || answer.status === 403) {
      this.on.state("locked", "a key is needed");
      this.on.key(this.key ? content.error?.message || "The key is not accepted." : "");
    } else if (!answer.ok) {
      this.again(content.error?.message || `answer ${answer.status}`);
    } else {
      this.on.overview(content);
      this.open();
    }
  }

  open() {
    const address = new URL("ws", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    // A browser can give a WebSocket no header; beside "bearer" the key goes as a second protocol.
    const socket = this.key ? new WebSocket(address, ["bearer", this.key]) : new WebSocket(address);
    this.socket = socket;
    socket.onopen = () => {
      this.pause = 500;
      this.on.state("live", "live");
      this.look(LOOK_SOON_S);
    };
    socket.onmessage = (event) => this.take(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.socket === socket) this.again(event.reason || "connection lost");
    };
  }

  take(message) {
    if (message.event === "list") {
      this.on.overview(message);
      this.look(message.channels.every((channel) => channel.ready) ? LOOK_S : LOOK_SOON_S);
    } else {
      this.on.message(message);
    }
  }

  // New sites and new models are found by looking.
  look(seconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.say({ action: "list" }), seconds * 1000);
  }

  again(text) {
    clearTimeout(this.timer);
    this.socket = null;
    this.pause = Math.min(this.pause * 2, 15000);
    this.on.state("waiting", `${text}, trying again`);
    this.timer = setTimeout(() => this.connect(), this.pause * (0.75 + Math.random() / 2));
  }

  say(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }
}
