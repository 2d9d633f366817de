// Bokeh's charts: embedded with the page, coloured as the page is, and linked with the drawing in both ways.

const CHARTS = { figures: [], hovered: null, shown: {} };

function startCharts() {
  const { docs, items, figures } = JSON.parse(byId("charts").textContent);
  if (!figures.length) return;
  figures.forEach(placeFigure);
  listen("theme", () => colourCharts(CHARTS.figures));
  listen("hover", (row) => showSpan("hover_span", row));
  listen("choose", (row) => showSpan("chosen_span", row));
  drawCharts(docs, [...items], figures);
}

// Draw the charts one after another, those on the screen first; between two of them the page answers.
async function drawCharts(docs, waiting, figures) {
  while (waiting.length) {
    await new Promise((resolve) => setTimeout(resolve));
    waiting.sort((a, b) => distance(a) - distance(b));
    const item = waiting.shift(), { docid, roots } = item;
    await Bokeh.embed.embed_items({ [docid]: docs[docid] }, [item]);
    const drawn = figures.filter(({ root }) => root in roots).map(linkChart);
    Object.keys(roots).forEach((root) => (viewOf(root).canvas_view.events_el.tabIndex = -1)); // no key does anything there
    CHARTS.figures.push(...drawn);
    colourCharts(drawn);
    drawn.forEach(showChosen);
    showSpan("chosen_span", NET.state.chosen);
  }
  document.body.dataset.charts = "ready";
}

// How far the first chart of a document is from the screen.
function distance({ roots }) {
  const { top, bottom } = byId(Object.values(roots)[0]).getBoundingClientRect();
  return Math.max(top - window.innerHeight, -bottom, 0);
}

function placeFigure({ element, root, title, section, heading, note }) {
  const place = byId(section);
  if (!place.querySelector("h2")) place.append(make("h2", {}, heading));
  if (!place.querySelector(".figures")) place.append(make("div", { class: "figures" }));
  const plot = make("div", { class: "plot", id: element, "data-root-id": root });
  const button = (kind) => make("button", { type: "button", "aria-label": `Save ${title} as ${kind.toUpperCase()}`, onclick: () => saveChart(root, title, kind) }, kind.toUpperCase());
  place.querySelector(".figures").append(make("figure", { role: "group", "aria-label": title }, make("figcaption", {}, make("span", {}, title), make("span", { class: "save" }, button("svg"), button("png"))), plot, note ? make("p", { class: "hint" }, note) : null));
}

// Let the charts of a section show other data; a chart without data of this name stays empty.
function showOthers(section, name) {
  CHARTS.shown[section] = name;
  CHARTS.figures.filter((figure) => figure.section === section).forEach(showChosen);
}

function showChosen({ section, sources, others }) {
  const name = CHARTS.shown[section];
  if (name === undefined || !Object.keys(others).length) return;
  sources.forEach((source, i) => (source.data = others[name]?.[i] ?? Object.fromEntries(Object.keys(source.data).map((column) => [column, []]))));
}

function model(id) {
  for (const one of Bokeh.documents) {
    const found = one.get_model_by_id(id);
    if (found) return found;
  }
}

// Which row is under the mouse: Bokeh tells the indices of the points that its hover tool found.
function linkChart({ root, sources, spans, linked, section, others }) {
  const found = sources.map(model);
  if (linked) found.forEach((source) => {
    source.inspected.change.connect(() => tellHovered(source));
    source.connect(source.inspect, () => tellHovered(source));
    source.selected.change.connect(() => tellChosen(source));
  });
  return { root: model(root), spans, section, others, sources: found };
}

// Each line has a hover tool of its own: a row is left when no line has a point under the mouse any more.
function tellHovered(source) {
  const index = source.inspected.indices[0];
  const row = index === undefined ? null : source.data.row[index];
  if (row === null && CHARTS.hovered !== source) return;
  CHARTS.hovered = row === null ? null : source;
  if (row !== NET.state.hovered) tell("hover", row);
}

function tellChosen(source) {
  const index = source.selected.indices[0];
  if (index === undefined) return;
  tell("choose", source.data.row[index]);
}

function showSpan(which, row) {
  CHARTS.figures.forEach(({ spans }) => {
    if (!spans[which]) return;
    const span = model(spans[which]);
    if (row === null) span.visible = false;
    else span.setv({ location: row, visible: true });
  });
}

function colourCharts(figures) {
  const { back, ink, soft, line } = palette(), grid = themeColour("grid");
  figures.forEach(({ root }) => {
    root.setv({ background_fill_color: back, border_fill_color: back, outline_line_color: line });
    [...root.below, ...root.left].forEach((axis) => axis.setv({ axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: soft, major_tick_line_color: soft, minor_tick_line_color: line }));
    [...root.center].forEach((part) => {
      if ("grid_line_color" in part) part.grid_line_color = grid;
      if ("label_text_color" in part) part.setv({ label_text_color: ink, background_fill_color: back, background_fill_alpha: 0.8, border_line_color: line });
    });
    [...root.right, ...root.above].forEach((part) => {
      if ("label_text_color" in part) part.setv({ label_text_color: ink, background_fill_color: back });
      if ("major_label_text_color" in part) part.setv({ major_label_text_color: ink, background_fill_color: back, title_text_color: ink });
    });
  });
}

// Paint the charts at once: what they are told they paint in the next frame, which printing does not wait for.
function paintCharts() {
  CHARTS.figures.forEach(({ root }) => viewOf(root.id).paint());
}

const viewOf = (root) => Object.values(Bokeh.index).find((v) => v.model.id === root) ?? Bokeh.index.get_by_id(root);

async function saveChart(root, title, kind) {
  const layer = viewOf(root).export(kind === "svg" ? "svg" : "png");
  const name = `${fileStem()}_${title.replace(/[^\w.-]+/g, "_")}.${kind}`;
  save(name, kind === "svg" ? "image/svg+xml" : "image/png", await layer.to_blob());
}
