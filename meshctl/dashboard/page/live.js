// The stream of news: opens it, opens it again, and knows when what is shown is old.
//
// It is closed while the tab is hidden: a browser gives one server six connections in all, and a
// dozen forgotten tabs would use them up.

const TOPICS = ["mesh", "view", "status", "history", "denials"];
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

export class Live {
  #told;
  #changed;
  #source = null;
  #timer = 0;
  #wait = FIRST_WAIT_MS;
  /** "connecting", "live", "lost", "refused", "crowded" */
  state = "connecting";
  lastMs = 0;

  /** `told(topic, {at, error, data})` for each; `changed()` when `state` did. */
  constructor(told, changed) {
    this.#told = told;
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => this.#visible());
    this.#visible();
  }

  #visible() {
    if (document.hidden) this.#close();
    else if (!this.#source) this.#open();
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #open() {
    this.#close();
    const source = new EventSource("/live");
    this.#source = source;
    source.onopen = () => {
      this.#wait = FIRST_WAIT_MS;
      this.#become("live");
    };
    source.onerror = () => {
      this.#close();
      this.#become(this.state === "connecting" ? "connecting" : "lost");
      this.#why();
    };
    for (const topic of TOPICS) {
      source.addEventListener(topic, (event) => {
        this.lastMs = Date.now();
        this.#told(topic, JSON.parse(event.data));
      });
    }
  }

  /** An EventSource does not tell its status: a plain question does. */
  async #why() {
    let state = "lost";
    try {
      const answer = await fetch("/ask/past", { signal: AbortSignal.timeout(5000) });
      if (answer.status === 403) state = "refused";
      else if (answer.ok && this.state !== "live") state = "crowded";
    } catch {
      state = "lost";
    }
    if (this.#source || document.hidden) return;
    // A server that answers while the stream broke is most often one that has just come back.
    this.#become(state === "crowded" && this.#wait === FIRST_WAIT_MS ? "lost" : state);
    this.#timer = setTimeout(() => this.#open(), this.#wait);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.#changed();
  }
}
