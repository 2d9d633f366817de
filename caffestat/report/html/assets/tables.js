// Tables that can be sorted and filtered.

const FIRST_ROWS = 300; // lines that are shown at first; a table of thousands takes seconds to lay out

// columns: {title, get(item), text?(item)}; items: anything; onpick(item)
class Table {
  constructor(title, columns, items, { row = () => null, note = "" } = {}) {
    Object.assign(this, { columns, items, row, order: null, filter: "", shownRows: FIRST_ROWS });
    this.body = make("tbody");
    this.count = make("span", { class: "hint", role: "status" });
    const field = make("input", { type: "search", "aria-label": `Filter ${title}`, placeholder: "filter", oninput: () => ((this.filter = field.value.toLowerCase()), this.draw()) });
    this.heads = columns.map((column, index) => this.head(column, index));
    this.more = make("button", { type: "button", class: "more", onclick: () => this.showAll() }, "Show all lines");
    const table = make("table", {}, make("caption", { class: "unseen" }, title), make("thead", {}, make("tr", {}, ...this.heads)), this.body);
    this.scroll = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${title}` }, table);
    this.element = make("div", {}, make("div", { class: "filter" }, field, this.count, note), this.scroll, this.more);
    this.draw();
  }

  head(column, index) {
    const button = make("button", { type: "button", onclick: () => this.sort(index) }, column.title);
    return make("th", { scope: "col", class: column.number ? "number" : "" }, button);
  }

  sort(index) {
    const down = this.order?.index === index && !this.order.down;
    this.order = { index, down };
    this.heads.forEach((head, i) => (i === index ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    this.draw();
  }

  listed() {
    const found = this.items.filter((item) => !this.filter || this.columns.some((column) => String(cellText(column, item)).toLowerCase().includes(this.filter)));
    if (!this.order) return found;
    const { index, down } = this.order, column = this.columns[index];
    return [...found].sort((a, b) => compareCells(column.get(a), column.get(b), down));
  }

  draw() {
    const found = this.listed(), some = found.slice(0, this.shownRows);
    this.lines = new Map();
    this.body.replaceChildren(...some.map((item) => this.line(item)));
    this.count.textContent = found.length === this.items.length ? `${found.length} lines` : `${found.length} of ${this.items.length} lines`;
    this.more.hidden = some.length === found.length;
    this.mark(this.chosen);
  }

  showAll() {
    this.shownRows = Infinity;
    this.draw();
    this.scroll.focus(); // the button, which had the focus, is gone
  }

  line(item) {
    const row = this.row(item);
    const element = make("tr", { class: row === null ? "" : "choosable" }, ...this.columns.map((column) => this.cell(column, item, row)));
    if (row === null) return element;
    element.addEventListener("click", () => tell("choose", row));
    element.addEventListener("mouseenter", () => tell("hover", row));
    element.addEventListener("mouseleave", () => tell("hover", null));
    this.lines.set(row, [...(this.lines.get(row) ?? []), element]);
    return element;
  }

  cell(column, item, row) {
    const value = column.get(item);
    const back = column.colour?.(item);
    if (back) return make("td", { class: "number", style: `background: ${back}; color: ${inkOn(back)}` }, number(value));
    if (column.number) return make("td", { class: "number" }, value === null || value === undefined ? "" : number(value));
    const text = cellText(column, item);
    if (column.words) return make("td", { class: "words" }, text);
    return make("td", {}, column.link && row !== null ? make("a", { class: "name", href: "#layer", title: text }, text) : make("span", { class: "name", title: text }, text));
  }

  mark(row) {
    this.chosen = row;
    this.body.querySelectorAll(".chosen").forEach((line) => line.classList.remove("chosen"));
    this.lines.get(row)?.forEach((line) => line.classList.add("chosen"));
  }
}

function cellText(column, item) {
  const value = column.get(item);
  return column.number ? shown(value) : value ?? "";
}

// Numbers before words, what is absent last in both directions.
function compareCells(a, b, down) {
  const [x, y] = [a, b].map((v) => (v === "inf" || v === "-inf" || v === "nan" ? numeric(v) : v));
  const absent = (v) => v === null || v === undefined || v === "" || Number.isNaN(v);
  if (absent(x) || absent(y)) return absent(x) - absent(y);
  const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
  return down ? -order : order;
}

const STATS = ["mean", "max", "min", "std", "zeros", "inf", "nan", "float16"];

/* Return columns of the statistics of a value's elements, where there are any. */
const statsColumns = (suffix, value) => STATS.map((name) => ({ title: name + suffix, number: name !== "float16", get: (item) => value(ROWS[item.row])?.stats?.[name] }));

function layerColumns() {
  const layer = (item) => ROWS[item.row];
  const weight = (item) => layer(item).params.find((param) => param.role === "weight") ?? null;
  const norm = (param) => (param.filler.variance_norm ?? "FAN_IN").toLowerCase();
  const columns = [
    { title: "layer", link: true, get: (i) => layer(i).name },
    { title: "type", get: (i) => layer(i).type },
    { title: "top", get: (i) => layer(i).tops.map((top) => shapeText(top.shape)).join(", ") },
    { title: "weight", get: (i) => (weight(i) ? shapeText(weight(i).shape) : "") },
    { title: "fan-in", number: true, get: (i) => weight(i)?.fan_in },
    { title: "fan-out", number: true, get: (i) => weight(i)?.fan_out },
    { title: "filler", get: (i) => weight(i)?.filler.type ?? "" },
    { title: "xavier ±a", number: true, get: (i) => weight(i)?.xavier[norm(weight(i))]?.scale },
    { title: "msra std", number: true, get: (i) => weight(i)?.msra[norm(weight(i))]?.std },
    { title: "mean |x|", number: true, get: (i) => layer(i).tops[0]?.forward.mean_abs },
    { title: "predicted", number: true, get: (i) => layer(i).tops[0]?.forward.predicted },
    ...statsColumns("", (row) => row.tops[0]?.forward),
    { title: "mean |dx|", number: true, get: (i) => layer(i).bottom_diffs[0]?.mean_abs },
    { title: "predicted |dx|", number: true, get: (i) => layer(i).bottom_diffs[0]?.predicted },
    ...statsColumns(" of dx", (row) => row.bottom_diffs[0]),
    { title: "gain", number: true, get: (i) => layer(i).gain?.forward },
    { title: "gain so far", number: true, get: (i) => layer(i).gain?.product },
    { title: "params", number: true, get: (i) => DATA.scales.params?.[i.row] },
    { title: "multiply-adds", number: true, get: (i) => layer(i).macs || null },
    { title: "line", number: true, get: (i) => layer(i).line || null },
  ];
  const items = layerItems(), has = (value) => value !== null && value !== undefined && value !== "";
  return columns.filter((column) => items.some((item) => has(column.get(item))));
}

const layerItems = () => ROWS.map((_, row) => ({ row })).filter(({ row }) => !ROWS[row].inserted);

function startLayers() {
  if (!ROWS.length) return;
  const table = new Table("Layers", layerColumns(), layerItems(), { row: (item) => item.row });
  byId("layers").append(make("h2", {}, "Layers"), table.element);
  listen("choose", (row) => table.mark(row));
}
