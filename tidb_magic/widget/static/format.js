// The table of sessions with Kill buttons. What comes from a server is set as text, never as HTML.
// Ids are strings here: a JavaScript number would make two sessions one.
// One module in four files, which widget/table.py joins in this order: format, kernel, kill_dialogs, table.

const OLD = 60_000; // ms after which a list says how old it is

export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name in node && typeof value === "boolean") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// Characters that act instead of being seen (controls, direction marks) are written out.
export function visible(text) {
  return String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029]/gu, (character) =>
    character === "\n" || character === "\t" ? character : `\\u{${character.codePointAt(0).toString(16)}}`,
  );
}

export const oneLine = (text) => visible(String(text ?? "").replace(/\s+/g, " ").trim());

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  if (hours >= 48) return `${Math.floor(hours / 24)}d ${two(hours % 24)}h`;
  if (hours) return `${hours}h ${two(minutes)}m`;
  return minutes ? `${minutes}m ${two(seconds % 60)}s` : `${Math.floor(seconds)}s`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  let [number, unit] = [bytes, 0];
  while (number >= 1024 && unit < 5) [number, unit] = [number / 1024, unit + 1];
  return unit ? `${number.toFixed(1)} ${["", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}` : `${number} B`;
}

const many = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const keyOf = (instance, id) => `${instance} ${id}`;

function compare(one, other) {
  if (one === other) return 0;
  if (one === null || one === undefined) return 1; // missing values last, in either direction of use
  if (other === null || other === undefined) return -1;
  if (typeof one === "number") return one - other;
  return one < other ? -1 : 1;
}

const compareIds = (one, other) => one.length - other.length || compare(one, other);

// -- the rows ---------------------------------------------------------------------------------------------------

// All rows of a snapshot, as an object each.
function rowsOf(part) {
  const rows = [];
  const names = Object.keys(part);
  for (let at = 0; at < part.ID.length; at += 1) {
    const row = { key: keyOf(part.INSTANCE[at], part.ID[at]) };
    for (const name of names) row[name] = part[name][at];
    rows.push(row);
  }
  return rows;
}

// The rows of a later list: those of an earlier one, with the values that differ.
function changedRows(before, { rows, values }) {
  const now = rows.map((at) => (at < 0 ? {} : { ...before[at] }));
  for (const [name, [places, those]] of Object.entries(values)) {
    for (const [index, at] of places.entries()) now[at][name] = those[index];
  }
  for (const row of now) row.key = keyOf(row.INSTANCE, row.ID);
  return now;
}
