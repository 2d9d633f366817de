// Colour scales. Ratios: ColorBrewer's RdBu, which colour-blind readers can tell apart, blue for small, red for large.
// Counts: viridis.

const DIVERGING = ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"];
const RISING = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const NOT_FINITE = "#000000";

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function mixed(ramp, share) {
  const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
  const [low, high] = [channels(ramp[Math.floor(at)]), channels(ramp[Math.ceil(at)])];
  return "#" + low.map((c, i) => Math.round(c + (high[i] - c) * (at % 1)).toString(16).padStart(2, "0")).join("");
}

// Black or white, whichever can be read on a colour. (WCAG 2, relative luminance)
function inkOn(hex) {
  const [r, g, b] = channels(hex).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

class Scale {
  // values: one per row; a ratio's scale is symmetric around 1, a count's goes from the least to the greatest
  constructor(mode, values) {
    this.mode = mode;
    this.values = values.map(numeric);
    const logs = this.values.filter((v) => v > 0 && Number.isFinite(v)).map(Math.log10);
    const low = logs.reduce((a, b) => Math.min(a, b), Infinity), high = logs.reduce((a, b) => Math.max(a, b), -Infinity);
    const reach = Math.max(Math.abs(low), Math.abs(high), 1);
    [this.low, this.high] = !logs.length ? [-1, 1] : mode.diverging ? [-reach, reach] : [low, Math.max(high, low + 0.3)];
    this.ramp = mode.diverging ? DIVERGING : RISING;
  }

  // The colour of a value; null where there is none.
  colour(value) {
    if (value === 0) return this.ramp[0];
    if (Number.isNaN(value)) return null;
    if (!Number.isFinite(value) || value < 0) return NOT_FINITE;
    return mixed(this.ramp, (Math.log10(value) - this.low) / (this.high - this.low));
  }

  of(row) {
    const raw = this.values[row];
    return this.isBroken(row) ? NOT_FINITE : this.colour(raw);
  }

  // A value that was measured and is not a number; one that is absent has no colour.
  isBroken(row) {
    return DATA.scales[this.mode.key]?.[row] === "nan";
  }

  ticks() {
    return [0, 0.25, 0.5, 0.75, 1].map((share) => 10 ** (this.low + share * (this.high - this.low)));
  }
}

function drawLegend(scale) {
  const legend = byId("legend");
  const stops = scale.ramp.map((colour, i) => `${colour} ${(100 * i) / (scale.ramp.length - 1)}%`).join(", ");
  const ramp = make("div", { class: "ramp" });
  ramp.style.background = `linear-gradient(to right, ${stops})`;
  const ticks = scale.ticks().map((tick) => make("span", {}, shown(Number(tick.toPrecision(2)))));
  const text = `${scale.mode.title}: ${scale.mode.unit}. `;
  legend.replaceChildren(ramp, make("div", { class: "ticks" }, ...ticks), make("div", {}, text, make("span", { class: "none" }), "no value"));
}
