// Questions to the API, a few at once, with the key where one is needed.

import { KEY } from "./socket.js";

const AT_ONCE = 4;

export class Asking {
  // `on` has state(kind, text) and key(reason).
  constructor(on) {
    this.on = on;
    this.waiting = [];
    this.running = 0;
  }

  get key() {
    return sessionStorage.getItem(KEY) || "";
  }

  useKey(key) {
    sessionStorage.setItem(KEY, key.trim());
  }

  // The content of an answer; raises with the API's own words where it is refused.
  async get(path) {
    if (this.running >= AT_ONCE) await new Promise((go) => this.waiting.push(go));
    this.running += 1;
    try {
      return await this.fetch(path);
    } finally {
      this.running -= 1;
      this.waiting.shift()?.();
    }
  }

  async fetch(path) {
    let answer;
    try {
      answer = await fetch(path, { cache: "no-store", headers: this.key ? { Authorization: `Bearer ${this.key}` } : {} });
    } catch {
      this.on.state("waiting", "no answer, trying again");
      throw new Error("No answer.");
    }
    const content = await answer.json().catch(() => ({}));
    if (answer.ok) return content;
    const message = content.error?.message || `answer ${answer.status}`;
    if (answer.status === 401 || answer.status === 403) {
      this.on.state("locked", "a key is needed");
      this.on.key(this.key ? message : "");
    }
    throw new Error(message);
  }
}
