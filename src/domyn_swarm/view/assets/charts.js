// Charts of the run over time.

const read = new Map(); // which point of a chart the reader looks at

function charts() {
  const { seconds, rows: done, failed, tokens, p50, p95, in_flight: flight, memory } = report.timeline;
  const rate = (counts) => counts.map((number, index) => {
    const span = seconds[index] - (seconds[index - 1] ?? 0);
    return span > 0 ? number / span : null;
  });
  const some = (values) => values.some((value) => value);
  const perSecond = (unit) => (value) => `${amount(value)} ${unit}`;
  return [
    { title: "Rows per second", unit: "rows/s", say: perSecond("rows/s"), series: [["finished", rate(done)], ["failed", rate(failed)]] },
    some(p50) && { title: "Latency of answers", unit: "s", say: duration, series: [["half are faster (p50)", p50], ["95 % are faster (p95)", p95]] },
    some(flight) && { title: "Calls in flight", unit: "calls", say: count, series: [["in flight", flight]] },
    some(tokens) && { title: "Tokens per second", unit: "tokens/s", say: perSecond("tokens/s"), series: [["tokens", rate(tokens)]] },
    some(memory) && { title: "Memory", unit: "bytes", say: bytes, series: [["resident", memory]] },
  ].filter((it) => it && seconds.length);
}

const overTime = () => charts().map((it) => chart(it, byId("time").querySelector(".body").clientWidth));

/** Round numbers from 0 to just over `most`. */
function ticks(most, number, base = 10) {
  const rough = (most || 1) / number;
  const power = base ** Math.floor(Math.log(rough) / Math.log(base));
  const step = power * ([1, 2, 2.5, 5, 10].find((it) => it * power >= rough * 0.999) ?? 10);
  return Array.from({ length: Math.ceil((most || 1) / step - 0.001) + 1 }, (_, index) => index * step);
}

/** The unit in which a run of this length is told. */
function clock(last) {
  if (last > 3 * 3600) return [3600, "h"];
  return last > 180 ? [60, "min"] : [1, "s"];
}

function chart({ title, unit, say, series }, room) {
  const { seconds } = report.timeline;
  const width = Math.max(260, room > 700 ? (room - 32) / 2 : room);
  const [left, right, top, bottom, height] = [72, 14, 12, 40, 210];
  const upright = ticks(Math.max(0, ...series.flatMap(([, values]) => values.map((value) => value ?? 0))), 4);
  const [size, name] = clock(seconds.at(-1));
  const along = ticks(seconds.at(-1) / size, 5).filter((tick) => tick * size <= seconds.at(-1) * 1.001);
  const x = (at) => left + (at / seconds.at(-1) || 0) * (width - left - right);
  const y = (value) => height - bottom - (value / upright.at(-1)) * (height - top - bottom);
  const lines = [
    upright.map((tick) => [svg("line", { class: "axis", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, unit === "bytes" || unit === "s" ? say(tick) : amount(tick))]),
    along.map((tick) => svg("text", { x: x(tick * size), y: height - bottom + 18, "text-anchor": "middle" }, amount(tick))),
    svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, `${name} since the start`),
    series.map(([, values], index) => curve(values, seconds, x, y, index)),
  ];
  const cursor = svg("g", {});
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": spoken(title, say, series), "data-key": `chart ${title}` }, lines, cursor);
  const said = el("output", {});
  const show = (index) => point(index, { title, say, series, seconds, x, y, cursor, said, foot: height - bottom, top });
  reading(image, title, seconds, left, width - left - right, width, show);
  return el("figure", {}, el("h3", {}, title), legend(series), image, said, chartTable(title, say, series, seconds));
}

function curve(values, seconds, x, y, index) {
  const kind = index ? "second" : "";
  let path = "";
  let dots = [];
  values.forEach((value, at) => {
    if (value === null) return;
    const alone = values[at - 1] === undefined || values[at - 1] === null;
    path += `${alone ? "M" : "L"}${x(seconds[at]).toFixed(1)},${y(value).toFixed(1)}`;
    if (alone && (values[at + 1] ?? null) === null) dots = [...dots, svg("circle", { class: `dot ${kind}`, cx: x(seconds[at]), cy: y(value), r: 3.5 })];
  });
  return [svg("path", { class: `series ${kind}`, d: path }), dots];
}

function spoken(title, say, series) {
  const peaks = series.map(([name, values]) => `${name} at most ${say(Math.max(0, ...values.map((value) => value ?? 0)))}`);
  return `${title}: ${peaks.join(", ")}. Arrow keys read it out.`;
}

function legend(series) {
  const line = (index) => svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, svg("path", { class: `series ${index ? "second" : ""}`, d: "M0,4H26" }));
  return el("div", { class: "legend" }, series.map(([name], index) => el("span", {}, line(index), name)));
}

/** Mark a point of a chart and say what is there; null takes the mark away. */
function point(index, { title, say, series, seconds, x, y, cursor, said, foot, top }) {
  if (index === null || index >= seconds.length) {
    read.delete(title);
    cursor.replaceChildren();
    said.textContent = "";
    return;
  }
  read.set(title, index);
  const at = x(seconds[index]);
  const dots = series.flatMap(([, values], number) => values[index] === null ? [] : [svg("circle", { class: `dot ${number ? "second" : ""}`, cx: at, cy: y(values[index]), r: 4 })]);
  cursor.replaceChildren(svg("line", { class: "cursor", x1: at, x2: at, y1: top, y2: foot }), ...dots);
  said.textContent = `At ${duration(seconds[index])}: ${series.map(([name, values]) => `${name} ${values[index] === null ? "none" : say(values[index])}`).join(", ")}`;
}

function reading(image, title, seconds, left, span, width, show) {
  const nearest = (fraction) => {
    const at = fraction * seconds.at(-1);
    return seconds.reduce((best, second, index) => (Math.abs(second - at) < Math.abs(seconds[best] - at) ? index : best), 0);
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

/** The same as a table, made when it is opened: a run may have thousands of points. */
function chartTable(title, say, series, seconds) {
  const details = folded(`table ${title}`, "As a table", "");
  details.addEventListener("toggle", () => {
    const lines = seconds.map((second, index) => [duration(second), ...series.map(([, values]) => (values[index] === null ? "" : say(values[index])))]);
    const heads = ["Time", ...series.map(([name]) => name)];
    if (details.open) details.replaceChildren(details.firstChild, table(title, heads, lines, { numbers: heads.slice(1), kind: "tall" }));
  });
  return details;
}
