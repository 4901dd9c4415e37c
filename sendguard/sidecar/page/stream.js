// The stream of server-sent events, read with fetch: EventSource cannot show a token but in the URL.

const SILENCE = 15000; // ms without a byte, though the sidecar says something every 5 s
const LONGEST_WAIT = 15000; // ms between two tries

export class Stream {
  #token = null;
  #attempt = null; // what ends the connection that there is
  #timer = null;
  #tries = 0;

  /** on: open(), frame(object), cut(seconds until the next try, detail), refused(). */
  constructor(url, on) {
    this.url = url;
    this.on = on;
    addEventListener("online", () => this.#timer !== null && this.start(this.#token));
  }

  /** Connect, in place of any connection that there is. token: null where none is known. */
  start(token) {
    this.stop();
    this.#token = token;
    this.#run((this.#attempt = new AbortController()));
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#attempt?.abort();
    this.#attempt = null;
  }

  async #run(attempt) {
    let detail = "";
    try {
      detail = await this.#connect(attempt);
    } catch {
      // Every way in which a connection fails or ends is the same: it is cut.
    }
    if (attempt === this.#attempt && detail !== null) this.#later(detail);
  }

  /** Returns null if the token is refused, else when the stream ended, with what the sidecar said of it. */
  async #connect(attempt) {
    const silence = new Watchdog(SILENCE, () => attempt.abort());
    try {
      const headers = this.#token === null ? {} : { authorization: `Bearer ${this.#token}` };
      const response = await fetch(this.url, { headers, cache: "no-store", signal: attempt.signal });
      if (response.status === 401) {
        this.on.refused();
        return null;
      }
      if (!response.ok) return (await response.json()).detail;
      this.on.open();
      await this.#read(response.body, silence);
      return "";
    } finally {
      silence.stop();
    }
  }

  async #read(body, silence) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      silence.postpone();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) this.#take(event);
    }
  }

  #take(event) {
    const data = event.split("\n").find((line) => line.startsWith("data: "));
    if (data === undefined) return;
    this.#tries = 0;
    this.on.frame(JSON.parse(data.slice(6)));
  }

  #later(detail) {
    const wait = Math.min(LONGEST_WAIT, 1000 * 2 ** this.#tries++) * (0.75 + Math.random() / 4);
    this.#timer = setTimeout(() => this.start(this.#token), wait);
    this.on.cut(wait / 1000, detail);
  }
}

class Watchdog {
  #timer;

  constructor(patience, bark) {
    this.patience = patience;
    this.bark = bark;
    this.postpone();
  }

  postpone() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.bark, this.patience);
  }

  stop() {
    clearTimeout(this.#timer);
  }
}
