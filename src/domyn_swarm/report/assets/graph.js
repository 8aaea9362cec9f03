// The graph: a picture that was made before, or a drawing in layers; how it is looked at.

const box = byId("picture");
const GROUPS = "g.node[id^='node-']";
const SHAPES = ["path", "polygon", "polyline", "rect", "circle", "ellipse", "line", "text", "tspan"];
const ALLOWED = new Set(["svg", "g", "a", "title", "desc", "defs", ...SHAPES]);
const LEGIBLE = 0.5; // pixels for a unit of the picture
let fitted = null; // what the view shows when it is fitted: x, y, width, height
let view = null; // what it shows now; null while it is fitted
let drawn = "";

/** The picture without anything that could run or load; null when it is none. */
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

/** The picture, unless it would be too small to read: what the page draws is narrower. */
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
  look(view);
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
  const computed = report.graph.nodes.filter(({ kind }) => kind === "node");
  const { places, edges, size } = layered(computed);
  const lines = edges.map(({ from, to, path, x, y }) =>
    svg("g", { class: "edge" }, svg("title", {}, `${from}->${to}`), svg("path", { d: path }),
      svg("polygon", { points: `${x - 4},${y - 8} ${x + 4},${y - 8} ${x},${y}` })));
  const boxes = computed.map(({ name }) => nodeBox(name, places.get(name)));
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

/** Nodes in layers, each below its inputs; an edge that passes layers holds a place in each of them. */
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
  const places = new Map();
  const put = (id, at, width, passing = false) => {
    places.set(id, { id, width, passing, x: 0, y: at * RANK, above: [], below: [] });
    layers[at].push(places.get(id));
  };
  for (const [name, at] of rank) put(name, at, widthOf(name));
  const routes = ends.map(([from, to]) => route(from, to, rank, places, put));
  for (const ids of routes) ids.slice(1).forEach((id, index) => join(places.get(ids[index]), places.get(id)));
  arrange(layers);
  const left = Math.min(...[...places.values()].map(({ x, width }) => x - width / 2));
  for (const place of places.values()) place.x -= left;
  const right = Math.max(0, ...[...places.values()].map(({ x, width }) => x + width / 2));
  return { places, edges: routes.map((ids) => edge(ids, places)), size: [right, (layers.length - 1) * RANK + BOX] };
}

const widthOf = (name) => Math.max(176, name.length * 9 + 28);

/** From one node to another by a place in every layer between; edges out of the same node share them. */
function route(from, to, rank, places, put) {
  const ids = [from];
  for (let at = rank.get(from) + 1; at < rank.get(to); at += 1) {
    const id = `${from} ${at}`;
    if (!places.has(id)) put(id, at, 8, true);
    ids.push(id);
  }
  return [...ids, to];
}

function join(upper, lower) {
  if (upper.below.includes(lower)) return;
  upper.below.push(lower);
  lower.above.push(upper);
}

/** Order the places of each layer by where their neighbours are, then move them there as far as there is room. */
function arrange(layers) {
  layers.forEach(spread);
  for (let sweep = 0; sweep < 12; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const layer of down ? layers : [...layers].reverse()) {
      for (const place of layer) place.want = pull(place, down ? place.above : place.below);
      if (sweep < 8) layer.sort((one, other) => one.want - other.want);
      spread(layer);
    }
  }
}

/** Where a place's neighbours want it: a passing edge goes on straight where it can. */
function pull({ passing, x }, neighbours) {
  const near = neighbours.filter((other) => passing && other.passing);
  const those = near.length ? near : neighbours;
  return those.length ? those.reduce((sum, other) => sum + other.x, 0) / those.length : x;
}

function spread(layer) {
  layer.forEach((place, index) => {
    const before = layer[index - 1];
    const room = before ? before.x + (before.width + place.width) / 2 + GAP : -Infinity;
    place.x = Math.max(place.want ?? 0, room);
  });
  const shift = layer.reduce((sum, { x, want }) => sum + x - (want ?? x / 2), 0) / layer.length;
  for (const place of layer) place.x -= shift;
}

function edge(ids, places) {
  const [first, ...rest] = ids.map((id) => places.get(id));
  let [x, y] = [first.x, first.y + BOX];
  let path = `M${x},${y}`;
  rest.forEach((place, index) => {
    const end = index === rest.length - 1;
    const [toX, toY] = [place.x, end ? place.y - 7 : place.y];
    path += `C${x},${(y + toY) / 2} ${toX},${(y + toY) / 2} ${toX},${toY}`;
    if (!end) path += `V${toY + BOX}`;
    [x, y] = [toX, end ? toY : toY + BOX];
  });
  return { from: ids[0], to: ids.at(-1), path, x, y: y + 7 };
}

// Looking at the graph

function look(at) {
  const image = box.firstElementChild;
  if (!image) return;
  view = at;
  image.setAttribute("viewBox", (view ?? fitted).map((number) => Math.round(number * 100) / 100).join(" "));
  box.classList.toggle("zoomed", view !== null);
}

/** How much of the picture a pixel is. */
const scale = () => 1 / box.firstElementChild.getScreenCTM().a;

/** Make it larger, around a point of the window or the middle. */
function zoom(factor, point = null) {
  const [x, y, width, height] = view ?? fitted;
  const smallest = fitted[2] / 20;
  const by = Math.min(Math.max(factor, width / (fitted[2] * 3)), width / smallest);
  const matrix = box.firstElementChild.getScreenCTM().inverse();
  const about = point ? new DOMPoint(point.x, point.y).matrixTransform(matrix) : { x: x + width / 2, y: y + height / 2 };
  look([about.x - (about.x - x) / by, about.y - (about.y - y) / by, width / by, height / by]);
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
    look([x - dx * scale(), y - dy * scale(), width, height]);
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

/** The nearest node in a direction; what lies aside counts double. */
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
  const actions = { "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => look(null) };
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
  byId("fit").addEventListener("click", () => look(null));
  byId("view").addEventListener("keydown", onKey);
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), { x: event.clientX, y: event.clientY });
  }, { passive: false });
  dragging();
}
