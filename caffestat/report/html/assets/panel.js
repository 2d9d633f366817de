// The chosen layer: its numbers, where they come from, histograms, findings and its lines of the file.

// A number with its exact value beside it, for readers and for tests.
function number(value) {
  return make("span", { "data-value": typeof value === "number" ? JSON.stringify(value) : String(value), title: String(value) }, shown(value));
}

const fact = (title, ...content) => make("div", {}, make("dt", {}, title), make("dd", {}, ...content));
const numberFact = (title, value) => (value === null || value === undefined ? null : fact(title, number(value)));

function showLayer(row) {
  const panel = byId("layer"), layer = ROWS[row];
  panel.replaceChildren(make("h2", { id: "layer-name" }, layer.name), make("div", { class: "card" }, ...layerParts(row)));
  byId("announce").textContent = announcement(row);
}

function announcement(row) {
  const layer = ROWS[row], mean = layer.tops[0]?.forward.mean_abs;
  const reads = sourceRows(row).map((source) => ROWS[source].name).join(", ");
  return [`${layer.name}, ${layer.type}`, mean === null || mean === undefined ? "" : `mean |x| ${shown(mean)}`, reads && `reads ${reads}`].filter(Boolean).join("; ");
}

function layerParts(row) {
  const layer = ROWS[row];
  return [
    make("dl", { class: "facts" }, ...layerFacts(row)),
    ...layer.params.map((param) => paramPart(param)),
    histogramsOf(layer),
    ...finding(row).map((issue) => issueCard(issue)),
    linesOf(layer),
  ];
}

const linkTo = (row) => make("a", { href: "#layer", onclick: () => tell("choose", row) }, ROWS[row].name);

/* Return a param as layer/index with a link to its layer, found by its id: layers may have the same name. */
function paramLink(id) {
  const row = ROWS.findIndex((layer) => layer.params.some((param) => param.id === id));
  return [linkTo(row), `/${ROWS[row].params.find((param) => param.id === id).index}`];
}

function layerFacts(row) {
  const layer = ROWS[row];
  const links = (rows) => rows.flatMap((r, i) => [i ? ", " : "", linkTo(r)]);
  const facts = [fact("type", layer.type), layer.line ? fact("line", number(layer.line)) : null];
  layer.tops.forEach((top) => {
    facts.push(fact(`top ${top.name}`, shapeText(top.shape)), numberFact("mean |x|", top.forward.mean_abs), numberFact("predicted mean |x|", top.forward.predicted), ...statsFacts("x", top.forward.stats));
  });
  layer.bottom_diffs.forEach((diff) => facts.push(numberFact(`mean |dx| of ${diff.name}`, diff.mean_abs), numberFact(`predicted mean |dx| of ${diff.name}`, diff.predicted), ...statsFacts(`dx of ${diff.name}`, diff.stats)));
  facts.push(numberFact("multiply-adds", layer.macs || null), layer.followed_by ? fact("then", layer.followed_by) : null);
  if (layer.gain) Object.entries({ forward: "gain", product: "gain so far", backward: "gain of the gradient", product_backward: "gain of the gradient so far" }).forEach(([key, title]) => facts.push(numberFact(title, layer.gain[key])));
  if (sourceRows(row).length) facts.push(fact("reads", ...links(sourceRows(row))));
  if (nextRows(row).length) facts.push(fact("read by", ...links(nextRows(row))));
  return facts.filter(Boolean);
}

/* Return the statistics of a value's elements as facts: none where they were not asked for. */
const statsFacts = (value, stats) => Object.entries(stats ?? {}).map(([name, found]) => (found === null ? null : name === "float16" ? fact(`float16 of ${value}`, found) : numberFact(`${name.replace("_", " ")} of ${value}`, found)));

const NORMS = { fan_in: "FAN_IN", fan_out: "FAN_OUT", average: "AVERAGE" };

function paramPart(param) {
  const norm = (param.filler.variance_norm ?? "FAN_IN").toLowerCase(), { type, origin, ...settings } = param.filler;
  const words = [type, ...Object.entries(settings).map(([name, value]) => `${name} ${shown(value)}`)].join(" · ");
  const origins = { file: "", default: " (Caffe's default)", option: " (--assume-filler)" };
  const facts = [
    fact("shape", shapeText(param.shape)), numberFact("count", param.count), fact("filler", words + origins[origin]),
    param.owner === null ? null : fact("shares the values of", ...paramLink(param.owner_id)),
    numberFact("mean |w|", param.forward.mean_abs), numberFact("predicted mean |w|", param.forward.predicted), ...statsFacts("w", param.forward.stats),
    numberFact("mean |dw|", param.backward.mean_abs), numberFact("predicted mean |dw|", param.backward.predicted), ...statsFacts("dw", param.backward.stats),
    ...(param.shape.length > 1 ? fanFacts(param, norm) : []),
    param.lr_mult === 1 ? null : numberFact("lr_mult", param.lr_mult), param.decay_mult === 1 ? null : numberFact("decay_mult", param.decay_mult),
  ];
  return make("section", {}, make("h3", {}, `${param.role} ${param.name}`), make("dl", { class: "facts" }, ...facts.filter(Boolean)));
}

function fanFacts(param, norm) {
  const xavier = param.xavier[norm], msra = param.msra[norm];
  const fans = [numberFact("fan-in", param.fan_in), numberFact("fan-out", param.fan_out)];
  if (param.caffe_fan_in !== param.fan_in) fans.push(numberFact("fan-in as Caffe counts", param.caffe_fan_in));
  if (param.caffe_fan_out !== param.fan_out) fans.push(numberFact("fan-out as Caffe counts", param.caffe_fan_out));
  if (xavier) fans.push(fact(`xavier (${NORMS[norm]})`, "±", number(xavier.scale), ", std ", number(xavier.std)), fact(`msra (${NORMS[norm]})`, "std ", number(msra.std)));
  return fans;
}

function histogramsOf(layer) {
  const worth = ({ histogram }) => histogram && histogram.low < histogram.high;
  const figures = [
    ...layer.params.filter(worth).map((param) => histogramFigure(param.histogram, `Values of ${param.role} ${param.name}`)),
    ...layer.tops.filter(worth).map((top) => histogramFigure(top.histogram, `Values of top ${top.name}`)),
  ];
  return figures.length ? make("div", { class: "figures" }, ...figures) : null;
}

function linesOf(layer) {
  const source = DATA.sources[0];
  if (!source || !layer.line || layer.inserted) return null;
  const end = source.ends[layer.line] ?? layer.line;
  return make("section", {}, make("h3", {}, `${source.name}:${layer.line}`), sourceLines(source, layer.line, end));
}

function startPanel() {
  if (!ROWS.length) return;
  byId("layer").append(make("p", { class: "hint" }, "Click a layer in the drawing, a point of a chart or a line of the table to see everything about it."));
  listen("choose", showLayer);
}
