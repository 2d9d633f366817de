// Small charts in SVG: histograms, and a nonlinearity over the histogram of its inputs. All numbers are in the data.

const FIG = { width: 420, height: 190, left: 8, right: 8, top: 8, bottom: 20 };

function axes(low, high) {
  const x = (value) => FIG.left + ((value - low) / (high - low || 1)) * (FIG.width - FIG.left - FIG.right);
  const base = FIG.height - FIG.bottom;
  const parts = [svg("line", { class: "axis", x1: FIG.left, x2: FIG.width - FIG.right, y1: base, y2: base })];
  [low, (low + high) / 2, high].forEach((value, i) => {
    const label = svg("text", { x: x(value), y: FIG.height - 6, "text-anchor": ["start", "middle", "end"][i] });
    label.textContent = shown(Number(value.toPrecision(3)));
    parts.push(label);
  });
  return { x, base, parts };
}

function bars(histogram, x, base, height) {
  const { low, high, counts } = histogram, width = (high - low) / counts.length;
  const most = Math.max(...counts, ...(histogram.expected ?? [0]));
  const y = (count) => base - (count / (most || 1)) * height;
  const rects = counts.map((count, i) => svg("rect", { class: "bars", x: x(low + i * width), y: y(count), width: Math.max(x(low + width) - x(low) - 0.5, 0.5), height: base - y(count) }));
  return { rects, y, width };
}

function figure(title, picture, note) {
  const buttons = make("span", { class: "save" }, make("button", { type: "button", onclick: () => saveFigure(title, picture), "aria-label": `Save ${title} as SVG` }, "SVG"));
  return make("figure", {}, make("figcaption", {}, make("span", {}, title), buttons), picture, note ? make("p", { class: "hint" }, note) : null);
}

function frame(title) {
  const picture = svg("svg", { viewBox: `0 0 ${FIG.width} ${FIG.height}`, role: "img", "aria-label": title });
  return picture;
}

// The page's styles are written into the copy, so that it looks the same elsewhere.
function saveFigure(title, picture) {
  const copy = picture.cloneNode(true), own = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "font"];
  const originals = picture.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, i) => own.forEach((name) => element.style.setProperty(name, getComputedStyle(originals[i]).getPropertyValue(name))));
  copy.setAttribute("xmlns", SVG);
  save(`${fileStem()}_${title.replace(/[^\w.-]+/g, "_")}.svg`, "image/svg+xml", new XMLSerializer().serializeToString(copy));
}

function histogramFigure(histogram, title) {
  const picture = frame(title), { x, base, parts } = axes(histogram.low, histogram.high);
  const { rects, y, width } = bars(histogram, x, base, base - FIG.top);
  picture.append(...rects, ...parts);
  if (histogram.expected) {
    const points = histogram.expected.map((count, i) => `${x(histogram.low + (i + 0.5) * width)},${y(count)}`);
    picture.append(svg("polyline", { class: "theory", points: points.join(" ") }));
  }
  return figure(title, picture, histogramNote(histogram));
}

function histogramNote(histogram) {
  const share = (count) => `${shown(Number(((100 * count) / histogram.sampled).toPrecision(3)))} %`;
  const parts = [`${shown(histogram.sampled)} of ${shown(histogram.total)} values`, `from ${shown(histogram.low)} to ${shown(histogram.high)}`];
  if (histogram.zeros) parts.push(`${share(histogram.zeros)} are 0`);
  if (histogram.not_finite) parts.push(`${shown(histogram.not_finite)} are not finite`);
  if (histogram.expected) parts.push("line: the filler's density");
  return parts.join(" · ");
}

// f (solid), f′ (dashed) and the histogram of what the layer reads.
function curveFigure(row) {
  const layer = ROWS[row], { x: xs, f, slope } = layer.curve, inputs = inputHistogram(row);
  const picture = frame(`${layer.name}: f, f′ and its inputs`), { x, base, parts } = axes(xs[0], xs[xs.length - 1]);
  if (inputs) picture.append(...bars({ ...inputs, expected: null }, x, base, (base - FIG.top) * 0.8).rects);
  const all = [...f, ...slope, 0].map(numeric).filter(Number.isFinite), low = Math.min(...all), high = Math.max(...all);
  const y = (value) => base - 4 - ((value - low) / (high - low || 1)) * (base - FIG.top - 8);
  const line = (values) => values.map(numeric).flatMap((value, i) => (Number.isFinite(value) ? [`${x(xs[i])},${y(value)}`] : [])).join(" ");
  picture.append(svg("line", { class: "axis", x1: FIG.left, x2: FIG.width - FIG.right, y1: y(0), y2: y(0), "stroke-dasharray": "2 3" }), svg("polyline", { class: "curve", points: line(f) }), svg("polyline", { class: "slope", points: line(slope) }), ...parts);
  [low, high].forEach((value) => {
    const label = svg("text", { x: FIG.width - FIG.right, y: y(value) + (value === high ? 10 : -3), "text-anchor": "end" });
    label.textContent = shown(Number(value.toPrecision(3)));
    picture.append(label);
  });
  const saturation = layer.curve.flat === null || layer.curve.flat === undefined ? "" : `mean slope at its inputs ${shown(layer.curve.mean_slope)}; ${shown(Number((100 * layer.curve.flat).toPrecision(3)))} % lie where the slope is below a twentieth of the largest`;
  const element = figure(`${layer.name} (${layer.type})`, picture, saturation);
  element.addEventListener("mouseenter", () => tell("hover", row));
  element.addEventListener("mouseleave", () => tell("hover", null));
  return element;
}

function inputHistogram(row) {
  const id = ROWS[row].reads[0], maker = MAKER.get(id);
  return ROWS[maker]?.tops.find((top) => top.id === id)?.histogram ?? REPORT.inputs.find((value) => value.id === id)?.histogram ?? null;
}

const FIRST_CURVES = 12;

function startActivations() {
  const rows = ROWS.map((_, row) => row).filter((row) => ROWS[row].curve);
  if (!rows.length) return;
  const grid = make("div", { class: "figures" });
  const show = (some) => grid.append(...some.map(curveFigure));
  show(rows.slice(0, FIRST_CURVES));
  const more = make("button", { type: "button", class: "more", onclick: () => (show(rows.slice(FIRST_CURVES)), grid.children[FIRST_CURVES].querySelector("button").focus(), more.remove()) }, `Show all ${rows.length}`);
  byId("activations").append(make("h2", {}, "Activations"), make("p", { class: "hint" }, "Solid: f. Dashed: its slope f′. Bars: the inputs that the layer got, sampled in the run."), grid);
  if (rows.length > FIRST_CURVES) byId("activations").append(more);
}
