// Charts of the run over time.

const read = new Map(); // the focused point of each chart

function charts() {
  const { seconds, rows: done, failed, tokens, p50, p95, in_flight: flight, memory } = report.timeline;
  const rate = (counts) => counts.map((number, index) => {
    const span = seconds[index] - (seconds[index - 1] ?? 0);
    return span > 0 ? number / span : null;
  });
  const some = (values) => values.some((value) => value);
  const latencies = [["median (p50)", p50], ["95th percentile (p95)", p95]];
  return [
    perSecond("Rows per second", "rows/s", [["finished", rate(done)], ["failed", rate(failed)]]),
    some(p50) && { title: "Response latency", say: duration, tick: duration, series: latencies },
    some(flight) && { title: "Calls in flight", say: count, tick: count, series: [["in flight", flight]] },
    some(tokens) && perSecond("Tokens per second", "tokens/s", [["tokens", rate(tokens)]]),
    some(memory) && { title: "Memory", say: bytes, tick: bytes, series: [["resident", memory]] },
  ].filter((it) => it && seconds.length > 1); // one point is not a line
}

function perSecond(title, unit, series) {
  return { title, say: (value) => `${amount(value)} ${unit}`, tick: amount, series };
}

const overTime = () => charts().map((it) => chart(it, byId("time").querySelector(".body").clientWidth));

/** Round numbers from 0 to just over `most`. */
function ticks(most, number) {
  const rough = (most || 1) / number;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((it) => it * power >= rough * 0.999) ?? 10);
  return Array.from({ length: Math.ceil((most || 1) / step - 0.001) + 1 }, (_, index) => index * step);
}

/** The time unit for a run of this length. */
function clock(last) {
  if (last > 3 * 3600) return [3600, "h"];
  return last > 180 ? [60, "min"] : [1, "s"];
}

const most = (values) => values.reduce((high, value) => Math.max(high, value ?? 0), 0);

function chart({ title, say, tick, series }, available) {
  const { seconds } = report.timeline;
  const width = Math.max(260, available > 700 ? (available - 32) / 2 : available);
  const [left, right, top, bottom, height] = [72, 14, 12, 40, 210];
  const upright = ticks(most(series.flatMap(([, values]) => values)), 4);
  const [size, name] = clock(seconds.at(-1));
  const along = ticks(seconds.at(-1) / size, 5).filter((at) => at * size <= seconds.at(-1) * 1.001);
  const x = (at) => left + (at / seconds.at(-1) || 0) * (width - left - right);
  const y = (value) => height - bottom - (value / upright.at(-1)) * (height - top - bottom);
  const lines = [
    upright.map((at) => [
      svg("line", { class: "axis", x1: left, x2: width - right, y1: y(at), y2: y(at) }),
      svg("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, tick(at)),
    ]),
    along.map((at) => svg("text", { x: x(at * size), y: height - bottom + 18, "text-anchor": "middle" }, amount(at))),
    svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, `${name} since the start`),
    series.map(([, values], index) => curve(values, seconds, x, y, index)),
  ];
  const cursor = svg("g", {});
  const about = { role: "img", tabindex: 0, "aria-label": spoken(title, say, series), "data-key": `chart ${title}` };
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, ...about }, lines, cursor);
  const said = el("output", {});
  const show = (index) => point(index, { title, say, series, seconds, x, y, cursor, said, foot: height - bottom, top });
  reading(image, title, seconds, left, width - left - right, width, show);
  return el("figure", {}, el("h3", {}, title), legend(series), image, said, chartTable(title, say, series, seconds));
}

function curve(values, seconds, x, y, index) {
  const kind = index ? "second" : "";
  const has = (at) => (values[at] ?? null) !== null;
  let path = "";
  const dots = [];
  values.forEach((value, at) => {
    if (!has(at)) return;
    path += `${has(at - 1) ? "L" : "M"}${x(seconds[at]).toFixed(1)},${y(value).toFixed(1)}`;
    if (!has(at - 1) && !has(at + 1)) dots.push(dot(kind, x(seconds[at]), y(value)));
  });
  return [svg("path", { class: `series ${kind}`, d: path }), dots];
}

const dot = (kind, x, y) => svg("circle", { class: `dot ${kind}`, cx: x, cy: y, r: 4 });

function spoken(title, say, series) {
  const peaks = series.map(([name, values]) => `${name} at most ${say(most(values))}`);
  return `${title}: ${peaks.join(", ")}. Use the arrow keys to read values.`;
}

function legend(series) {
  const line = (index) => svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" },
    svg("path", { class: `series ${index ? "second" : ""}`, d: "M0,4H26" }));
  return el("div", { class: "legend" }, series.map(([name], index) => el("span", {}, line(index), name)));
}

/** Mark a point of a chart and show its values; null removes the mark. */
function point(index, { title, say, series, seconds, x, y, cursor, said, foot, top }) {
  if (index === null || index >= seconds.length) {
    read.delete(title);
    cursor.replaceChildren();
    said.textContent = "";
    return;
  }
  read.set(title, index);
  const at = x(seconds[index]);
  const dots = series.map(([, values], number) =>
    values[index] === null ? "" : dot(number ? "second" : "", at, y(values[index])));
  const line = svg("line", { class: "cursor", x1: at, x2: at, y1: top, y2: foot });
  cursor.replaceChildren(line, ...dots.filter(Boolean));
  const readings = series.map(([name, values]) => `${name} ${values[index] === null ? "none" : say(values[index])}`);
  said.textContent = `At ${duration(seconds[index])}: ${readings.join(", ")}`;
}

function reading(image, title, seconds, left, span, width, show) {
  const nearest = (fraction) => {
    const at = fraction * seconds.at(-1);
    const far = (index) => Math.abs(seconds[index] - at);
    return seconds.reduce((best, _, index) => (far(index) < far(best) ? index : best), 0);
  };
  image.addEventListener("pointermove", ({ clientX }) => {
    const { left: outset, width: shown } = image.getBoundingClientRect();
    show(nearest((((clientX - outset) * width) / shown - left) / span));
  });
  image.addEventListener("pointerleave", () => show(null));
  image.addEventListener("focus", () => show(read.get(title) ?? seconds.length - 1));
  image.addEventListener("blur", () => show(null));
  image.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.min(seconds.length - 1, Math.max(0, (read.get(title) ?? seconds.length - 1) + step)));
  });
  if (read.has(title)) show(read.get(title));
}

/** The chart as a table, built when opened: a run may have thousands of points. */
function chartTable(title, say, series, seconds) {
  const details = folded(`table ${title}`, "Show as table", "");
  details.addEventListener("toggle", () => {
    if (!details.open) return;
    const cell = ([, values], index) => (values[index] === null ? "" : say(values[index]));
    const lines = seconds.map((second, index) => [duration(second), ...series.map((it) => cell(it, index))]);
    const heads = ["Time", ...series.map(([name]) => name)];
    const numbers = heads.slice(1);
    details.replaceChildren(details.firstChild, table(title, heads, lines, { numbers, kind: "tall" }));
  });
  return details;
}
