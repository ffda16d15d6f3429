// Whether the kernel is there, and whether a person looks at the table.

const WATCHING = 5000; // ms between two messages that a person looks at this
const SILENT = 5000; // ms without an answer, after which that is said
const GONE = "The kernel is gone: this is the last list. Run the cell again.";
const ANSWERED = new Set(["here", "watching", "rows", "text", "plan", "kill", "yes"]); // kinds of messages

class Kernel {
  // `changed` is called when the kernel is gone, and when it is there again.
  constructor(model, root, changed) {
    this.model = model;
    this.changed = changed;
    this.alive = true;
    this.watcher = new IntersectionObserver((entries) => {
      this.inView = entries[entries.length - 1].isIntersecting;
      if (model.get("live") && this.inView !== this.watched) this.tell();
    });
    this.watcher.observe(root);
  }

  close() {
    this.watcher.disconnect();
    if (this.alive && this.watched) this.send({ kind: "watching", seen: false });
    this.alive = false;
  }

  send(message) {
    if (ANSWERED.has(message.kind)) this.asked ??= performance.now(); // since when an answer is waited for
    try {
      this.model.send(message);
    } catch {
      this.gone(); // it was shut down
    }
  }

  get silent() {
    return Boolean(this.asked) && performance.now() - this.asked > SILENT;
  }

  // The event does not say which way it went: the kernel is gone until it answers.
  lost() {
    this.gone();
    this.send({ kind: "here" });
  }

  found() {
    this.asked = null;
    if (this.alive) return;
    this.alive = true;
    this.changed();
  }

  gone() {
    if (!this.alive) return;
    this.alive = false;
    this.changed();
  }

  // Tell the kernel whether a person looks at this.
  tell() {
    const seen = this.inView !== false && document.visibilityState === "visible";
    if (seen !== this.watched || seen) this.send({ kind: "watching", seen });
    this.watched = seen;
    this.told = performance.now();
  }

  tick() {
    if (this.model.get("live") && performance.now() - (this.told ?? 0) >= WATCHING) this.tell();
  }
}
