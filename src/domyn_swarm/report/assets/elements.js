// Elements, numbers and text. Text from the data becomes text nodes, never markup.

const MARKS = { waiting: "○", running: "▸", done: "✓", failed: "✕", stopped: "■", interrupted: "■", lost: "?" };

const byId = (id) => document.getElementById(id);

/** Create an element. Attributes that are functions become listeners for the event of that name. */
function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(3).filter(Boolean));
  return element;
}

const el = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const code = (text) => (text ? el("code", {}, text) : "");
const badge = (state) => el("span", { class: `badge ${state}` }, `${MARKS[state]} ${state}`);
const button = (text, click, more = {}) => el("button", { type: "button", click, ...more }, text);

/** Text that breaks after its separators rather than anywhere. */
const breakable = (text) => text.split(/(?<=[:./])/).flatMap((piece, index) => (index ? [el("wbr"), piece] : [piece]));

/** Pairs of a name and a value, without empty values. */
function facts(pairs, kind = "") {
  const shown = pairs.filter(([, value]) => value);
  if (!shown.length) return "";
  const pair = ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  return el("dl", { class: `facts ${kind}` }, shown.map(pair));
}

function folded(key, title, body) {
  return el("details", { "data-key": key }, el("summary", {}, title), body);
}

/** A box with its own scroll bars, also usable by keyboard. */
function scrolling(label, content, kind = "") {
  return el("div", { class: `scroll ${kind}`, tabindex: 0, role: "region", "aria-label": label }, content);
}

/** A table; the first cell of a row is its heading, columns in `numbers` are right-aligned. */
function table(label, heads, rows, { numbers = [], kind = "" } = {}) {
  const align = (index) => (numbers.includes(heads[index]) ? "number" : null);
  const head = heads.map((name, index) => el("th", { scope: "col", class: align(index) }, name));
  const cells = (row) =>
    row.map((cell, index) => (index ? el("td", { class: align(index) }, cell) : el("th", { scope: "row" }, cell)));
  const body = rows.map((row) => el("tr", {}, cells(row)));
  return scrolling(label, el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)), kind);
}

function bar(from, to, kind = "") {
  const filled = el("span", { class: kind });
  filled.style.left = `${from * 100}%`;
  filled.style.width = `${Math.max(0, to - from) * 100}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, filled);
}

// Numbers and text

const wholes = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });
const count = (number) => (number === null || number === undefined ? "" : wholes.format(number));
const amount = (number) => (Math.abs(number) >= 100 ? wholes.format(number) : precise.format(number));
const rowsOf = (number) => `${count(number)} ${number === 1 ? "row" : "rows"}`;

function percent(part, all) {
  if (!all) return "";
  const share = (100 * part) / all;
  if (share > 0 && share < 0.1) return "< 0.1 %";
  return `${share > 99.9 && share < 100 ? "99.9" : share.toFixed(share % 1 && share < 99.95 ? 1 : 0)} %`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return "< 1 ms";
  if (seconds < 1) return `${precise.format(seconds * 1000)} ms`;
  if (seconds < 60) return `${precise.format(seconds)} s`;
  const total = Math.round(seconds);
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor(total / 60) % 60];
  return hours ? `${count(hours)} h ${minutes} min` : `${minutes} min ${total % 60} s`;
}

function bytes(number) {
  if (number === null || number === undefined) return "";
  const steps = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];
  const [size, unit] = steps.find(([step]) => number >= step) ?? [1, "B"];
  return `${amount(number / size)} ${unit}`;
}

/** An ISO time without fractions of a second, in its original time zone. */
function time(iso) {
  if (!iso) return "";
  const text = iso.replace("T", " ").replace(/\.\d+/, "").replace(/(\+00:00|Z)$/, " UTC");
  return el("time", { datetime: iso }, text);
}

/** `text` quoted for a shell. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

function command(text) {
  const line = el("pre", { tabindex: 0 }, text);
  const said = el("span", { role: "status", class: "small" });
  const copy = button("Copy", async () => {
    said.textContent = (await copied(text, line)) ? "Copied" : "Selected; press Ctrl+C to copy";
  });
  return el("div", { class: "command" }, line, copy, said);
}

async function copied(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}
