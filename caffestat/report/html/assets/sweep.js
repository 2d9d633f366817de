// A sweep: its variants in order, the spread of one of them, the signal against the width, and two parameters at a time.

function startSweep() {
  const sweep = DATA.sweep;
  if (!sweep) return;
  startVariants(sweep);
  if (sweep.spreads.length) startSpread(sweep.spreads);
  if (sweep.widths.length) startWidths(sweep.widths);
  if (sweep.grids.length) startGrids(sweep.grids);
}

// Colour the cells of a column by their size.
function columnColour(items, get) {
  const scale = new Scale({ diverging: false }, items.map(get));
  return (item) => (get(item) === undefined ? null : scale.colour(numeric(get(item))));
}

function startVariants({ variants, parameters, quantities, failed }) {
  const place = byId("variants");
  const words = parameters.map((name) => ({ title: name, get: (v) => v.parameters[name] }));
  const numbers = quantities.map((name) => ({ title: name, number: true, get: (v) => v.quantities[name], colour: columnColour(variants, (v) => v.quantities[name]) }));
  const columns = [{ title: "place", number: true, get: (v) => v.place }, ...words, ...numbers, { title: "reason", words: true, get: (v) => v.reason }];
  place.append(make("h2", {}, "Variants, best first"), new Table("Variants", columns, variants).element);
  if (failed.length) place.append(make("details", {}, make("summary", {}, `${failed.length} trials that failed`), make("ul", {}, ...failed.map((text) => make("li", {}, text)))));
}

// A choice of what a section shows; `onpick` gets the index.
function choiceOf(section, title, names, onpick) {
  const select = make("select", { onchange: () => onpick(Number(select.value)) }, ...names.map((name, index) => make("option", { value: index }, name)));
  byId(section).append(make("p", { class: "choice" }, make("label", {}, `${title} `, select)));
  onpick(0);
}

function startSpread(spreads) {
  const columns = [
    { title: "layer", get: (s) => s.layer },
    { title: "of", get: (s) => s.of },
    { title: "blob", get: (s) => s.name },
    { title: "mean", number: true, get: (s) => s.mean },
    { title: "± over seeds", number: true, get: (s) => s.deviation },
    { title: "least", number: true, get: (s) => s.least },
    { title: "most", number: true, get: (s) => s.most },
    { title: "predicted", number: true, get: (s) => s.predicted },
    { title: "± predicted", number: true, get: (s) => s.predicted_deviation },
    { title: "not finite", number: true, get: (s) => s.lost || null },
  ];
  const table = new Table("Spread over the seeds", columns, []);
  byId("spread").append(make("h2", {}, "Spread over the seeds"), make("p", { class: "hint" }, "Blue: the mean over the seeds, in the area from the least to the most. Red: what theory predicts of the first pass, in the area of two deviations around it, where 19 of 20 seeds are expected."));
  choiceOf("spread", "Variant", spreads.map((spread) => spread.title), (index) => {
    table.items = spreads[index].numbers;
    table.draw();
    showOthers("spread", spreads[index].title);
  });
  byId("spread").append(make("div", { class: "figures" }), table.element);
}

function startWidths(widths) {
  const holder = make("div"), scale = new Scale({ diverging: true }, [0.1, 10]);
  byId("widths").append(make("h2", {}, "Signal against the width"), make("p", { class: "hint" }, "The coordinate check: mean |x| is proportional to width to the power of the slope; one line per layer, the first ones dark. A slope of 0 is a signal that does not depend on the width."));
  choiceOf("widths", "Variant", widths.map((width) => width.title), (index) => {
    const { steps, layers, moves } = widths[index];
    const slopes = steps.map((step, i) => ({ title: `slope, iteration ${step}`, number: true, get: (l) => l.slopes[i], colour: (l) => (l.slopes[i] === null ? null : scale.colour(10 ** numeric(l.slopes[i]))) }));
    const columns = [{ title: "layer", get: (l) => l.layer }, { title: "blob", get: (l) => l.name }, ...slopes, { title: "check", get: (l) => (l.moves ? "depends on the width" : "") }];
    const text = moves.length ? `The slope of these layers is not 0: ${moves.join(", ")}.` : "No layer's slope differs from 0 by more than 0.1.";
    holder.replaceChildren(make("p", { class: "moves" }, text), new Table("Slopes", columns, layers).element);
    showOthers("widths", widths[index].title);
  });
  byId("widths").append(make("div", { class: "figures" }), holder);
}

function startGrids(grids) {
  byId("grids").append(make("h2", {}, "Two parameters"), make("div", { class: "grids" }, ...grids.map(gridTable)));
}

function gridTable({ title, rows, columns, row_values, column_values, cells, others }) {
  const scale = new Scale({ diverging: false }, cells.flat());
  const head = make("tr", {}, make("th", { scope: "col" }, `${rows} \\ ${columns}`), ...column_values.map((value) => make("th", { scope: "col", class: "number" }, value)));
  const cell = (value) => {
    const back = scale.colour(numeric(value));
    return back ? make("td", { class: "number", style: `background: ${back}; color: ${inkOn(back)}` }, number(value)) : make("td");
  };
  const body = row_values.map((value, i) => make("tr", {}, make("th", { scope: "row" }, value), ...cells[i].map(cell)));
  const caption = make("caption", {}, `${title}: ${rows} by ${columns}`, others ? ", the best of the others" : "");
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}: ${rows} by ${columns}` }, make("table", { class: "grid" }, caption, make("thead", {}, head), make("tbody", {}, ...body)));
}
