// The drawing's geometry: which rectangles and lines there are for the blocks that are open. Knows no canvas.

const LAYOUT = DATA.layout;
const BOX_HEAD = 40, STRIP = 18; // as in layout.py

// A monotone map of one axis: the closed box of an open block is stretched to the block's size, all else is moved.
class Stretch {
  constructor(wanted) {
    // wanted: [from, to, size]
    const cuts = [...new Set(wanted.flatMap(([from, to]) => [from, to]))].sort((a, b) => a - b);
    this.from = [], this.to = [];
    let shift = 0;
    cuts.forEach((cut, i) => {
      if (i) {
        const middle = (cut + cuts[i - 1]) / 2, length = cut - cuts[i - 1];
        const factor = wanted.reduce((most, [a, b, size]) => (a < middle && middle < b ? Math.max(most, size / (b - a)) : most), 1);
        shift += length * (factor - 1);
      }
      this.from.push(cut), this.to.push(cut + shift);
    });
  }

  at(x) {
    const { from, to } = this;
    if (!from.length || x <= from[0]) return x;
    const last = from.length - 1;
    if (x >= from[last]) return x + to[last] - from[last];
    let low = 0, high = last;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (from[middle] <= x) low = middle;
      else high = middle;
    }
    return to[low] + ((x - from[low]) * (to[high] - to[low])) / (from[high] - from[low]);
  }
}

// Return {boxes, frames, edges, width, height}. boxes: {x, y, w, h, box} or {…, block} for a closed block; frames: open
// blocks; edges: {points, from, to}, its ends indices into `boxes`, null at the border of a block.
function buildScene(open) {
  const { items, places, edges } = LAYOUT.outer;
  const isOpen = (item) => items[item][0] === "block" && open.has(items[item][1]);
  const opened = items.map((_, item) => item).filter(isOpen);
  const across = new Stretch(opened.map((i) => [places[i][0], places[i][0] + places[i][2], LAYOUT.blocks[items[i][1]].size[0]]));
  const down = new Stretch(opened.map((i) => [places[i][1], places[i][1] + places[i][3], LAYOUT.blocks[items[i][1]].size[1]]));
  const scene = { boxes: [], frames: [], edges: [], placeOf: new Map() };
  const centres = [], sizes = [], indices = [];
  items.forEach(([kind, index], item) => {
    const [x, y, w, h] = places[item];
    const centre = [across.at(x + w / 2), down.at(y + h / 2)];
    const size = isOpen(item) ? LAYOUT.blocks[index].size : [w, h];
    const corner = [centre[0] - size[0] / 2, centre[1] - size[1] / 2];
    centres.push(centre), sizes.push(size);
    if (isOpen(item)) {
      indices.push(null);
      addOpen(scene, index, corner);
    } else {
      indices.push(scene.boxes.length);
      addBox(scene, { x: corner[0], y: corner[1], w, h, [kind]: index });
    }
  });
  edges.forEach(({ ends, points }) => {
    const moved = points.map(([x, y]) => [across.at(x), down.at(y)]);
    moved[0] = port(centres, sizes, places, isOpen, ends[0], points[0], 1);
    moved[moved.length - 1] = port(centres, sizes, places, isOpen, ends[1], points[points.length - 1], -1);
    scene.edges.push({ points: moved, from: indices[ends[0]], to: indices[ends[1]] });
  });
  return measured(scene);
}

// Where an edge meets an item: at the same place of a closed one, in the middle of the side of an open block.
function port(centres, sizes, places, isOpen, item, point, side) {
  const [x, y, w, h] = places[item];
  const offset = isOpen(item) ? 0 : point[0] - (x + w / 2);
  return [centres[item][0] + offset, centres[item][1] + (side * sizes[item][1]) / 2];
}

function addBox(scene, box) {
  const index = scene.boxes.length;
  scene.boxes.push(box);
  if (box.box !== undefined) LAYOUT.boxes[box.box].rows.forEach((row) => scene.placeOf.set(row, index));
  else LAYOUT.blocks[box.block].boxes.forEach((b) => LAYOUT.boxes[b].rows.forEach((row) => scene.placeOf.set(row, index)));
}

function addOpen(scene, index, [left, top]) {
  const block = LAYOUT.blocks[index], [w, h] = block.size;
  scene.frames.push({ x: left, y: top, w, h, block: index });
  const first = scene.boxes.length;
  block.boxes.forEach((box, i) => {
    const [x, y, width, height] = block.places[i];
    addBox(scene, { x: left + x, y: top + y, w: width, h: height, box });
  });
  block.edges.forEach(({ ends, points }) => {
    const moved = points.map(([x, y]) => [left + x, top + y]);
    if (ends[0] === null) moved[0] = [left + w / 2, top];
    if (ends[1] === null) moved[moved.length - 1] = [left + w / 2, top + h];
    scene.edges.push({ points: moved, from: ends[0] === null ? null : first + ends[0], to: ends[1] === null ? null : first + ends[1] });
  });
}

// The extent of the scene and of each edge.
function measured(scene) {
  scene.edges.forEach((edge) => {
    const xs = edge.points.map((p) => p[0]), ys = edge.points.map((p) => p[1]);
    edge.bounds = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  });
  const boxes = [...scene.boxes, ...scene.frames].map((b) => [b.x, b.y, b.x + b.w, b.y + b.h]);
  const all = [...boxes, ...scene.edges.map((edge) => edge.bounds)];
  const least = (side) => all.reduce((m, bounds) => Math.min(m, bounds[side]), Infinity);
  const most = (side) => all.reduce((m, bounds) => Math.max(m, bounds[side]), -Infinity);
  scene.left = least(0), scene.top = least(1);
  scene.width = most(2) - scene.left, scene.height = most(3) - scene.top;
  return scene;
}
