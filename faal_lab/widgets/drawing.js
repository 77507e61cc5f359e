// What panels are drawn with: colours, ticks, numbers and names as text. Knows nothing of panels. Comes before panels.js.

// Viridis at nine places; light stands for much, also to colour-blind eyes.
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
  [170, 220, 50], [253, 231, 37]];

const floats = (view) => new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

function make(tag, name, parent, text = "") {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  parent.appendChild(node);
  return node;
}

function shade(share) {
  const place = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1), low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((from, i) => Math.round(from + (VIRIDIS[low + 1][i] - from) * (place - low)));
}

// The colours of `shade` from left to right, as a style's background.
const RAMP = `linear-gradient(to right, ${VIRIDIS.map((colour) => `rgb(${colour})`).join(", ")})`;

function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const steps = [1, 2, 5, 10].map((k) => k * power), found = [];
  let at = steps.findIndex((k) => k >= rough), step = at < 0 ? 10 * power : steps[at];
  if (Math.floor(high / step) - Math.ceil(low / step) < 1) step = at > 0 ? steps[at - 1] : step / 2; // one tick alone shows no scale
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) found.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return found;
}

const short = (v) => (Number.isNaN(v) ? "none" : Math.abs(v) >= 1e4 ? v.toExponential(1) : String(+v.toPrecision(3)));

// As much of `text` as `width` pixels hold.
function fitted(pen, text, width) {
  let kept = text.length, shown = text;
  while (kept > 1 && pen.measureText(shown).width > width) shown = `${text.slice(0, --kept)}\u2026`;
  return shown;
}

// The widest of `names`, in pixels.
function widest(names, font) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = font;
  return Math.max(0, ...names.map((name) => pen.measureText(name).width));
}

// The area between two lines, in pixels; open where one of them is.
function ribbon(x, low, high) {
  const path = new Path2D();
  for (let i = 1; i < x.length; i++) {
    if (Number.isNaN(low[i - 1] + low[i])) continue;
    path.moveTo(x[i - 1], low[i - 1]);
    path.lineTo(x[i], low[i]);
    path.lineTo(x[i], high[i]);
    path.lineTo(x[i - 1], high[i - 1]);
  }
  return path;
}
