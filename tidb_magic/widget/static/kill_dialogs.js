// The kills that were asked for in this page: plan, confirm, confirm again, outcome.

const BUSY_AFTER = 400; // ms without an answer, after which the panel calls the kernel busy
const AT_ONCE = 1500; // ms after a click in which "do you still want it?" needs no person to answer
const ASKED_BACK = 5000; // ms in which a person has to answer it
const isGood = (row) => row.text.startsWith("✓"); // kill/report.py chooses the symbols

class KillDialogs {
  constructor(table) {
    this.table = table;
    this.asks = new Map(); // by number
  }

  // Open a panel and have the kill planned: below the row if it is `ofRow`, else above the table.
  plan(keys, query, ofRow) {
    // A row that was not read again yet cannot be killed: the kernel would take it for that of the new list.
    const isReal = (row) => row && !row.ended && row.version === this.table.snapshot.version;
    const rows = keys.map((key) => this.table.rows.find((row) => row.key === key)).filter(isReal);
    if (!rows.length) return;
    const ask = {
      number: `${Date.now()}-${Math.random().toString(36).slice(2)}`,
      keys: rows.map((row) => row.key),
      rows,
      query,
      place: ofRow ? rows[0].key : null,
      state: "looking",
      since: performance.now(),
      panel: element("div", { class: "tidb-panel", role: "group", tabindex: "-1" }),
    };
    this.asks.set(ask.number, ask);
    for (const key of ask.keys) this.table.outcomes.delete(key);
    const what = query ? "Kill query" : "Kill connection";
    ask.panel.setAttribute("aria-label", `${what}: confirm`);
    if (ask.place) this.table.open.set(ask.place, "kill");
    else this.table.groupPanel.append(ask.panel);
    this.table.kernel.send({
      kind: "plan",
      ask: ask.number,
      version: this.table.snapshot.version,
      sessions: rows.map((row) => [row.INSTANCE, row.ID]),
      query,
    });
    this.draw(ask);
    this.table.draw();
    this.table.draw();
    ask.panel.focus({ preventScroll: true });
    ask.panel.scrollIntoView({ block: "nearest" });
    setTimeout(() => this.draw(ask), BUSY_AFTER);
  }

  draw(ask) {
    if (ask.done) return;
    const waited = performance.now() - ask.since;
    const busy = waited >= BUSY_AFTER && ["looking", "confirmed", "answered"].includes(ask.state);
    const drawn = `${ask.state} ${busy}`;
    if (ask.drawn === drawn) {
      if (ask.state === "asked back") ask.question.textContent = this.question(ask);
      return;
    }
    const focused = document.activeElement?.dataset?.does;
    const inside = ask.panel.contains(document.activeElement);
    ask.drawn = drawn;
    const parts = [this.facts(ask)];
    const buttons = [];
    const button = (text, does, onclick, kind = "") =>
      buttons.push(element("button", { type: "button", text, "data-does": does, class: kind, onclick }));
    if (ask.state === "looking") {
      parts.push(element("p", { text: busy ? "The kernel is busy: this is queued until the cell ends. Nothing was sent." : "Looking …" }));
      button(busy ? "Take it back" : "Cancel", "cancel", () => this.cancel(ask));
    } else if (ask.state === "planned") {
      const number = ask.rows.length > 1 ? ` (${ask.plan.rows.filter((row) => row.outcome === "planned").length})` : "";
      const what = ask.query ? "Confirm: kill query" : "Confirm: kill connection";
      button(what + number, "confirm", () => this.confirm(ask), "tidb-danger");
      button("Cancel", "cancel", () => this.cancel(ask));
    } else if (ask.state === "confirmed" || ask.state === "answered") {
      const text = busy
        ? "The kernel is busy: the kill is queued until the cell ends. Nothing was sent yet."
        : "Asking the kernel …";
      parts.push(element("p", { text }));
      button("Take it back", "cancel", () => this.cancel(ask));
    } else if (ask.state === "asked back") {
      ask.question = element("p", { text: this.question(ask) });
      parts.push(ask.question);
      button("Yes, kill now", "confirm", () => this.yes(ask), "tidb-danger");
      button("No", "cancel", () => this.cancel(ask));
    } else if (ask.state === "sent") {
      parts.push(element("p", { text: "KILL was sent; waiting for its effect …" }));
    } else if (ask.state === "refused") {
      button("Close", "cancel", () => this.end(ask));
    }
    ask.panel.replaceChildren(...parts, element("div", { class: "tidb-buttons" }, ...buttons));
    if (inside) (ask.panel.querySelector(`[data-does="${focused}"]`) ?? ask.panel).focus({ preventScroll: true });
    this.table.draw();
  }

  question(ask) {
    const left = Math.max(0, Math.ceil((ask.until - performance.now()) / 1000));
    const late = duration(Math.round((performance.now() - ask.since) / 1000));
    return `You confirmed ${late} ago and the kernel was busy until now. Still kill? ${left} s left, then nothing is sent.`;
  }

  // The sessions, and what will happen to them.
  facts(ask) {
    const facts = element("div", { class: "tidb-facts-of-kill" });
    const left = (ask.plan?.rows ?? []).filter((row) => row.outcome !== "planned").length;
    if (left && ask.rows.length > 1) {
      facts.append(element("div", { class: "tidb-warn", text: `${left} of ${many(ask.rows.length, "session")} will not be killed.` }));
    }
    const planned = new Map((ask.plan?.rows ?? []).map((row) => [keyOf(row.instance, row.id), row]));
    const sessions = ask.rows.slice(0, 20);
    for (const row of sessions) {
      const plan = planned.get(row.key);
      const says = element("div", { class: "tidb-victim" });
      const where = `${oneLine(row.USER) || "(no user)"} from ${oneLine(row.HOST) || "(no host)"} on ${oneLine(row.INSTANCE)}`;
      says.append(element("div", {}, element("strong", { text: `Connection ${row.ID}` }), ` · ${where}`));
      const does = oneLine(row.INFO);
      const since = duration(row.TIME);
      says.append(element("div", { class: "tidb-does", text: does ? `runs for ${since}: ${does}` : `idle for ${since}` }));
      if (plan) {
        const will = plan.outcome === "planned" ? "What will happen: " : `✗ ${plan.outcome}: `;
        says.append(element("div", { class: plan.outcome === "planned" ? "" : "tidb-bad", text: will + visible(plan.reason) }));
        if (plan.outcome === "planned") says.append(element("code", { text: plan.statement }));
      }
      facts.append(says);
    }
    if (ask.rows.length > sessions.length) {
      facts.append(element("div", { text: `and ${many(ask.rows.length - sessions.length, "session")} more` }));
    }
    for (const remark of ask.plan?.remarks ?? []) facts.append(element("div", { text: visible(remark) }));
    if (ask.plan?.age * 1000 > OLD) {
      facts.append(element("div", { class: "tidb-warn", text: `⚠ This list is ${duration(ask.plan.age)} old; sessions that changed since then are not killed.` }));
    }
    if (ask.error) facts.append(element("div", { class: "tidb-bad", text: `✗ ${visible(ask.error)} Nothing was sent.` }));
    return facts;
  }

  confirm(ask) {
    ask.state = "confirmed";
    ask.since = performance.now();
    this.table.kernel.send({ kind: "kill", ask: ask.number });
    if (ask.done) return;
    this.draw(ask);
    setTimeout(() => this.draw(ask), BUSY_AFTER);
  }

  // The kernel never sends a KILL without this answer, so that a click which it heard late does nothing by itself.
  askedBack(ask) {
    if (ask.state !== "confirmed" && ask.state !== "answered") return;
    ask.askedAt = performance.now();
    if (performance.now() - ask.since < AT_ONCE) {
      this.yes(ask);
      return;
    }
    ask.state = "asked back";
    ask.until = performance.now() + ASKED_BACK;
    this.draw(ask);
    this.table.status.textContent = "The kernel asks for confirmation again.";
  }

  // `after` is how long it took to answer: what the answer waits besides, the kernel asks back again.
  yes(ask) {
    ask.state = "answered";
    this.table.kernel.send({ kind: "yes", ask: ask.number, after: (performance.now() - ask.askedAt) / 1000 });
    this.draw(ask);
  }

  cancel(ask) {
    if (ask.state === "sent" || ask.done) return;
    const asked = ask.state !== "planned" && ask.state !== "refused";
    this.table.kernel.send({ kind: "no", ask: ask.number });
    if (ask.done) return;
    if (asked) this.note(ask, "○ taken back", "Nothing was sent.");
    this.end(ask);
  }

  expire(ask) {
    this.table.kernel.send({ kind: "no", ask: ask.number });
    this.note(ask, "○ not sent", "The kernel received the click late and asked for confirmation; there was no answer within 5 s.");
    this.end(ask);
  }

  note(ask, text, why) {
    for (const key of ask.keys) this.table.outcomes.set(key, { text, why, good: false, final: false });
    this.table.status.textContent = `${text} ${why}`;
  }

  end(ask) {
    const inside = ask.panel.contains(document.activeElement);
    ask.done = true;
    this.asks.delete(ask.number);
    ask.panel.remove();
    if (ask.place) this.table.shut(ask.place);
    this.table.draw();
    this.table.count();
    if (!inside) return;
    const line = ask.place ? this.table.lines.get(ask.place) : null;
    const places = line ? [line.query, line.connection, line.box] : [ask.query ? this.table.killQuery : this.table.killConnection];
    (places.find((one) => !one.disabled && !one.hidden) ?? this.table.scroller).focus({ preventScroll: true });
  }

  report(ask, message) {
    if (message.error) {
      const text = message.sent === false ? "○ not sent" : "? unknown";
      for (const key of ask?.keys ?? []) this.table.outcomes.set(key, { text, why: message.error, good: false, final: false });
      this.table.status.textContent = visible(message.error);
    }
    for (const row of message.rows ?? []) {
      const took = row.seconds === null ? "" : ` in ${row.seconds.toFixed(row.seconds < 1 ? 3 : 1)} s`;
      const text = row.text;
      const gone = row.outcome === "killed" || row.outcome === "already gone";
      const why = visible(`${row.outcome}${took}${row.reason ? `: ${row.reason}` : ""}`);
      const outcome = { text, why, good: isGood(row), final: gone, version: this.table.snapshot.version };
      this.table.outcomes.set(keyOf(row.instance, row.id), outcome);
      this.table.selected.delete(keyOf(row.instance, row.id));
    }
    const rows = message.rows ?? [];
    const counts = new Map();
    for (const row of rows) counts.set(row.outcome, (counts.get(row.outcome) ?? 0) + 1);
    const total = [...counts].map(([outcome, number]) => `${number} ${outcome}`).join(", ");
    const named = rows.length > 5 ? rows.filter((row) => !isGood(row)).slice(0, 5) : rows;
    const more = named.length < rows.length ? [`${total}.`] : [];
    const said = [...more, ...(message.remarks ?? []), ...named.map((row) => `${row.id}: ${row.outcome}${row.seconds === null ? "" : ` in ${row.seconds.toFixed(3)} s`}${row.reason ? `, ${row.reason}` : ""}.`)];
    if (said.length) this.table.status.textContent = said.map(visible).join(" ");
    if (ask) this.end(ask);
    else this.table.draw(); // it was taken back too late
  }

  // What keeps a session from being asked about again.
  pending(key) {
    const ask = [...this.asks.values()].find((one) => !one.done && one.keys.includes(key));
    return ask ? "A kill of this session is already requested." : "";
  }

  // What the kernel says of a kill.
  hear(message) {
    const ask = this.asks.get(message.ask);
    if (message.kind === "killed") this.report(ask, message);
    else if (!ask) return;
    else if (message.kind === "planned") {
      ask.plan = message;
      ask.error = message.error;
      ask.state = (message.rows ?? []).some((row) => row.outcome === "planned") ? "planned" : "refused";
      this.draw(ask);
      this.table.draw();
      if (ask.panel.contains(document.activeElement)) ask.panel.scrollIntoView({ block: "nearest" });
    } else if (message.kind === "asked") this.askedBack(ask);
    else if (message.kind === "sending") {
      ask.state = "sent";
      this.draw(ask);
    }
  }

  // The kernel is gone.
  abandon(why) {
    for (const ask of [...this.asks.values()]) {
      const sent = ask.state === "sent" || ask.state === "answered";
      this.note(ask, sent ? "? unconfirmed" : "○ not sent", sent ? `It may have been sent. ${why}` : why);
      this.end(ask);
    }
  }

  tick() {
    for (const ask of [...this.asks.values()]) {
      if (ask.state === "asked back" && performance.now() >= ask.until) this.expire(ask);
      else this.draw(ask);
    }
  }
}
