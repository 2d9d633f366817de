// The drawing on the page: pan, zoom, choose, search, keyboard.

const NET = {
  open: new Set(), // indices of the open blocks
  scene: null,
  zoom: 1, x: 0, y: 0, // the screen's (0, 0) in the scene, and pixels per unit
  state: { scale: null, colours: null, chosen: null, hovered: null, hits: null },
  frames: 0, // drawn so far
};
const ALL_OPEN = 250; // boxes up to which every block is open at first

function startNet() {
  if (!LAYOUT) return byId("net").hidden = true;
  if (LAYOUT.boxes.length <= ALL_OPEN) LAYOUT.blocks.forEach((_, index) => NET.open.add(index));
  NET.canvas = byId("canvas");
  NET.context = NET.canvas.getContext("2d");
  NET.state.colours = palette();
  NET.scene = buildScene(NET.open);
  new ResizeObserver(fitCanvas).observe(NET.canvas);
  fitCanvas();
  readableView();
  startModes();
  startPointer();
  startKeys();
  startSearch();
  startViewButtons();
  listen("theme", () => ((NET.state.colours = palette()), redraw()));
  listen("choose", (row) => ((NET.state.chosen = row), reveal(row), redraw()));
  listen("hover", (row) => ((NET.state.hovered = row), redraw()));
  window.addEventListener("beforeprint", () => (byId("printed").innerHTML = netSvg()));
}

function fitCanvas() {
  const ratio = window.devicePixelRatio || 1, { clientWidth, clientHeight } = NET.canvas;
  NET.canvas.width = clientWidth * ratio, NET.canvas.height = clientHeight * ratio;
  draw();
}

// Drawing is put off to the next frame, however often it is asked for.
function redraw() {
  if (!NET.waiting) NET.waiting = requestAnimationFrame(() => ((NET.waiting = 0), draw()));
}

function draw() {
  const { context, canvas, zoom, x, y } = NET, ratio = window.devicePixelRatio || 1;
  const start = performance.now();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(ratio * zoom, 0, 0, ratio * zoom, -x * zoom * ratio, -y * zoom * ratio);
  const view = [x, y, x + canvas.clientWidth / zoom, y + canvas.clientHeight / zoom];
  paintScene(new CanvasPen(context), NET.scene, NET.state, view, zoom < 0.3 ? 0 : zoom < 0.55 ? 1 : 2);
  NET.frames += 1;
  NET.drawTime = performance.now() - start;
}

function netSvg() {
  const pen = new SvgPen(), { scene, state } = NET;
  paintScene(pen, scene, state, [scene.left, scene.top, scene.left + scene.width, scene.top + scene.height], 2);
  return pen.document(scene, state.colours.back);
}

function setView(zoom, x, y) {
  Object.assign(NET, { zoom: Math.min(Math.max(zoom, 0.005), 4), x, y });
  redraw();
}

function fitView() {
  const { canvas, scene } = NET;
  const zoom = Math.min(canvas.clientWidth / (scene.width + 40), canvas.clientHeight / (scene.height + 40), 1.5);
  setView(zoom, scene.left - (canvas.clientWidth / zoom - scene.width) / 2, scene.top - (canvas.clientHeight / zoom - scene.height) / 2);
}

// The whole net where its names can be read then, else its beginning at a size at which they can.
function readableView() {
  const { canvas, scene } = NET;
  fitView();
  if (NET.zoom >= 0.6) return;
  const zoom = Math.max(Math.min(canvas.clientWidth / (scene.width + 40), 1), 0.6);
  const first = scene.boxes[0];
  const x = canvas.clientWidth / zoom >= scene.width ? scene.left - (canvas.clientWidth / zoom - scene.width) / 2 : first.x + first.w / 2 - canvas.clientWidth / zoom / 2;
  setView(zoom, x, scene.top - 16);
}

function zoomAt(factor, px, py) {
  const zoom = Math.min(Math.max(NET.zoom * factor, 0.005), 4);
  setView(zoom, NET.x + px / NET.zoom - px / zoom, NET.y + py / NET.zoom - py / zoom);
}

const zoomCentre = (factor) => zoomAt(factor, NET.canvas.clientWidth / 2, NET.canvas.clientHeight / 2);

// Bring a row into view; a closed block that holds it stays closed.
function reveal(row) {
  const box = NET.scene.boxes[NET.scene.placeOf.get(row)];
  if (!box) return;
  const { canvas, zoom } = NET, width = canvas.clientWidth / zoom, height = canvas.clientHeight / zoom;
  const inside = box.x >= NET.x && box.x + box.w <= NET.x + width && box.y >= NET.y && box.y + box.h <= NET.y + height;
  if (!inside) setView(zoom, box.x + box.w / 2 - width / 2, box.y + box.h / 2 - height / 2);
}

// The row under a point of the canvas, the block whose box or head is there, or null.
function hit(px, py) {
  const x = NET.x + px / NET.zoom, y = NET.y + py / NET.zoom;
  const holds = (b) => x >= b.x && x <= b.x + b.w && y >= b.y && y <= b.y + b.h;
  const box = NET.scene.boxes.find(holds);
  if (box && box.block !== undefined) return { block: box.block };
  if (box) {
    const { rows, input } = LAYOUT.boxes[box.box];
    const strip = y < box.y + BOX_HEAD ? 0 : 1 + Math.floor((y - box.y - BOX_HEAD) / STRIP);
    return rows.length ? { row: rows[Math.min(strip, rows.length - 1)] } : { input };
  }
  const frame = NET.scene.frames.find((f) => holds({ ...f, h: 26 }));
  return frame ? { block: frame.block } : null;
}

function toggleBlock(block) {
  NET.open.has(block) ? NET.open.delete(block) : NET.open.add(block);
  rebuild(() => blockBox(block));
  byId("announce").textContent = `${LAYOUT.blocks[block].name} ${NET.open.has(block) ? "opened" : "closed"}`;
}

function blockBox(block) {
  return NET.scene.frames.find((f) => f.block === block) ?? NET.scene.boxes.find((b) => b.block === block);
}

// Build the scene anew, with what `anchor` returns (a box, or nothing) at the same place of the screen.
function rebuild(anchor) {
  const before = anchor();
  NET.scene = buildScene(NET.open);
  const after = anchor();
  if (before && after) setView(NET.zoom, NET.x + after.x + after.w / 2 - before.x - before.w / 2, NET.y + after.y - before.y);
  redraw();
}

function setAllBlocks(open) {
  NET.open = new Set(open ? LAYOUT.blocks.map((_, index) => index) : []);
  rebuild(() => null);
  NET.state.chosen === null ? readableView() : reveal(NET.state.chosen);
}

function startPointer() {
  const { canvas } = NET;
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return hover(event);
    const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y;
    if (!drag.moved && Math.hypot(dx, dy) < 4) return;
    setView(NET.zoom, NET.x - dx / NET.zoom, NET.y - dy / NET.zoom);
    Object.assign(drag, { x: event.offsetX, y: event.offsetY, moved: true });
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) click(hit(event.offsetX, event.offsetY));
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", () => (tell("hover", null), (byId("tip").hidden = true)));
  document.addEventListener("keydown", (event) => event.key === "Escape" && (byId("tip").hidden = true));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const step = event.deltaMode ? event.deltaY * 20 : event.deltaY;
    if (event.ctrlKey || event.metaKey || !event.shiftKey) zoomAt(Math.exp(-step * 0.0015), event.offsetX, event.offsetY);
    else setView(NET.zoom, NET.x + step / NET.zoom, NET.y);
  }, { passive: false });
}

function click(found) {
  if (found?.row !== undefined) tell("choose", found.row);
  else if (found?.block !== undefined) toggleBlock(found.block);
}

function hover(event) {
  const found = hit(event.offsetX, event.offsetY), tip = byId("tip");
  const row = found?.row ?? null;
  if (row !== NET.state.hovered) tell("hover", row);
  tip.hidden = row === null;
  if (row === null) return;
  tip.replaceChildren(...tipParts(row));
  const { clientWidth, clientHeight } = NET.canvas;
  tip.style.left = `${Math.max(Math.min(event.offsetX + 14, clientWidth - tip.offsetWidth - 6), 4)}px`;
  tip.style.top = `${Math.max(Math.min(event.offsetY + 14, clientHeight - tip.offsetHeight - 6), 4)}px`;
}

function tipParts(row) {
  const layer = ROWS[row], value = NET.state.scale && DATA.scales[NET.state.scale.mode.key][row];
  const shapes = layer.tops.map((top) => shapeText(top.shape)).join(", ");
  const coloured = value === null || value === undefined ? "no value" : shown(value);
  return [make("b", {}, layer.name), `${layer.type} · ${shapes}`, ...(NET.state.scale ? [make("br"), `${NET.state.scale.mode.title}: ${coloured}`] : [])];
}

// Arrow keys follow the edges between boxes; left and right go to the neighbour in the net's order.
function startKeys() {
  const moves = { ArrowDown: () => step(1, true), ArrowUp: () => step(-1, true), ArrowRight: () => step(1), ArrowLeft: () => step(-1) };
  const pans = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };
  const others = { "+": () => zoomCentre(1.3), "=": () => zoomCentre(1.3), "-": () => zoomCentre(1 / 1.3), 0: fitView, Home: () => choose(firstShown(0, 1)), End: () => choose(firstShown(ROWS.length - 1, -1)), Enter: toggleChosen, " ": toggleChosen };
  NET.canvas.addEventListener("keydown", (event) => {
    const pan = event.shiftKey && pans[event.key], act = !event.shiftKey && moves[event.key];
    const other = others[event.key];
    if (!pan && !act && !other) return;
    event.preventDefault();
    if (pan) setView(NET.zoom, NET.x + (pan[0] * 80) / NET.zoom, NET.y + (pan[1] * 80) / NET.zoom);
    else (act || other)();
  });
}

function choose(row) {
  tell("choose", row);
}

function step(direction, along = false) {
  const { chosen } = NET.state;
  if (chosen === null) return choose(firstShown(0, 1));
  const linked = along ? (direction > 0 ? nextRows(chosen) : sourceRows(chosen)) : [];
  const next = linked.length ? linked[0] : firstShown(chosen + direction, direction);
  if (next !== null) choose(next);
}

function firstShown(row, direction) {
  while (row >= 0 && row < ROWS.length && !NET.scene.placeOf.has(row)) row += direction;
  return row >= 0 && row < ROWS.length ? row : null;
}

// The rows that read what a row makes, and those that make what it reads; inserted Splits are looked through.
function nextRows(row) {
  return ROWS[row].tops.flatMap((top) => READERS.get(top.id) ?? []).flatMap((reader) => (ROWS[reader].inserted ? nextRows(reader) : [reader]));
}

function sourceRows(row) {
  return ROWS[row].reads.map((id) => MAKER.get(id)).filter((maker) => maker !== undefined).flatMap((maker) => (ROWS[maker].inserted ? sourceRows(maker) : [maker]));
}

function toggleChosen() {
  const box = NET.scene.boxes[NET.scene.placeOf.get(NET.state.chosen)];
  if (!box) return;
  const block = box.block ?? LAYOUT.blocks.findIndex((b) => b.boxes.includes(box.box));
  if (block >= 0) toggleBlock(block);
}

function startSearch() {
  const field = byId("search");
  let found = [], at = -1;
  field.addEventListener("input", () => {
    found = searchRows(field.value), at = -1;
    NET.state.hits = field.value.trim() ? new Set(found) : null;
    byId("hits").textContent = NET.state.hits ? `${found.length} found` : "";
    if (found.length) reveal(found[0]);
    redraw();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !found.length) return;
    at = (at + (event.shiftKey ? found.length - 1 : 1)) % found.length;
    choose(found[at]);
    byId("hits").textContent = `${at + 1} of ${found.length}`;
  });
}

function searchRows(text) {
  const wanted = text.trim().toLowerCase();
  return wanted ? ROWS.map((_, row) => row).filter((row) => NET.scene.placeOf.has(row) && `${ROWS[row].name} ${ROWS[row].type}`.toLowerCase().includes(wanted)) : [];
}

function startViewButtons() {
  const press = (id, action) => byId(id).addEventListener("click", action);
  press("zoom-in", () => zoomCentre(1.3));
  press("zoom-out", () => zoomCentre(1 / 1.3));
  press("zoom-fit", fitView);
  press("zoom-width", readableView);
  press("blocks-close", () => setAllBlocks(false));
  press("blocks-open", () => setAllBlocks(true));
  press("net-svg", () => save(`${fileStem()}_net.svg`, "image/svg+xml", netSvg()));
  press("net-png", savePng);
  ["blocks-close", "blocks-open"].forEach((id) => (byId(id).hidden = !LAYOUT.blocks.length));
}

function savePng() {
  const { scene, state } = NET, scale = Math.min(2, 16000 / Math.max(scene.width, scene.height));
  const canvas = make("canvas", { width: Math.ceil((scene.width + 20) * scale), height: Math.ceil((scene.height + 20) * scale) });
  const context = canvas.getContext("2d");
  context.fillStyle = state.colours.back;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, scale, (10 - scene.left) * scale, (10 - scene.top) * scale);
  paintScene(new CanvasPen(context), scene, state, [-Infinity, -Infinity, Infinity, Infinity], 2);
  canvas.toBlob((blob) => save(`${fileStem()}_net.png`, "image/png", blob));
}

function startModes() {
  const select = byId("mode"), modes = DATA.modes.filter((mode) => DATA.scales[mode.key]);
  select.append(...modes.map((mode) => make("option", { value: mode.key }, mode.title)));
  select.addEventListener("change", () => setMode(select.value));
  if (modes.length) setMode(modes[0].key);
  else select.closest("label").hidden = true;
}

function setMode(key) {
  const mode = DATA.modes.find((m) => m.key === key);
  byId("mode").value = key;
  NET.state.scale = new Scale(mode, DATA.scales[key]);
  drawLegend(NET.state.scale);
  tell("colours", NET.state.scale);
  redraw();
}
