// The graph: a prerendered SVG or a layered drawing, with zoom and selection.

const box = byId("picture");
const GROUPS = "g.node[id^='node-']";
const SHAPES = ["path", "polygon", "polyline", "rect", "circle", "ellipse", "line", "text", "tspan"];
const ALLOWED = new Set(["svg", "g", "a", "title", "desc", "defs", ...SHAPES]);
const LEGIBLE = 0.5; // minimum pixels per unit of the SVG
let fitted = null; // the view box when fitted: x, y, width, height
let view = null; // the current view box; null when fitted
let drawn = "";

/** The SVG without anything that could run or load; null when it is invalid. */
function sanitised(text) {
  const root = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  if (root.localName !== "svg" || root.querySelector("parsererror")) return null;
  for (const element of [root, ...root.querySelectorAll("*")]) {
    if (!ALLOWED.has(element.localName)) element.remove();
    for (const { name } of [...element.attributes]) if (/^on|href$/i.test(name)) element.removeAttribute(name);
  }
  return document.importNode(root, true);
}

const isDrawing = (image) => image?.classList.contains("drawing") ?? false;
const sizeOf = (image) => image.getAttribute("viewBox")?.trim().split(/[\s,]+/).map(Number) ?? [0, 0, 800, 600];

/** The prerendered SVG, or the narrower drawing if the SVG would be too small to read. */
function image() {
  const given = picture ? sanitised(picture) : null;
  return given && box.clientWidth >= LEGIBLE * sizeOf(given)[2] ? given : drawing();
}

function drawGraph() {
  byId("graph").hidden = !report.graph.nodes.length;
  const next = image();
  if (next.outerHTML === drawn) return;
  drawn = next.outerHTML;
  fitted = sizeOf(next);
  if (isDrawing(next) !== isDrawing(box.firstElementChild)) view = null;
  next.removeAttribute("width");
  next.removeAttribute("height");
  make(next, { role: "group", "aria-label": `Graph: ${report.graph.title}` }, []);
  next.querySelectorAll(GROUPS).forEach(prepare);
  keeping(box, () => box.replaceChildren(next));
  box.style.aspectRatio = fitted[2] / fitted[3];
  show(view);
  markSelected();
}

const nameOf = (group) => group.id.slice("node-".length);

function prepare(group) {
  const name = nameOf(group);
  const figures = figuresOf(name);
  const state = figures ? `, ${figures.state}` : "";
  make(group, { role: "button", tabindex: -1, "aria-label": `${name}${state}`, "data-key": group.id }, []);
}

function markSelected() {
  const name = selected();
  for (const group of box.querySelectorAll(GROUPS)) {
    const is = nameOf(group) === name;
    group.classList.toggle("selected", is);
    group.setAttribute("aria-pressed", is);
    group.setAttribute("tabindex", is ? 0 : -1);
  }
  for (const edge of box.querySelectorAll("g.edge")) {
    const [from, to] = (edge.querySelector("title")?.textContent ?? "").split("->");
    edge.classList.toggle("near", from === name || to === name);
  }
}

function drawing() {
  const computed = report.graph.nodes.filter(({ kind }) => kind === "node" || kind === "step");
  const { slots, edges, size } = layered(computed);
  const lines = edges.map(({ from, to, path, x, y }) =>
    svg("g", { class: "edge" }, svg("title", {}, `${from}->${to}`), svg("path", { d: path }),
      svg("polygon", { points: `${x - 4},${y - 8} ${x + 4},${y - 8} ${x},${y}` })));
  const boxes = computed.map(({ name }) => nodeBox(name, slots.get(name)));
  return svg("svg", { class: "drawing", viewBox: `-16 -16 ${size[0] + 32} ${size[1] + 32}` }, svg("g", {}, lines, boxes));
}

function nodeBox(name, { x, y, width }) {
  const figures = figuresOf(name);
  const state = figures?.state ?? "waiting";
  const size = figures?.rows === null || !figures ? "" : `, ${rowsOf(figures.rows)}`;
  return svg("g", { id: `node-${name}`, class: `node ${state}` },
    svg("title", {}, name),
    svg("rect", { x: x - width / 2, y, width, height: BOX, rx: 7 }),
    svg("text", { x, y: y + 19, "text-anchor": "middle", "font-size": 15 }, name),
    svg("text", { x, y: y + 37, "text-anchor": "middle", "font-size": 13, class: "mark" },
      `${MARKS[state]} ${state}${size}`));
}

const BOX = 46;
const RANK = 74;
const GAP = 22;

/** Nodes in layers, each below its inputs; an edge that crosses layers has a slot in each of them. */
function layered(computed) {
  const known = new Set(computed.map(({ name }) => name));
  const rank = new Map();
  for (const { name, inputs } of computed) {
    rank.set(name, Math.max(-1, ...inputs.filter((it) => known.has(it)).map((it) => rank.get(it) ?? 0)) + 1);
  }
  const isAbove = (input, name) => rank.has(input) && rank.get(input) < rank.get(name);
  const ends = computed.flatMap(({ name, inputs }) =>
    inputs.filter((input) => isAbove(input, name)).map((input) => [input, name]));
  const layers = Array.from({ length: Math.max(0, ...rank.values()) + 1 }, () => []);
  const slots = new Map();
  const put = (id, at, width, passing = false) => {
    slots.set(id, { id, width, passing, x: 0, y: at * RANK, above: [], below: [] });
    layers[at].push(slots.get(id));
  };
  for (const [name, at] of rank) put(name, at, widthOf(name));
  const routes = ends.map(([from, to]) => route(from, to, rank, slots, put));
  for (const ids of routes) ids.slice(1).forEach((id, index) => join(slots.get(ids[index]), slots.get(id)));
  arrange(layers);
  const left = Math.min(...[...slots.values()].map(({ x, width }) => x - width / 2));
  for (const slot of slots.values()) slot.x -= left;
  const right = Math.max(0, ...[...slots.values()].map(({ x, width }) => x + width / 2));
  return { slots, edges: routes.map((ids) => edge(ids, slots)), size: [right, (layers.length - 1) * RANK + BOX] };
}

const widthOf = (name) => Math.max(176, name.length * 9 + 28);

/** The path from one node to another through a slot in every layer between; edges of a node share slots. */
function route(from, to, rank, slots, put) {
  const ids = [from];
  for (let at = rank.get(from) + 1; at < rank.get(to); at += 1) {
    const id = `${from} ${at}`;
    if (!slots.has(id)) put(id, at, 8, true);
    ids.push(id);
  }
  return [...ids, to];
}

function join(upper, lower) {
  if (upper.below.includes(lower)) return;
  upper.below.push(lower);
  lower.above.push(upper);
}

/** Order the slots of each layer by their neighbours' positions, then move them there as far as possible. */
function arrange(layers) {
  layers.forEach(spread);
  for (let sweep = 0; sweep < 12; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const layer of down ? layers : [...layers].reverse()) {
      for (const slot of layer) slot.want = pull(slot, down ? slot.above : slot.below);
      if (sweep < 8) layer.sort((one, other) => one.want - other.want);
      spread(layer);
    }
  }
}

/** The mean position of a slot's neighbours; crossing edges prefer a straight line. */
function pull({ passing, x }, neighbours) {
  const near = neighbours.filter((other) => passing && other.passing);
  const those = near.length ? near : neighbours;
  return those.length ? those.reduce((sum, other) => sum + other.x, 0) / those.length : x;
}

function spread(layer) {
  layer.forEach((slot, index) => {
    const before = layer[index - 1];
    const least = before ? before.x + (before.width + slot.width) / 2 + GAP : -Infinity;
    slot.x = Math.max(slot.want ?? 0, least);
  });
  const shift = layer.reduce((sum, { x, want }) => sum + x - (want ?? x / 2), 0) / layer.length;
  for (const slot of layer) slot.x -= shift;
}

function edge(ids, slots) {
  const [first, ...rest] = ids.map((id) => slots.get(id));
  let [x, y] = [first.x, first.y + BOX];
  let path = `M${x},${y}`;
  rest.forEach((slot, index) => {
    const end = index === rest.length - 1;
    const [toX, toY] = [slot.x, end ? slot.y - 7 : slot.y];
    path += `C${x},${(y + toY) / 2} ${toX},${(y + toY) / 2} ${toX},${toY}`;
    if (!end) path += `V${toY + BOX}`;
    [x, y] = [toX, end ? toY : toY + BOX];
  });
  return { from: ids[0], to: ids.at(-1), path, x, y: y + 7 };
}

// Zoom and selection

function show(at) {
  const image = box.firstElementChild;
  if (!image) return;
  view = at;
  image.setAttribute("viewBox", (view ?? fitted).map((number) => Math.round(number * 100) / 100).join(" "));
  box.classList.toggle("zoomed", view !== null);
}

/** SVG units per pixel. */
const scale = () => 1 / box.firstElementChild.getScreenCTM().a;

/** Zoom in, around a point of the window or the centre. */
function zoom(factor, point = null) {
  const [x, y, width, height] = view ?? fitted;
  const smallest = fitted[2] / 20;
  const by = Math.min(Math.max(factor, width / (fitted[2] * 3)), width / smallest);
  const matrix = box.firstElementChild.getScreenCTM().inverse();
  const about = point ? new DOMPoint(point.x, point.y).matrixTransform(matrix) : { x: x + width / 2, y: y + height / 2 };
  show([about.x - (about.x - x) / by, about.y - (about.y - y) / by, width / by, height / by]);
}

function dragging() {
  let from = null;
  let moved = false;
  box.addEventListener("pointerdown", (event) => {
    moved = false;
    from = event.button === 0 ? { x: event.clientX, y: event.clientY, view: view ?? fitted } : null;
  });
  box.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
    if (!moved && Math.hypot(dx, dy) < 5) return;
    if (!moved) box.setPointerCapture(event.pointerId);
    moved = true;
    box.classList.add("dragged");
    const [x, y, width, height] = from.view;
    show([x - dx * scale(), y - dy * scale(), width, height]);
  });
  const end = () => {
    from = null;
    box.classList.remove("dragged");
  };
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) box.addEventListener(name, end);
  box.addEventListener("click", (event) => {
    const group = event.target.closest(GROUPS);
    if (group && !moved) select(nameOf(group));
  });
}

const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
const middle = (element) => {
  const { left, top, width, height } = element.getBoundingClientRect();
  return [left + width / 2, top + height / 2];
};

/** The nearest node in a direction; sideways distance counts double. */
function neighbour(group, [dx, dy]) {
  const [x, y] = middle(group);
  const far = (other) => {
    const [toX, toY] = middle(other);
    const ahead = (toX - x) * dx + (toY - y) * dy;
    return ahead > 1 ? ahead + 2 * Math.abs((toX - x) * dy + (toY - y) * dx) : Infinity;
  };
  const others = [...box.querySelectorAll(GROUPS)].filter((other) => far(other) < Infinity);
  return others.sort((one, other) => far(one) - far(other))[0];
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const group = event.target.closest?.(GROUPS);
  const actions = { "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => show(null) };
  let action = actions[event.key];
  if (group && ["Enter", " "].includes(event.key)) action = () => select(nameOf(group));
  if (group && ARROWS[event.key]) action = () => neighbour(group, ARROWS[event.key])?.focus();
  if (!action) return;
  event.preventDefault();
  action();
}

function listen() {
  byId("zoom-in").addEventListener("click", () => zoom(1.25));
  byId("zoom-out").addEventListener("click", () => zoom(0.8));
  byId("fit").addEventListener("click", () => show(null));
  byId("view").addEventListener("keydown", onKey);
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), { x: event.clientX, y: event.clientY });
  }, { passive: false });
  dragging();
}
