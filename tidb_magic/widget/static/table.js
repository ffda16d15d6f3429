// The table: header, rows in view, selection.

const ROW_HEIGHT = 28; // pixels; the style sheet has the same
const BESIDES = 15; // rows that are drawn above and below those in view
const NUMBERS = new Set(["TIME", "MEM"]);
const TITLES = { INFO: "SQL" };

// The columns that are hidden first where there is little room, until a person chooses; pixels of the whole table.
const NARROW = [
  [1240, "STATE"],
  [1160, "HOST"],
  [1040, "DB"],
  [1000, "COMMAND"],
  [920, "MEM"],
  [1240, "TRANSACTION"],
  [1100, "FREES"],
  [1000, "BEHIND"],
  [800, "INFO"], // of a tree: the locks matter more
];

const [LEFT, UNHEARD] = ["not listed", "no answer"]; // of rows that are not in the list any more
let usualWidth = null; // pixels of the last table: measuring another one before the page has placed it takes long
const OWN = 1;
const RUNS = 2;

// -- the widget -------------------------------------------------------------------------------------------------

class Table {
  constructor(model, root) {
    this.model = model;
    this.rows = [];
    this.shown = [];
    this.selected = new Set();
    this.open = new Map(); // key: what is open below its row, "sql" or "kill"
    this.panels = new Map(); // key: the element below its row
    this.texts = new Map(); // key: the whole statement
    this.outcomes = new Map();
    this.lines = new Map(); // key: its <tr>, and what is in it
    this.fresh = new Set();
    this.sort = { column: null, descending: true };
    this.filter = "";
    this.hiddenColumns = new Set();
    this.listeners = [];
    this.kills = new KillDialogs(this);
    this.build(root);
    this.kernel = new Kernel(model, this.root, () => this.kernelChanged());
    this.sizes = new ResizeObserver(() => {
      this.placed = true;
      this.fit(this.root.clientWidth);
    });
    this.sizes.observe(this.root);
    this.take(this.model.get("snapshot"), true);
    this.takeChanges(true);
    this.on("change:snapshot", () => this.take(this.model.get("snapshot"), false));
    this.on("change:changes", () => this.takeChanges(false));
    this.on("change:trouble", () => this.say());
    this.on("change:waiting", () => this.drawHeader());
    this.on("change:pace", () => this.say());
    this.on("change:live", () => {
      this.wantLive = undefined;
      this.say();
    });
    this.on("msg:custom", (message) => this.hear(message));
    this.on("comm_live_update", () => this.kernel.lost());
    this.timer = setInterval(() => this.tick(), 1000);
    this.kernel.send({ kind: "here" });
  }

  on(event, callback) {
    this.model.on(event, callback);
    this.listeners.push([event, callback]);
  }

  close() {
    clearInterval(this.timer);
    this.sizes.disconnect();
    for (const [event, callback] of this.listeners) this.model.off(event, callback);
    this.kernel.close();
  }

  // -- what stands where ------------------------------------------------------------------------------------

  build(root) {
    this.header = element("div", { class: "tidb-header" });
    this.search = element("input", {
      type: "search",
      placeholder: "Filter",
      "aria-label": "Filter the rows by text",
      oninput: () => {
        this.filter = this.search.value.toLowerCase();
        this.arrange();
      },
    });
    this.chooser = element("details", { class: "tidb-chooser" }, element("summary", { text: "Columns" }));
    this.choices = element("div", { class: "tidb-choices" });
    this.chooser.append(this.choices);
    this.refreshButton = element("button", {
      type: "button",
      text: "Refresh",
      onclick: () => {
        this.waiting = true;
        this.kernel.send({ kind: "refresh" });
        this.say();
      },
    });
    this.liveBox = element("input", {
      type: "checkbox",
      onchange: () => {
        this.wantLive = this.liveBox.checked;
        this.kernel.send({ kind: "live", on: this.wantLive });
      },
    });
    this.liveLabel = element("span");
    const live = element("label", { class: "tidb-live" }, this.liveBox, this.liveLabel);
    this.killQuery = this.killButton("Kill query", true, () => this.chosen());
    this.killConnection = this.killButton("Kill connection", false, () => this.chosen());
    this.age = element("span", { class: "tidb-age" });
    const bar = element(
      "div",
      { class: "tidb-bar", role: "toolbar", "aria-label": "Sessions" },
      this.search,
      this.chooser,
      this.refreshButton,
      live,
      this.killQuery,
      this.killConnection,
      this.age,
    );
    this.allBox = element("input", {
      type: "checkbox",
      "aria-label": "Select all rows that are shown",
      onchange: () => {
        for (const row of this.shown) {
          const able = !row.ended && (this.reason(row, true) === "" || this.reason(row, false) === "");
          if (this.allBox.checked && able) this.selected.add(row.key);
          else this.selected.delete(row.key);
        }
        this.draw();
        this.count();
      },
    });
    this.groupPanel = element("div", { class: "tidb-group" });
    this.headRow = element("tr");
    this.body = element("tbody");
    this.table = element(
      "table",
      { "aria-label": "Sessions of the TiDB cluster" },
      element("thead", {}, this.headRow),
      this.body,
    );
    this.scroller = element("div", {
      class: "tidb-scroller",
      tabindex: "0",
      role: "region",
      "aria-label": "Sessions, scrollable",
    });
    this.scroller.append(this.table);
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    this.empty = element("div", { class: "tidb-empty", hidden: true });
    this.status = element("div", { class: "tidb-status", role: "status", "aria-live": "polite" });
    this.footer = element("div", { class: "tidb-footer" });
    this.root = element("div", { class: "tidb-sessions", "data-lm-suppress-shortcuts": "true" });
    this.root.append(this.header, bar, this.groupPanel, this.scroller, this.empty, this.status, this.footer);
    // Keys typed here are not the notebook's shortcuts.
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.escape(event);
      event.stopPropagation();
    });
    root.append(this.root);
  }

  killButton(text, query, keys, ofRow = false) {
    return element("button", { type: "button", class: "tidb-kill", text, onclick: () => this.kills.plan(keys(), query, ofRow) });
  }

  escape(event) {
    const line = event.target.closest?.("[data-key]");
    const ask = [...this.kills.asks.values()].find((one) => !one.done && (one.panel.contains(event.target) || !line));
    if (ask) this.kills.cancel(ask);
    else if (line && this.open.get(line.dataset.key) === "sql") this.toggle(line.dataset.key);
  }

  // Leave out columns so that the statement stays readable.
  fit(width) {
    if (!width || this.fitted === width || this.choseColumns) return;
    this.fitted = usualWidth = width;
    this.root.classList.toggle("tidb-narrow", width < 800);
    const hidden = new Set(
      NARROW.filter(([least, name]) => width < least && (name !== "INFO" || this.isTree)).map(([, name]) => name),
    );
    const same = hidden.size === this.hiddenColumns.size && [...hidden].every((name) => this.hiddenColumns.has(name));
    this.hiddenColumns = hidden;
    if (!same && this.placed) this.drawColumns();
  }

  drawColumns() {
    this.lines.clear();
    this.drawHead();
    this.draw();
  }

  // -- a snapshot ---------------------------------------------------------------------------------------------

  // `rows` are all of them, if they are known; else the snapshot has the first ones.
  take(snapshot, first, rows = null) {
    this.previous = new Map(this.rows.map((row) => [row.key, row]));
    this.snapshot = snapshot;
    this.columns = this.snapshot.columns;
    this.isTree = this.columns.includes("BEHIND"); // a lock forest: the rows are in the order of the trees
    if (this.isTree) this.table.setAttribute("role", "treegrid");
    this.fit(this.fitted ?? usualWidth);
    this.waiting = false;
    this.first = first;
    this.loaded = new Map();
    this.asking = new Set();
    if (!first) this.kernel.found();
    this.drawHeader();
    if (rows === null) this.base = { version: snapshot.version, total: snapshot.total, rows: [] };
    this.load(rows ?? rowsOf(snapshot.part), rows === null);
    this.drawHead();
  }

  // A later list comes as what differs from the snapshot, of which all rows must be there.
  takeChanges(first) {
    const changes = this.model.get("changes");
    if (changes?.base !== this.base.version) return; // of another snapshot
    if (this.base.rows.length < this.base.total) this.kernel.send({ kind: "whole" });
    else this.take(changes, first, changedRows(this.base.rows, changes));
  }

  // A long list comes in parts: the first is drawn before the others are there, which stay as they were until then.
  load(rows, ofSnapshot = true) {
    if (ofSnapshot) this.base.rows.push(...rows);
    for (const row of rows) {
      row.version = this.snapshot.version;
      const old = this.previous.get(row.key);
      if (old && (old.INFO !== row.INFO || old.cut !== row.cut)) this.texts.delete(row.key);
      if (old && (old.INFO !== row.INFO || old.ended === LEFT)) this.selected.delete(row.key); // it was not this one
      const outcome = this.outcomes.get(row.key);
      const again = (row.marks & RUNS) !== 0 && outcome?.good && outcome.version !== this.snapshot.version;
      if (again) this.outcomes.delete(row.key); // it runs its next statement
      this.loaded.set(row.key, row);
    }
    const shown = [...this.loaded.values()];
    const complete = shown.length >= this.snapshot.total;
    this.fresh = new Set();
    for (const row of shown) {
      const old = this.previous.get(row.key);
      if (!this.first && (!old || old.ended === LEFT)) this.fresh.add(row.key);
    }
    for (const [key, row] of this.previous) {
      if (this.loaded.has(key)) continue;
      // A session that has ended is shown once more, as ended, and as long as its dialog is open.
      if (!complete) shown.push(row);
      else if (this.snapshot.header.missing.includes(row.INSTANCE)) shown.push({ ...row, ended: UNHEARD });
      else if (!row.ended || row.ended === UNHEARD || this.kills.pending(key)) shown.push({ ...row, ended: LEFT });
      else this.forget(key);
    }
    this.rows = shown;
    this.longest = shown.reduce((most, row) => Math.max(most, row.ended ? 0 : (row.TIME ?? 0)), 1);
    if (!complete) this.kernel.send({ kind: "rows", version: this.snapshot.version, from: this.base.rows.length });
    this.arrange();
    this.say();
  }

  forget(key) {
    this.selected.delete(key);
    this.outcomes.delete(key);
    this.texts.delete(key);
    if (this.open.get(key) === "sql") this.shut(key);
  }

  arrange() {
    const { column, descending } = this.sort;
    let shown = this.rows;
    if (this.filter) {
      const words = this.columns;
      shown = shown.filter((row) => words.some((name) => String(row[name] ?? "").toLowerCase().includes(this.filter)));
    }
    if (column) {
      const order = column === "ID" ? compareIds : compare;
      const sign = descending ? -1 : 1;
      shown = [...shown].sort((one, other) => {
        const [a, b] = [one[column], other[column]];
        return (a ?? null) === null || (b ?? null) === null ? compare(a, b) : sign * order(a, b);
      });
    }
    this.shown = shown;
    this.empty.hidden = shown.length > 0;
    this.empty.textContent = this.filter ? "No row matches the filter." : "No session.";
    this.table.setAttribute("aria-rowcount", String(shown.length + 1));
    this.draw();
    this.count();
  }

  // -- the header ---------------------------------------------------------------------------------------------

  drawHeader() {
    const { header } = this.snapshot;
    const facts = [...(header.facts ?? [])];
    if (header.longest !== undefined) {
      facts.push(["longest running", header.longest === null ? "—" : duration(header.longest)]);
    }
    const waiting = this.model.get("waiting");
    if (waiting !== undefined && waiting !== null) facts.push(["transactions waiting for locks", String(waiting)]);
    const parts = [];
    if (header.instances) parts.push(this.bars("by instance", header.instances), this.bars("by user", header.users));
    const list = element("div", { class: "tidb-facts" });
    for (const [name, value] of facts) {
      const title = element("div", { class: "tidb-title", text: name });
      list.append(element("div", {}, title, element("div", { class: "tidb-value", text: value })));
    }
    parts.push(list);
    for (const name of header.missing) {
      parts.push(element("div", { class: "tidb-missing", text: `⚠ no answer from ${visible(name)}` }));
    }
    this.header.replaceChildren(...parts);
  }

  bars(title, groups) {
    const most = Math.max(1, ...groups.map(([, number]) => number));
    const list = element("ul", { "aria-label": `Sessions ${title}` });
    for (const [name, number] of groups) {
      const bar = element("span", { class: "tidb-length", "aria-hidden": "true" });
      bar.style.setProperty("--share", `${(100 * number) / most}%`);
      const label = element("span", { class: "tidb-name", text: visible(name) || "(none)", title: visible(name) });
      list.append(element("li", {}, label, bar, element("span", { class: "tidb-number", text: String(number) })));
    }
    return element("div", { class: "tidb-bars" }, element("div", { class: "tidb-title", text: title }), list);
  }

  // -- the head of the table ------------------------------------------------------------------------------------

  get visibleColumns() {
    return this.columns.filter((name) => !this.hiddenColumns.has(name));
  }

  drawHead() {
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset?.sort : undefined;
    const onAll = document.activeElement === this.allBox;
    const cells = [element("th", { scope: "col", class: "tidb-select" }, this.allBox)];
    for (const name of this.visibleColumns) {
      if (this.isTree) {
        cells.push(element("th", { scope: "col", class: `tidb-${name}`, text: TITLES[name] ?? name }));
        continue;
      }
      const sorted = this.sort.column === name;
      const arrow = sorted ? (this.sort.descending ? " ▼" : " ▲") : "";
      const button = element("button", {
        type: "button",
        class: "tidb-sort",
        text: `${TITLES[name] ?? name}${arrow}`,
        "data-sort": name,
        onclick: () => this.sortBy(name),
      });
      const state = sorted ? (this.sort.descending ? "descending" : "ascending") : "none";
      cells.push(element("th", { scope: "col", class: `tidb-${name}`, "aria-sort": state }, button));
    }
    cells.push(element("th", { scope: "col", class: "tidb-actions", text: "ACTIONS" }));
    this.headRow.replaceChildren(...cells);
    if (onAll) this.allBox.focus({ preventScroll: true });
    this.headRow.setAttribute("aria-rowindex", "1");
    if (focused) this.headRow.querySelector(`[data-sort="${focused}"]`)?.focus();
    const left = this.columns.length - this.visibleColumns.length;
    this.chooser.firstChild.textContent = left ? `Columns (${left} hidden)` : "Columns";
    if (!this.chooser.contains(document.activeElement)) {
      const boxes = this.columns.map((name) => {
        const box = element("input", {
          type: "checkbox",
          onchange: () => {
            if (box.checked) this.hiddenColumns.delete(name);
            else this.hiddenColumns.add(name);
            this.choseColumns = true;
            this.drawColumns();
          },
        });
        box.checked = !this.hiddenColumns.has(name);
        return element("label", {}, box, TITLES[name] ?? name);
      });
      this.choices.replaceChildren(...boxes);
    }
  }

  sortBy(name) {
    const same = this.sort.column === name;
    this.sort = { column: name, descending: same ? !this.sort.descending : NUMBERS.has(name) };
    this.drawHead();
    this.arrange();
  }

  // -- rows in view ---------------------------------------------------------------------------------------------

  // Only the rows in view are in the page; rows that are there stay the same elements, so that focus stays.
  draw() {
    const extras = [];
    for (const [at, row] of this.shown.entries()) {
      if (this.open.has(row.key)) extras.push([at, this.panels.get(row.key)?.offsetHeight || ROW_HEIGHT]);
      if (extras.length === this.open.size) break;
    }
    const height = (this.placed && this.scroller.clientHeight) || 400;
    const above = (index) => index * ROW_HEIGHT + extras.reduce((sum, [at, extra]) => sum + (at < index ? extra : 0), 0);
    const top = Math.min(this.placed ? this.scroller.scrollTop : 0, Math.max(0, above(this.shown.length) - height));
    let first = Math.max(0, Math.floor(top / ROW_HEIGHT));
    while (first > 0 && above(first) > top) first -= 1;
    first = Math.max(0, first - BESIDES);
    const last = Math.min(this.shown.length, first + Math.ceil(height / ROW_HEIGHT) + 2 * BESIDES);
    const nodes = [this.spacer(above(first))];
    const kept = new Map();
    for (let at = first; at < last; at += 1) {
      const row = this.shown[at];
      const line = this.lines.get(row.key) ?? this.line(row.key);
      kept.set(row.key, line);
      this.fill(line, row, at);
      nodes.push(line.node);
      if (this.open.has(row.key)) nodes.push(this.below(row));
    }
    nodes.push(this.spacer(above(this.shown.length) - above(last)));
    this.lines = kept;
    this.place(nodes);
  }

  place(nodes) {
    const focused = this.root.contains(document.activeElement) ? document.activeElement : null;
    let at = this.body.firstChild;
    const wanted = new Set(nodes);
    while (at && !wanted.has(at)) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
    for (const node of nodes) {
      if (at === node) {
        at = at.nextSibling;
        while (at && !wanted.has(at)) {
          const next = at.nextSibling;
          at.remove();
          at = next;
        }
      } else this.body.insertBefore(node, at);
    }
    if (focused && focused !== document.activeElement && this.root.contains(focused)) {
      focused.focus({ preventScroll: true });
    }
  }

  spacer(height) {
    const cell = element("td", { colspan: "20" });
    cell.style.height = `${height}px`;
    return element("tr", { class: "tidb-spacer", "aria-hidden": "true" }, cell);
  }

  // An empty row; `fill` says what it shows.
  line(key) {
    const line = { node: element("tr", { "data-key": key }), cells: {} };
    const box = element("input", {
      type: "checkbox",
      onchange: () => {
        if (box.checked) this.selected.add(key);
        else this.selected.delete(key);
        this.fill(line, line.row, line.at);
        this.count();
      },
    });
    line.box = box;
    line.node.append(element("td", { class: "tidb-select" }, box));
    for (const name of this.visibleColumns) {
      const cell = element("td", { class: `tidb-${name}` });
      if (name === "INFO") {
        line.sql = element("button", { type: "button", class: "tidb-sql", onclick: () => this.toggle(key) });
        line.idle = element("span");
        cell.append(line.sql, line.idle);
      }
      line.cells[name] = cell;
      line.node.append(cell);
    }
    line.outcome = element("span", { class: "tidb-outcome" });
    line.query = this.killButton("Kill query", true, () => [key], true);
    line.connection = this.killButton("Kill connection", false, () => [key], true);
    line.node.append(element("td", { class: "tidb-actions" }, line.outcome, line.query, line.connection));
    return line;
  }

  fill(line, row, at) {
    line.row = row;
    line.at = at;
    const id = row.ID;
    line.node.setAttribute("aria-rowindex", String(at + 2));
    const own = (row.marks & OWN) !== 0;
    const outcome = this.outcomes.get(row.key);
    line.node.className = [
      own ? "tidb-own" : "",
      row.ended ? "tidb-ended" : "",
      this.fresh.has(row.key) ? "tidb-new" : "",
      this.selected.has(row.key) ? "tidb-selected" : "",
    ].join(" ");
    line.box.checked = this.selected.has(row.key);
    line.box.disabled = Boolean(row.ended);
    line.box.setAttribute("aria-label", `Select connection ${id}`);
    for (const [name, cell] of Object.entries(line.cells)) {
      const value = row[name];
      if (name === "INFO") {
        const text = (row.marks & RUNS) !== 0 || value ? oneLine(value) : "";
        if (line.sql.textContent !== text) line.sql.textContent = text;
        line.sql.hidden = text === "";
        line.idle.textContent = this.isTree && !text && row.TIME !== null ? `idle for ${duration(row.TIME)}` : "";
        line.sql.setAttribute("aria-expanded", String(this.open.get(row.key) === "sql"));
        line.sql.title = "Show the whole statement";
        continue;
      }
      let text = oneLine(value);
      if (name === "TIME") {
        text = duration(value);
        cell.style.setProperty("--share", `${(100 * Math.max(0, value ?? 0)) / this.longest}%`);
        cell.title = value === null ? "" : `${value} s`;
      } else if (name === "MEM") text = size(value);
      else cell.title = text;
      if (name === "ID" && this.isTree) {
        text = `${row.SESSION}`;
        line.node.setAttribute("aria-level", String(row.DEPTH + 1));
      }
      if (name === "ID" && own) text += " (own)";
      if (name === "ID" && row.ended) text += ` (${row.ended})`;
      if (name === "ID" && this.fresh.has(row.key)) text += " (new)";
      if (cell.textContent !== text) cell.textContent = text;
    }
    const pending = this.kills.pending(row.key);
    this.able(line.query, this.reason(row, true) || pending, `Kill query ${id}: end its statement`);
    this.able(line.connection, this.reason(row, false) || pending, `Kill connection ${id}: end the session`);
    const said = outcome ?? "";
    if (line.outcome.textContent !== said.text) {
      line.outcome.textContent = said ? said.text : "";
    }
    line.outcome.title = said ? said.why : "";
    line.outcome.classList.toggle("tidb-bad", Boolean(said && said.text.startsWith("✗")));
    line.outcome.classList.toggle("tidb-plain", Boolean(said && !said.good && !said.text.startsWith("✗")));
    line.connection.hidden = Boolean(said && said.final);
    line.query.hidden = Boolean(said && said.good && said.version === this.snapshot.version); // it stands in its place
  }

  able(button, reason, title) {
    button.disabled = reason !== "";
    button.title = reason || title;
    button.setAttribute("aria-label", reason ? `${button.textContent}: ${reason}` : title);
  }

  reason(row, query) {
    if (!this.kernel.alive) return GONE;
    if (row.ended) return "This session is no longer in the list.";
    return this.snapshot.reasons[query ? row.no_query : row.no_connection];
  }

  // -- below a row: its statement, or a kill ----------------------------------------------------------------------

  below(row) {
    let panel = this.panels.get(row.key);
    if (!panel) {
      const cell = element("td", { colspan: "20" });
      panel = element("tr", { class: "tidb-below", "data-key": row.key }, cell);
      this.panels.set(row.key, panel);
    }
    const cell = panel.firstChild;
    if (this.open.get(row.key) === "sql") this.statement(cell, row);
    else {
      const ask = [...this.kills.asks.values()].find((one) => one.place === row.key);
      if (ask && cell.firstChild !== ask.panel) cell.replaceChildren(ask.panel);
    }
    return panel;
  }

  shut(key) {
    this.open.delete(key);
    this.panels.delete(key);
  }

  toggle(key) {
    if (this.open.get(key) === "sql") this.shut(key);
    else if (!this.open.has(key)) this.open.set(key, "sql");
    this.draw();
    this.draw(); // what was opened has a height now
  }

  statement(cell, row) {
    const whole = row.cut ? (this.texts.get(row.key) ?? null) : row.INFO;
    if (row.cut && this.kernel.alive && !this.asking.has(row.key)) {
      this.asking.add(row.key);
      this.kernel.send({ kind: "text", version: this.snapshot.version, instance: row.INSTANCE, id: row.ID });
    }
    const shown = whole ?? row.INFO;
    const drawn = `${whole === null} ${this.kernel.alive} ${shown}`;
    if (cell.drawn === drawn && cell.firstChild?.className === "tidb-statement") return;
    cell.drawn = drawn;
    const copy = element("button", {
      type: "button",
      text: "Copy",
      onclick: () => this.copy(copy, this.texts.get(row.key) ?? row.INFO),
    });
    const note = element("span", { class: "tidb-note" });
    if (whole === null) {
      note.textContent = this.kernel.alive ? "Waiting for the rest of it …" : "The kernel is gone: this is only the beginning.";
    }
    const pre = element("pre", { text: visible(shown), tabindex: "0", "aria-label": `Statement of connection ${row.ID}` });
    cell.replaceChildren(element("div", { class: "tidb-statement" }, pre, copy, note));
  }

  async copy(button, text) {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser does not allow copying here";
    }
  }

  chosen() {
    return this.shown.filter((row) => this.selected.has(row.key) && !row.ended).map((row) => row.key);
  }

  // -- what the kernel says ---------------------------------------------------------------------------------------

  hear(message) {
    this.kernel.found();
    if (message.kind === "rows") this.add(message);
    else if (message.kind === "text") {
      if (message.version !== this.snapshot.version) return;
      this.texts.set(keyOf(message.instance, message.id), message.text);
      this.draw();
    } else if (message.kind === "here") this.say();
    else this.kills.hear(message);
  }

  kernelChanged() {
    const { alive } = this.kernel;
    if (alive) this.asking = new Set();
    else this.kills.abandon(GONE);
    this.refreshButton.disabled = this.liveBox.disabled = !alive;
    this.draw();
    this.count();
    this.say();
  }

  add(message) {
    const next = message.version === this.snapshot.version && message.from === this.base.rows.length; // not another view's
    if (next && message.part.ID.length) this.load(rowsOf(message.part));
  }

  tick() {
    this.kills.tick();
    this.kernel.tick();
    this.say();
  }

  count() {
    const chosen = this.chosen();
    const rows = this.shown.filter((row) => this.selected.has(row.key));
    for (const [button, query, text] of [
      [this.killQuery, true, "Kill query"],
      [this.killConnection, false, "Kill connection"],
    ]) {
      const able = rows.some((row) => this.reason(row, query) === "");
      button.textContent = chosen.length ? `${text} (${chosen.length})` : text;
      let reason = "";
      if (!this.kernel.alive) reason = GONE;
      else if (!chosen.length) reason = "Select rows first.";
      else if (!able) reason = "None of the selected sessions can be killed this way.";
      this.able(button, reason, `${text} of ${many(chosen.length, "selected session")}`);
    }
    this.allBox.checked =
      chosen.length > 0 && this.shown.every((row) => row.ended || this.selected.has(row.key) || this.reason(row, false));
    this.allBox.indeterminate = chosen.length > 0 && !this.allBox.checked;
  }

  say() {
    const live = this.model.get("live");
    const pace = this.model.get("pace");
    const trouble = this.model.get("trouble");
    this.liveBox.checked = this.wantLive ?? live > 0;
    const slowed = pace > live ? ` (slowed down to ${pace} s: the cluster responds slowly)` : "";
    this.liveLabel.textContent = live > 0 ? `live, every ${live} s${slowed}` : "live";
    const age = this.snapshot.taken === null ? 0 : Math.max(0, Date.now() - this.snapshot.taken);
    let text = age > OLD ? `${duration(age / 1000)} old` : "";
    if (this.waiting) text = "reading …";
    if (trouble) text = `⚠ ${visible(trouble)}`;
    if (this.kernel.silent) {
      text = "⚠ The kernel is not responding: it runs a cell, or it is gone. Clicks are queued.";
    }
    if (!this.kernel.alive) text = `⚠ ${GONE}`;
    if (this.age.textContent !== text) this.age.textContent = text;
    this.age.classList.toggle("tidb-bad", Boolean(trouble) || !this.kernel.alive);
    const missing = this.snapshot.total - this.rows.filter((row) => !row.ended).length;
    const lines = [...this.snapshot.footer];
    if (missing > 0) lines.unshift(`${many(missing, "row")} more on the way …`);
    const footer = lines.map(visible).join("\n");
    if (this.footer.textContent !== footer) this.footer.replaceChildren(...lines.map((line) => element("div", { text: visible(line) })));
  }
}

export default {
  render({ model, el }) {
    const table = new Table(model, el);
    return () => table.close();
  },
};
