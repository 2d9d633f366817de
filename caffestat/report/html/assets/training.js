// A training run: the events, and the slider that moves the drawing's colours through the iterations.

function startTraining() {
  const history = DATA.history;
  if (!history) return;
  byId("training").append(make("h2", {}, "Training"));
  startSlider(history);
  if (history.marks.length) byId("training").append(eventList(history.marks));
}

const FIRST_EVENTS = 100;

function eventList(marks) {
  const items = marks.slice(0, FIRST_EVENTS).map((mark) => make("li", {}, `iteration ${mark.iteration}: ${mark.kind}: ${mark.text}`));
  const rest = marks.length - items.length;
  return make("details", {}, make("summary", {}, `${marks.length} events`), make("ul", {}, ...items), rest > 0 ? `and ${rest} more` : "");
}

function startSlider({ iterations, scales }) {
  const modes = DATA.modes.filter((mode) => scales[mode.key]);
  if (!LAYOUT || iterations.length < 2 || !modes.length) return;
  const slider = byId("slider"), at = byId("slider-at");
  byId("slider-bar").hidden = false;
  slider.max = iterations.length - 1;
  const whole = Object.fromEntries(modes.map((mode) => [mode.key, new Scale(mode, scales[mode.key].flat())]));
  const show = () => {
    const mode = NET.state.scale?.mode.key;
    at.textContent = iterations[slider.value];
    slider.setAttribute("aria-valuetext", `iteration ${iterations[slider.value]}`);
    CHARTS.figures.forEach(({ spans }) => spans.slider_span && model(spans.slider_span).setv({ location: iterations[slider.value], visible: true }));
    if (!scales[mode]) return;
    // one scale for all iterations, so that colours can be compared
    NET.state.scale = whole[mode];
    DATA.scales[mode] = scales[mode][slider.value];
    whole[mode].values = DATA.scales[mode].map(numeric);
    drawLegend(whole[mode]);
    redraw();
  };
  byId("mode").replaceChildren(...DATA.modes.filter((mode) => scales[mode.key] || DATA.scales[mode.key]).map((mode) => make("option", { value: mode.key }, mode.title)));
  modes.forEach((mode) => (DATA.scales[mode.key] = scales[mode.key][0]));
  byId("mode").closest("label").hidden = false;
  setMode(modes[0].key);
  slider.addEventListener("input", show);
  byId("mode").addEventListener("change", show);
  show();
}
