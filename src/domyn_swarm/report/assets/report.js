// Renders the page from the embedded data.

const start = JSON.parse(document.getElementById("data").textContent);
const { live } = start;
let { report, picture } = start;

const EVERY = 2000;
const STATES = {
  running: "Running. The figures below were last updated at the time shown.",
  done: "Completed.",
  failed: "Failed. Finished rows are kept.",
  interrupted: "Interrupted. Finished rows are kept.",
  lost: "The process exited without recording a status. Rows in parts are kept.",
};

// The sections of the page. Each function returns its content, empty when there is nothing to show

function head() {
  const { path, number, started, ended, seconds, host, as_of: asOf, state } = report;
  return [
    el("p", { class: "kicker" }, report.graph.title),
    el("div", { class: "headline" }, el("h1", {}, breakable(report.job || "Run")), badge(state)),
    el("p", { class: "muted" }, STATES[state]),
    facts([
      ["Run", code(path)], ["Number", count(number)], ["Started", time(started)], ["Ended", time(ended)],
      ["Duration", duration(seconds)], ["Host", host], ["Updated", time(asOf)],
    ]),
  ];
}

function broken() {
  const it = report.broken;
  if (!it) return [];
  const where = it.node && el("p", {}, "In the node ", nodeLink(it.node), ", which is selected in the graph below.");
  return [
    where,
    el("p", {}, code(it.type)),
    el("p", { class: "said" }, it.message),
    it.hint && el("p", { class: "text" }, it.hint),
    it.traceback && folded("traceback", "Traceback", el("pre", { tabindex: 0 }, it.traceback)),
  ];
}

const resume = () => (report.resume ? [el("p", {}, "Resume the run with:"), command(report.resume)] : []);

function rows() {
  const { total, done_before: before, rows: now, failed, state, traffic, seconds } = report;
  if (!total) return state === "done" ? [el("p", {}, "The input has no rows.")] : [];
  const left = Math.max(0, total - before - now);
  const step = (name, number, from, kind) => [name, number, from / total, Math.min(1, (from + number) / total), kind];
  const steps = [
    step("In the input", total, 0, "waiting"),
    step("Done before", before, 0, "done"),
    step("Finished now", now, before, "done"),
    step("Failed", failed, before + now - failed, "failed"),
    step(state === "running" ? "Remaining" : "Not reached", left, before + now, state === "running" ? "waiting" : "stopped"),
  ].filter(([name, number]) => number || name === "Finished now" || name === "Failed");
  const line = ([name, number, from, to, kind]) =>
    el("li", {}, el("span", {}, name), el("span", { class: "number" }, rowsOf(number)),
      el("span", { class: "share" }, percent(number, total)), bar(from, to, kind));
  const rate = now && seconds ? `${amount(now / seconds)} rows/s on average` : "";
  const totals = Object.entries(traffic).map(([name, value]) => [label(name), plain(value)]);
  return [el("ul", { class: "bars" }, steps.map(line)), facts([["Speed", rate], ...totals])];
}

const label = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

function plain(value) {
  if (typeof value === "number") return amount(value);
  return value === null || typeof value !== "object" ? String(value ?? "") : JSON.stringify(value);
}

const warnings = () => (report.warnings.length ? [el("ul", {}, report.warnings.map((text) => el("li", {}, text)))] : []);

function servers() {
  const line = (one) => [one.name, [one.state, one.starts > 1 ? `started ${count(one.starts)} times` : "", one.detail].filter(Boolean).join(", ")];
  const found = report.servers ?? [];
  return found.length ? [facts(found.map(line))] : [];
}

function failures() {
  const sum = report.failures.reduce((total, kind) => total + kind.count, 0);
  return report.failures.map((kind, index) =>
    el("div", { class: "kind" },
      el("div", { class: "headline" }, el("h3", {}, kind.type),
        el("span", {}, `${rowsOf(kind.count)}, ${percent(kind.count, sum)}`)),
      bar(0, kind.count / sum, "failed"),
      el("p", { class: "text" }, kind.message),
      kind.examples.length && folded(`examples ${index}`, examplesTitle(kind),
        kind.examples.map((it, number) => example(it, `trace ${index} ${number}`)))));
}

function examplesTitle({ examples, count: all }) {
  if (examples.length === all) return all === 1 ? "The row" : `The ${count(all)} rows`;
  return examples.length === 1 ? "1 example" : `${count(examples.length)} examples`;
}

function example(row, key) {
  const tries = `${count(row.attempts)} ${row.attempts === 1 ? "attempt" : "attempts"}`;
  return el("div", { class: "example" },
    el("div", {}, code(row.id), el("span", { class: "muted" }, `, ${tries}`)),
    el("p", {}, row.message),
    row.trace && folded(key, "Traceback", el("pre", { tabindex: 0 }, row.trace)));
}

function nodes() {
  const computed = report.graph.nodes.filter(({ kind, name }) => (kind === "node" || kind === "step") && figuresOf(name));
  // Seconds of steps are those of their calls, many of which run at once.
  const all = computed.reduce((sum, { kind, name }) => sum + (kind === "node" ? figuresOf(name).seconds : 0), 0);
  const lines = computed.map(({ kind, name }) => {
    const { state, rows_in: came, rows: left, seconds, memory, batches } = figuresOf(name);
    const worked = state !== "waiting";
    const share = worked && all && kind === "node" ? el("div", { class: "beside" }, percent(seconds, all), bar(0, seconds / all, "running")) : "";
    const took = worked ? duration(seconds) : "";
    return [nodeLink(name), badge(state), count(came), count(left), count(batches), took, share, bytes(memory)];
  });
  const heads = ["Node", "State", "Rows in", "Rows out", "Batches", "Time", "Share of time", "Memory"];
  return lines.length ? [table("All nodes", heads, lines, { numbers: ["Rows in", "Rows out", "Batches", "Time", "Memory"] })] : [];
}

function output() {
  const { parts, parts_bytes: size, output: path, errors_path: errors, damaged } = report;
  const parted = parts ? `${count(parts)} ${parts === 1 ? "part" : "parts"}, ${bytes(size)}` : "";
  const set = damaged.length ? el("ul", {}, damaged.map((name) => el("li", {}, code(name)))) : "";
  const lines = [["Output", code(path)], ["Failed rows", code(errors)], ["Checkpoints", parted], ["Quarantined parts", set]];
  return [facts(lines, "lines")];
}

function options() {
  const lines = (chosen) => chosen.map(({ flag, value }) => [code(flag), el("div", {}, value)]);
  const [given, defaults] = [false, true].map((is) => lines(report.options.filter((it) => it.is_default === is)));
  return [
    given.length && table("Given options", ["Option", "Value"], given),
    !given.length && defaults.length && el("p", {}, "All options have their default values."),
    defaults.length && folded("defaults", `Defaults (${defaults.length})`,
      table("Options with default values", ["Option", "Value"], defaults)),
  ];
}

const versions = () => [facts(Object.entries(report.versions))];

// The selected node

let chosen = null;
const nodeNamed = (name) => report.graph.nodes.find((node) => node.name === name);
const figuresOf = (name) => (Object.hasOwn(report.figures, name) ? report.figures[name] : null);

/** The selected node, else the failed one, else the job's. */
function selected() {
  const first = report.graph.nodes.find(({ kind }) => kind === "node");
  return [chosen, report.broken?.node, "transformed", first?.name].find((name) => name && nodeNamed(name));
}

function nodeLink(name) {
  if (!nodeNamed(name)) return code(name);
  return button(name, () => select(name, true), { class: "link", "data-key": `link ${name}` });
}

function select(name, show = false) {
  chosen = name;
  keeping(byId("panel"), drawPanel);
  markSelected();
  if (!show) return;
  byId("panel").scrollIntoView({ block: "nearest" });
  byId("panel").focus({ preventScroll: true });
}

function drawPanel(panel) {
  const node = nodeNamed(selected());
  panel.replaceChildren(...(node ? nodeParts(node, figuresOf(node.name)) : []));
}

function nodeParts(node, figures) {
  const users = report.graph.nodes.filter(({ inputs }) => inputs.includes(node.name)).map(({ name }) => name);
  const links = (names) => names.length > 0 && el("span", { class: "links" }, names.map(nodeLink));
  const { kind, name, type, variant, where, effects, inputs, value, overridden, doc } = node;
  return [
    el("div", { class: "headline" }, el("h3", {}, name),
      figures ? badge(figures.state) : el("span", { class: "badge" }, kind)),
    doc && el("p", { class: "text" }, doc),
    ...(figures ? outcome(figures) : []),
    facts([
      ["Value", value], ["Overridden by", overridden && `a ${overridden}`], ["Type", code(type)], ["Variant", variant], ["Inputs", links(inputs)], ["Used by", links(users)],
      ["Effects", effects.join(", ")], ["Source", code(where)], ...measured(figures ?? {}),
    ], "lines"),
    ...(figures ? shapes(figures) : []),
  ].filter(Boolean);
}

function measured({ rows_in: came, rows: left, seconds, batches, bytes: size, memory }) {
  return [
    ["Rows in", count(came)], ["Rows out", count(left)], ["Time", duration(seconds)], ["Batches", count(batches)],
    ["Size", bytes(size)], ["Memory", bytes(memory)],
  ];
}

/** A node's error, its note, and the rows that it dropped. */
function outcome({ error, note, lost }) {
  const losses = lost.map(({ rows: number, why }) => el("li", {}, `${rowsOf(number)}: ${why}`));
  return [
    error && el("p", { class: "note failed" }, el("strong", {}, "Error: "), error),
    note && el("p", { class: "note" }, note),
    losses.length && el("h4", {}, "Dropped rows"),
    losses.length && el("ul", {}, losses),
  ];
}

function shapes({ schema, sample }) {
  const columns = Object.entries(schema).map(([name, type]) => [name, code(type)]);
  const heads = [...new Set([...Object.keys(schema), ...sample.flatMap((row) => Object.keys(row))])];
  const cell = (row, name) => (Object.hasOwn(row, name) ? el("div", {}, row[name]) : "");
  const line = (row) => el("tr", {}, heads.map((name) => el("td", { class: "text" }, cell(row, name))));
  const titles = el("thead", {}, el("tr", {}, heads.map((name) => el("th", { scope: "col" }, name))));
  const texts = scrolling("Sample", el("table", {}, titles, el("tbody", {}, sample.map(line))), "tall");
  return [
    ...(columns.length ? [el("h4", {}, "Schema"), table("Schema", ["Column", "Type"], columns, { kind: "tall" })] : []),
    ...(sample.length ? [el("h4", {}, "Sample"), texts] : []),
  ];
}

// Row search and failures from the server of a live page

const NO_ANSWER = "The server does not respond.";

function ask(address, parameters) {
  const token = new URLSearchParams(location.search).get("token");
  const headers = { Authorization: `Bearer ${token}` };
  const request = fetch(`${address}?${new URLSearchParams(parameters)}`, { cache: "no-store", headers });
  return request.then((answer) => answer.json());
}

function oneRow() {
  const path = quoted(report.path);
  if (live) return [lookUp()];
  return [
    el("p", {}, "Show the history of a row, from input to output, by its id:"),
    command(`domyn-swarm job row ${path} ID`),
    el("p", {}, "Serve this report with live updates, all failed rows and a row search:"),
    command(`domyn-swarm job view ${path}`),
  ];
}

function lookUp() {
  const input = el("input", { id: "row-id", name: "id", required: "", autocomplete: "off" });
  const found = el("div", { id: "row-found", role: "status" });
  const submit = async (event) => {
    event.preventDefault();
    const answer = await ask("row.json", { id: input.value }).catch(() => ({ error: NO_ANSWER }));
    found.replaceChildren(answer.error ? el("p", { class: "note failed" }, answer.error) : el("pre", { tabindex: 0 }, answer.text));
  };
  const caption = el("label", { for: "row-id" }, "Row id");
  return el("div", {}, el("form", { class: "ask", submit }, caption, input, el("button", {}, "Look up")), found);
}

let failedKind = 0; // the kind of failure whose rows are shown

function drawFailedRows() {
  if (!live || !report.failures.length) return;
  const kinds = report.failures.map(({ type, count: all, message }, index) =>
    el("option", { value: index }, `${type} (${count(all)}): ${message.slice(0, 80)}`));
  const chooser = byId("failed-kind");
  if (chooser) {
    if (chooser !== document.activeElement) chooser.replaceChildren(...kinds); // it may be open
    chooser.value = failedKind;
    return;
  }
  const change = ({ target }) => {
    failedKind = Number(target.value);
    showFailedRows([0]);
  };
  byId("failed-rows").replaceChildren(
    el("h3", {}, "All failed rows"),
    el("div", { class: "ask" }, el("label", { for: "failed-kind" }, "Kind"),
      el("select", { id: "failed-kind", change }, kinds), button("Show", () => showFailedRows([0]))),
    el("div", { id: "failed-page", role: "status" }));
}

/** Show a page of failed rows. `offsets` are those of all pages up to it; only the server knows their lengths. */
async function showFailedRows(offsets) {
  const offset = offsets.at(-1);
  const { rows: found, total, error } = await ask("failures.json", { kind: failedKind, offset }).catch(() => ({}));
  const page = byId("failed-page");
  if (!found) return page.replaceChildren(el("p", { class: "note failed" }, error ?? NO_ANSWER));
  const next = offset + found.length;
  const parts = [
    ...found.map((row) => example(row, `failed ${row.id}`)),
    el("div", { class: "ask" },
      button("Previous", () => showFailedRows(offsets.slice(0, -1)), { disabled: offsets.length === 1, "data-key": "previous" }),
      el("span", {}, found.length ? `${count(offset + 1)} to ${count(next)} of ${count(total)}` : "None"),
      button("Next", () => showFailedRows([...offsets, next]), { disabled: next >= total || !found.length, "data-key": "next" })),
  ];
  return keeping(page, () => page.replaceChildren(...parts));
}

// Rendering

const PARTS = { broken, resume, rows, warnings, servers, time: overTime, failures, nodes, output, options, versions };
const shown = new Map();

/** Replace the content of an element, keeping open details, scroll positions and the focus. */
function keeping(container, replace) {
  const keyed = (selector) => [...container.querySelectorAll(selector)];
  const open = new Set(keyed("details[open]").map((it) => it.dataset.key));
  const scrolled = keyed(".scroll, pre, .note, .said").map((it) => [it.scrollLeft, it.scrollTop]);
  const focused = container.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  replace(container);
  for (const details of keyed("details")) details.open = open.has(details.dataset.key);
  keyed(".scroll, pre, .note, .said").forEach((it, index) => it.scrollTo(...(scrolled[index] ?? [0, 0])));
  if (focused) keyed("[data-key]").find((it) => it.dataset.key === focused)?.focus({ preventScroll: true });
}

function fill(container, key, parts) {
  const children = parts.filter(Boolean);
  const html = children.map((part) => part.outerHTML).join("");
  if (shown.get(key) === html) return children.length;
  shown.set(key, html);
  keeping(container, () => container.replaceChildren(...children));
  return children.length;
}

function drawContents() {
  const parts = [...document.querySelectorAll("main > section:not([hidden])")];
  const link = ({ id, firstElementChild }) => el("li", {}, el("a", { href: `#${id}`, "data-key": id }, firstElementChild.textContent));
  fill(byId("contents"), "contents", [el("ul", {}, parts.map(link))]);
}

function draw() {
  document.title = `${MARKS[report.state]} ${report.job}: ${report.state}`;
  fill(byId("top"), "top", head());
  for (const [id, parts] of Object.entries(PARTS)) {
    byId(id).hidden = false; // visible, so that it can be measured
    byId(id).hidden = !fill(byId(id).querySelector(".body"), id, parts());
  }
  drawFailedRows();
  drawGraph();
  keeping(byId("panel"), drawPanel);
  markSelected();
  drawContents();
}

async function follow() {
  const news = await ask("data.json", {}).catch(() => null);
  if (news?.report) {
    ({ report, picture } = news);
    draw();
  }
  if (report.state === "running") setTimeout(follow, EVERY);
}

listen();
draw();
fill(byId("row").querySelector(".body"), "row", oneRow());
addEventListener("resize", () => {
  fill(byId("time").querySelector(".body"), "time", overTime());
  drawGraph();
});
if (live && report.state === "running") setTimeout(follow, EVERY);
