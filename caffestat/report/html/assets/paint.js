// Paints a scene with few primitives, so that the same code draws on the canvas and writes SVG.

class CanvasPen {
  constructor(context) {
    this.context = context;
  }
  rect(x, y, w, h, fill, stroke, width) {
    const c = this.context;
    if (fill) (c.fillStyle = fill), c.fillRect(x, y, w, h);
    if (stroke) (c.strokeStyle = stroke), (c.lineWidth = width), c.strokeRect(x, y, w, h);
  }
  line(points, stroke, width) {
    const c = this.context;
    c.strokeStyle = stroke, c.lineWidth = width;
    c.beginPath();
    c.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) c.arcTo(...points[i], ...points[i + 1], 10);
    c.lineTo(...points[points.length - 1]);
    c.stroke();
  }
  arrow(x, y, fill) {
    const c = this.context;
    c.fillStyle = fill;
    c.beginPath();
    c.moveTo(x, y), c.lineTo(x - 4, y - 7), c.lineTo(x + 4, y - 7);
    c.fill();
  }
  text(text, x, y, size, fill, bold) {
    const c = this.context;
    c.fillStyle = fill;
    c.font = `${bold ? 600 : 400} ${size}px system-ui, "DejaVu Sans", sans-serif`;
    c.fillText(text, x, y);
  }
}

const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd");

class SvgPen {
  constructor() {
    this.parts = [];
  }
  rect(x, y, w, h, fill, stroke, width) {
    this.parts.push(`<rect x="${x}" y="${y}" width="${w}" height="${h}" fill="${fill || "none"}" stroke="${stroke || "none"}" stroke-width="${width || 0}"/>`);
  }
  line(points, stroke, width) {
    this.parts.push(`<polyline points="${points.map((p) => p.join(",")).join(" ")}" fill="none" stroke="${stroke}" stroke-width="${width}" stroke-linejoin="round"/>`);
  }
  arrow(x, y, fill) {
    this.parts.push(`<path d="M${x} ${y}l-4 -7h8z" fill="${fill}"/>`);
  }
  text(text, x, y, size, fill, bold) {
    this.parts.push(`<text x="${x}" y="${y}" font-size="${size}" font-weight="${bold ? 600 : 400}" style="fill:${fill};font-size:${size}px">${escaped(text)}</text>`);
  }
  document(scene, back) {
    const view = [scene.left - 10, scene.top - 10, scene.width + 20, scene.height + 20];
    const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${view.join(" ")}" width="${view[2]}" height="${view[3]}" font-family="system-ui, DejaVu Sans, sans-serif">`;
    return `${head}<rect x="${view[0]}" y="${view[1]}" width="${view[2]}" height="${view[3]}" fill="${back}"/>${this.parts.join("")}</svg>`;
  }
}

// The middle of a long text gives way to dots; widths are estimated, which is exact enough for a box.
function fitted(text, width, size) {
  const most = Math.max(Math.floor(width / (size * 0.6)), 4);
  if (text.length <= most) return text;
  const head = Math.ceil((most - 1) / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (most - 1 - head))}`;
}

const themeColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const palette = () => Object.fromEntries(["back", "panel", "ink", "soft", "line", "edge", "box", "mark", "accent"].map((name) => [name, themeColour(name)]));

// state: {scale, colours, chosen, hovered, hits}; view: [left, top, right, bottom] in the scene; detail: 0 boxes only,
// 1 names, 2 everything
function paintScene(pen, scene, state, view, detail) {
  const seen = (x0, y0, x1, y1) => x1 >= view[0] && y1 >= view[1] && x0 <= view[2] && y0 <= view[3];
  const marked = new Set([state.chosen, state.hovered].filter((row) => row !== null).map((row) => scene.placeOf.get(row)));
  scene.frames.filter((f) => seen(f.x, f.y, f.x + f.w, f.y + f.h)).forEach((frame) => paintFrame(pen, frame, state, detail));
  scene.edges.forEach((edge) => {
    if (seen(...edge.bounds)) paintEdge(pen, edge, state, detail, marked);
  });
  scene.boxes.forEach((box, index) => {
    if (seen(box.x, box.y, box.x + box.w, box.y + box.h)) paintBox(pen, box, state, detail, marked.has(index));
  });
}

function paintFrame(pen, frame, state, detail) {
  pen.rect(frame.x, frame.y, frame.w, frame.h, state.colours.panel, state.colours.line, 1);
  if (detail) pen.text(`− ${fitted(LAYOUT.blocks[frame.block].name, frame.w - 40, 12)}`, frame.x + 8, frame.y + 17, 12, state.colours.soft, true);
}

function paintEdge(pen, edge, state, detail, marked) {
  const near = marked.size && (marked.has(edge.from) || marked.has(edge.to));
  const colour = near ? state.colours.mark : state.colours.edge;
  pen.line(edge.points, colour, near ? 2.2 : 1.2);
  if (detail && edge.to !== null) pen.arrow(...edge.points[edge.points.length - 1], colour);
}

function paintBox(pen, box, state, detail, isMarked) {
  const { colours } = state;
  if (box.block !== undefined) paintClosed(pen, box, state, detail);
  else {
    const { rows, name } = LAYOUT.boxes[box.box];
    if (rows.length) rows.forEach((row, i) => paintRow(pen, box, row, i, state, detail));
    else paintInput(pen, box, name, state, detail);
  }
  const hit = state.hits && boxRows(box).some((row) => state.hits.has(row));
  const edge = isMarked ? colours.mark : hit ? colours.accent : colours.edge;
  pen.rect(box.x, box.y, box.w, box.h, null, edge, isMarked || hit ? 3 : 1);
}

function paintInput(pen, box, name, state, detail) {
  pen.rect(box.x, box.y, box.w, box.h, state.colours.box);
  if (detail) pen.text(fitted(name, box.w - 16, 13.5), box.x + 8, box.y + 17, 12, state.colours.ink, true);
  if (detail > 1) pen.text("input", box.x + 8, box.y + 32, 11, state.colours.ink);
}

function paintRow(pen, box, row, index, state, detail) {
  const fill = state.scale?.of(row) ?? state.colours.box, ink = state.scale?.of(row) ? inkOn(fill) : state.colours.ink;
  const y = index ? box.y + BOX_HEAD + STRIP * (index - 1) : box.y, h = index ? STRIP : BOX_HEAD;
  pen.rect(box.x, y, box.w, h, fill, index ? state.colours.edge : null, 0.6);
  if (!detail) return;
  const layer = ROWS[row], name = nameIn(box, layer.name);
  if (index) return detail > 1 ? pen.text(fitted(`${name} · ${layer.type}`, box.w - 16, 10.5), box.x + 8, y + 13, 10.5, ink) : undefined;
  pen.text(fitted(name, box.w - 16, 13.5), box.x + 8, y + 16, 12, ink, true);
  if (detail > 1) pen.text(fitted([layer.type, ...layer.tops.slice(0, 1).map((top) => shapeText(top.shape))].join(" · "), box.w - 16, 10.5), box.x + 8, y + 32, 10.5, ink);
}

const BLOCK_NAMES = new Map((LAYOUT?.blocks ?? []).flatMap((block) => block.boxes.map((box) => [box, block.name])));

// The name of a layer without the beginning that the frame of its block shows.
function nameIn(box, name) {
  const block = BLOCK_NAMES.get(box.box);
  const rest = block && name.startsWith(block) ? name.slice(block.length).replace(/^[/_.:-]/, "") : "";
  return rest || name;
}

// A closed block shows each of its layers as a stripe, so that its colours are seen.
function paintClosed(pen, box, state, detail) {
  const rows = boxRows(box), block = LAYOUT.blocks[box.block];
  pen.rect(box.x, box.y, box.w, box.h, state.colours.panel);
  rows.forEach((row, i) => pen.rect(box.x + (i * box.w) / rows.length, box.y + box.h - 14, box.w / rows.length, 14, state.scale?.of(row) ?? state.colours.box));
  if (detail) pen.text(fitted(`+ ${block.name} (${rows.length} layers)`, box.w - 12, 13.5), box.x + 8, box.y + 19, 12, state.colours.ink, true);
}

const boxRows = (box) => (box.block === undefined ? LAYOUT.boxes[box.box].rows : LAYOUT.blocks[box.block].boxes.flatMap((b) => LAYOUT.boxes[b].rows));
