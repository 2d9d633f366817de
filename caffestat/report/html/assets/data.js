// The data of the page, and small helpers that every part uses. Text enters the page as text only, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const REPORT = DATA.report;
const ROWS = REPORT ? REPORT.layers : [];

const byId = (id) => document.getElementById(id);

// Make an element: attributes, or handlers when the name begins with "on"; children are nodes or texts.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// JSON has no infinities: they are strings there.
function numeric(value) {
  if (value === "inf") return Infinity;
  if (value === "-inf") return -Infinity;
  return value === null || value === undefined || value === "nan" ? NaN : value;
}

// Four digits for a measured number, all digits for a count, the word itself for what is not finite.
function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(3).replace("e+", "e");
}

const shapeText = (shape) => (shape === null ? "?" : shape.length ? shape.join("×") : "scalar");

// A file that the reader saves; nothing is sent anywhere.
function save(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const fileStem = () => DATA.title.replace(/^.*[\\/]/, "").replace(/\.\w+$/, "").replace(/[^\w.-]+/g, "_") || "report";

// Go to a part of the page that can have the focus.
function goTo(id) {
  byId(id).focus({ preventScroll: true });
  byId(id).scrollIntoView();
}

// What the parts tell each other: "choose" a row, "hover" a row (null for none), "theme", "colours".
const LISTENERS = {};
const listen = (event, handler) => (LISTENERS[event] ??= []).push(handler);
const tell = (event, value) => (LISTENERS[event] ?? []).forEach((handler) => handler(value));

const MAKER = new Map(); // value id -> row that makes it
const READERS = new Map(); // value id -> rows that read it
ROWS.forEach((row, index) => {
  row.tops.forEach((top) => MAKER.set(top.id, index));
  row.reads.forEach((id) => READERS.set(id, [...(READERS.get(id) ?? []), index]));
});

const finding = (row) => DATA.issues.filter((issue) => issue.row === row);
