// Starts the parts of the page, the drawing first.

function startTheme() {
  const button = byId("theme"), root = document.documentElement;
  const set = (dark) => {
    root.classList.toggle("dark", dark);
    button.setAttribute("aria-pressed", String(dark));
    tell("theme");
  };
  button.addEventListener("click", () => set(!root.classList.contains("dark")));
  if (window.matchMedia("(prefers-color-scheme: dark)").matches) set(true);
  // paper is light
  let wasDark = false;
  window.addEventListener("beforeprint", () => {
    wasDark = root.classList.contains("dark");
    if (wasDark) set(false), paintCharts();
  });
  window.addEventListener("afterprint", () => wasDark && set(true));
}

function startHeader() {
  byId("title").textContent = DATA.title;
  byId("about").textContent = DATA.about.join(" · ");
  byId("notes").append(...DATA.notes.map((note) => make("li", {}, note)));
  byId("save-json").addEventListener("click", () => save(`${fileStem()}.json`, "application/json", JSON.stringify(DATA.history || DATA.comparison || !DATA.report ? DATA : DATA.report, null, 2)));
  byId("save-csv").hidden = !DATA.csv;
  byId("save-csv").addEventListener("click", () => save(`${fileStem()}.csv`, "text/csv", DATA.csv));
}

function startSections() {
  const named = [...document.querySelectorAll(".content > section[id]")].filter((section) => section.querySelector("h2") && section.id !== "layer");
  named.forEach((section) => (section.tabIndex = -1));
  byId("sections").append(...named.map((section) => make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
}

// In a notebook's frame, a link to a part of the page leads to that part of the notebook.
function startLinks() {
  if (location.protocol !== "about:") return;
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    event.preventDefault();
    goTo(link.hash.slice(1));
  });
}

function start() {
  startLinks();
  startHeader();
  startTheme();
  startNet();
  startPanel();
  startFindings();
  // the drawing is on the screen before the rest is made
  requestAnimationFrame(() => setTimeout(() => {
    startTraining();
    startSweep();
    startCharts();
    startActivations();
    startLayers();
    startComparison();
    startSource();
    startSections();
    document.body.dataset.ready = "true";
  }));
}

// For scripts in the browser's console, and for tests.
window.caffestat = {
  data: DATA,
  state: () => ({ ...NET.state, scale: NET.state.scale?.mode.key ?? null, hits: NET.state.hits ? [...NET.state.hits] : null, open: [...NET.open], zoom: NET.zoom, x: NET.x, y: NET.y, frames: NET.frames, drawTime: NET.drawTime, boxes: NET.scene.boxes.length }),
  colour: (row) => NET.state.scale.of(row),
  place: (row) => {
    const box = NET.scene.boxes[NET.scene.placeOf.get(row)], strip = box.block === undefined ? LAYOUT.boxes[box.box].rows.indexOf(row) : 0;
    const y = strip ? box.y + BOX_HEAD + STRIP * (strip - 0.5) : box.y + Math.min(box.h, BOX_HEAD) / 2;
    return [(box.x + box.w / 2 - NET.x) * NET.zoom, (y - NET.y) * NET.zoom];
  },
  svg: () => netSvg(),
};

start();
