// Live panels on canvas: lines, heatmaps and bars. Drawn at most once a frame, from the newest data alone, so that nothing
// queues up. It knows what it is sent and nothing of runs. Python sends `spec` (what panels there are) and messages
// {kind: "data"}; the page answers {kind: "hello"} when it needs everything, and {kind: "drawn", number} after drawing.

const FONT = "11px system-ui, sans-serif";
const NAME = 42; // pixels at the right for an axis' name
const MARGIN = { right: 10, top: 8, bottom: 24 };
const FAINT = 0.5; // opacity of the second kind of line in the text's colour
const HEIGHT = 190, LINE = 12; // of a panel, and of a line of text

class Panel {
  constructor(view, spec, parent) {
    this.view = view;
    this.spec = spec;
    this.box = make("div", spec.wide ? "faal-panel faal-wide" : "faal-panel", parent);
    const head = make("div", "faal-panel-head", this.box);
    make("span", "faal-panel-title", head, spec.title);
    if (spec.kind === "heatmap") this.ramp(head);
    this.numbers = make("span", "faal-panel-numbers", head);
    if (!spec.note && spec.lines.length > 1 && spec.lines.every((line) => line.class === null)) this.keys(head);
    this.canvas = make("canvas", "faal-canvas", this.box);
    if (spec.note) { make("div", "faal-panel-note", this.box, spec.note); this.canvas.style.display = "none"; }
    this.canvas.setAttribute("role", "img");
    this.canvas.addEventListener("mousemove", (e) => this.point(e));
    this.canvas.addEventListener("mouseleave", () => { this.pointer = null; this.drag = null; view.tell(null); view.redraw(); });
    this.canvas.addEventListener("mousedown", (e) => { this.drag = spec.x === "batch" ? e.offsetX : null; });
    this.canvas.addEventListener("mouseup", (e) => this.release(e));
    this.canvas.addEventListener("dblclick", () => view.zoom(null));
    this.data = null;
    this.inView = true;
    // What nobody sees is not drawn; and were its canvas not hidden, the browser would copy it at every frame all the same.
    this.watcher = new IntersectionObserver((found) => {
      this.inView = found[found.length - 1].isIntersecting;
      this.canvas.style.visibility = this.inView ? "" : "hidden";
      if (this.inView) view.redraw();
    }, { rootMargin: "60px" });
    this.watcher.observe(this.canvas);
  }

  // What the colours of a heatmap stand for.
  ramp(head) {
    const scale = make("span", "faal-scale", head);
    this.ends = [make("span", "", scale), make("span", "faal-ramp", scale), make("span", "", scale)]; // two numbers, colours between
    this.ends[1].style.background = RAMP;
  }

  // The legend of lines that stand for no class.
  keys(head) {
    const list = make("span", "faal-keys", head);
    for (const line of this.spec.lines) {
      const key = make("span", "faal-key", list), swatch = make("span", "faal-swatch", key);
      swatch.style.borderTop = `2px ${line.dash.length ? (line.dash[0] < 4 ? "dotted" : "dashed") : "solid"} currentColor`;
      swatch.style.opacity = line.faint ? FAINT : 1;
      make("span", "", key, line.name);
    }
  }

  // Asked for when the page is laid out anew; at every drawing it would make the browser do that.
  measure() { this.width = this.canvas.clientWidth; }

  take(entry, buffers) {
    this.data = { x: floats(buffers[entry.x]), y: floats(buffers[entry.y]), rows: entry.rows };
    for (const extra of ["faint", "low", "high"]) if (extra in entry) this.data[extra] = floats(buffers[entry[extra]]);
  }

  // y of line `row` at point `i`; lines lie one after the other
  at(row, i, from = this.data.y) { return from[row * this.data.x.length + i]; }

  size() {
    const ratio = window.devicePixelRatio || 1, width = this.width || 300;
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(HEIGHT * ratio)) this.canvas.height = Math.round(HEIGHT * ratio);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, HEIGHT);
    this.frame = { left: this.view.left, right: width - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
    return pen;
  }

  draw() {
    const pen = this.size(), { spec, data, frame } = this;
    if (spec.note) return;
    if (!data || !data.x.length) return this.tell(""); // else the numbers of the run before stay
    this.scale();
    pen.font = FONT;
    if (spec.kind !== "heatmap") this.grid(pen);
    pen.save();
    pen.beginPath();
    pen.rect(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top);
    pen.clip();
    ({ lines: this.lines, heatmap: this.heatmap, bars: this.bars })[spec.kind].call(this, pen);
    if (spec.x !== "class") this.marks(pen);
    pen.restore();
    this.axis(pen);
    const row = this.summary();
    if (spec.kind === "lines" && row >= 0 && spec.lines[row].class !== null) this.name(pen, row);
  }

  // The name of the class that the header tells, at the end of its line.
  name(pen, row) {
    const { data, spec, view, frame } = this, last = data.x.length - 1, y = this.at(row, last);
    if (y !== y || data.x[last] > this.span[1]) return;
    pen.textAlign = "right";
    pen.textBaseline = "bottom";
    pen.lineWidth = 3;
    pen.strokeStyle = view.paper;
    pen.fillStyle = view.ink;
    const place = [Math.max(frame.left + 20, Math.min(frame.right, this.px(data.x[last]))), Math.max(frame.top + LINE, this.py(y) - 2)];
    pen.strokeText(spec.lines[row].name, ...place);
    pen.fillText(spec.lines[row].name, ...place);
  }

  scale() {
    const { spec, data, frame, view } = this;
    let [x0, x1] = [data.x[0], data.x[data.x.length - 1]];
    if (spec.x === "batch" && view.span) [x0, x1] = view.span;
    if (spec.kind === "bars") [x0, x1] = [-0.5, data.x.length - 0.5];
    if (x1 <= x0) x1 = x0 + 1;
    if (spec.x === "epoch") [x0, x1] = [0, (x1 * (frame.right - frame.left)) / (frame.right - frame.left - NAME - 8)]; // room for its name
    let [y0, y1] = spec.range || [Infinity, -Infinity];
    if (!spec.range) {
      for (let i = 0; i < data.y.length; i++) if (data.y[i] === data.y[i]) { y0 = Math.min(y0, data.y[i]); y1 = Math.max(y1, data.y[i]); }
      if (!(y1 >= y0)) [y0, y1] = [0, 1];
      const air = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 1;
      [y0, y1] = [spec.zero ? Math.min(0, y0) : y0 - air, y1 + air];
    }
    this.span = [x0, x1];
    this.reach = [y0, y1];
    this.px = (x) => frame.left + ((x - x0) / (x1 - x0)) * (frame.right - frame.left);
    this.py = (y) => frame.bottom - ((y - y0) / (y1 - y0)) * (frame.bottom - frame.top);
  }

  grid(pen) {
    pen.strokeStyle = "rgba(128,128,128,0.22)";
    pen.lineWidth = 1;
    pen.beginPath();
    for (const y of ticks(...this.reach, 4)) { const p = Math.round(this.py(y)) + 0.5; pen.moveTo(this.frame.left, p); pen.lineTo(this.frame.right, p); }
    pen.stroke();
    if (this.spec.uniform !== undefined) this.level(pen, this.spec.uniform);
  }

  level(pen, y) {
    pen.setLineDash([2, 3]);
    pen.strokeStyle = "rgba(128,128,128,0.8)";
    pen.beginPath();
    pen.moveTo(this.frame.left, this.py(y));
    pen.lineTo(this.frame.right, this.py(y));
    pen.stroke();
    pen.setLineDash([]);
  }

  axis(pen) {
    const { frame, spec, data, view } = this;
    pen.fillStyle = view.ink;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    if (spec.kind === "heatmap") {
      const skip = Math.ceil((data.rows * 11) / (frame.bottom - frame.top)), high = (frame.bottom - frame.top) / data.rows;
      for (let r = 0; r < data.rows; r += skip) pen.fillText(fitted(pen, this.view.spec.classes[r], frame.left - 6), frame.left - 4, frame.top + (r + 0.5) * high);
    } else for (const y of (this.levels = ticks(...this.reach, 4))) pen.fillText(short(y), frame.left - 5, this.py(y));
    pen.textAlign = "center";
    pen.textBaseline = "top";
    if (spec.kind === "bars") {
      const wide = (frame.right - frame.left) / data.x.length, skip = Math.ceil(Math.min(96, view.named + 6) / wide);
      for (let i = 0; i < data.x.length; i += skip) pen.fillText(fitted(pen, this.view.spec.classes[i], wide * skip - 4), this.px(i), frame.bottom + 5);
    } else {
      this.places = [];
      for (let count = 5; this.places.length < 2 && count < 99; count *= 2) // one tick alone shows no scale
        this.places = ticks(...this.span, count).filter((x) => this.px(x) < frame.right - NAME && (spec.x !== "epoch" || Number.isInteger(x)));
      for (const x of this.places) pen.fillText(short(x), this.px(x), frame.bottom + 5);
      pen.textAlign = "right";
      pen.fillText(spec.x, frame.right, frame.bottom + 5);
    }
  }

  // A line wider than a pixel is filled as a shape, which takes ten times as long as a few of one pixel side by side.
  stroke(pen, row, from, alpha, width) {
    const { data, spec } = this, line = spec.lines[row], path = new Path2D();
    let open = false;
    for (let i = 0; i < data.x.length; i++) {
      const y = this.at(row, i, from);
      if (y !== y) { open = false; continue; }
      const [px, py] = [this.px(data.x[i]), this.py(y)];
      if (open) path.lineTo(px, py); else { path.moveTo(px, py); if (data.x.length === 1) path.arc(px, py, 2, 0, 7); }
      open = true;
    }
    const ratio = window.devicePixelRatio || 1, times = alpha < 1 ? 1 : Math.max(1, Math.round(width * ratio));
    pen.globalAlpha = line.faint ? alpha * FAINT : alpha;
    pen.strokeStyle = line.colour === "ink" ? this.view.ink : line.colour;
    pen.lineWidth = 1 / ratio;
    pen.setLineDash(line.dash || []);
    for (let k = 0; k < times; k++) {
      const aside = ((k - (times - 1) / 2) * 0.7) / ratio;
      pen.translate(aside, aside);
      pen.stroke(path);
      pen.translate(-aside, -aside);
    }
    pen.globalAlpha = 1;
    pen.setLineDash([]);
  }

  lines(pen) {
    const { data, view, spec } = this;
    if (data.low && view.followed >= 0) { // where the followed line may truly lie
      pen.globalAlpha = 0.22;
      pen.fillStyle = view.spec.colours[view.followed];
      pen.fill(ribbon(data.x.map(this.px), data.low.map(this.py), data.high.map(this.py)));
      pen.globalAlpha = 1;
    }
    for (let r = 0; r < data.rows; r++) {
      const other = view.followed >= 0 && spec.lines[r].class !== null && spec.lines[r].class !== view.followed;
      if (data.faint && !other) this.stroke(pen, r, data.faint, 0.28, 0.8);
    }
    for (let r = 0; r < data.rows; r++) {
      const mine = spec.lines[r].class;
      const other = view.followed >= 0 && mine !== null && mine !== view.followed;
      this.stroke(pen, r, data.y, other ? 0.18 : 1, mine !== null && mine === view.followed ? 2.8 : 1.6);
    }
  }

  heatmap(pen) {
    const { data, spec, frame, view } = this, columns = data.x.length;
    const picture = new ImageData(columns, data.rows), values = data.y.filter((y) => y === y);
    const low = spec.range ? spec.range[0] : values.reduce((a, y) => Math.min(a, y), 0);
    const top = spec.range ? Math.min(100, spec.range[1]) : values.reduce((a, y) => Math.max(a, y), low);
    [this.ends[0].textContent, this.ends[2].textContent] = [short(low), short(top)];
    for (let r = 0; r < data.rows; r++) for (let i = 0; i < columns; i++) {
      const y = this.at(r, i), [red, green, blue] = y === y ? shade((y - low) / (top - low || 1)) : [0, 0, 0];
      picture.data.set([red, green, blue, y === y ? (view.followed >= 0 && r !== view.followed ? 110 : 255) : 0], 4 * (r * columns + i));
    }
    const aside = new OffscreenCanvas(columns, data.rows);
    aside.getContext("2d").putImageData(picture, 0, 0);
    pen.imageSmoothingEnabled = false;
    const from = this.px(data.x[0]), to = this.px(data.x[columns - 1]);
    pen.drawImage(aside, from, frame.top, Math.max(1, to - from), frame.bottom - frame.top);
  }

  bars(pen) {
    const { data, view } = this, wide = Math.max(1, this.px(1) - this.px(0)) * 0.7;
    for (let i = 0; i < data.x.length; i++) {
      const y = data.y[i];
      if (y !== y) continue;
      pen.globalAlpha = view.followed >= 0 && view.followed !== i ? 0.25 : 1;
      pen.fillStyle = view.spec.colours[i];
      pen.fillRect(this.px(i) - wide / 2, this.py(y), wide, this.py(0) - this.py(y));
      if (data.low) {
        pen.strokeStyle = view.ink;
        pen.lineWidth = 1;
        pen.beginPath();
        pen.moveTo(this.px(i), this.py(data.low[i]));
        pen.lineTo(this.px(i), this.py(data.high[i]));
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
  }

  marks(pen) {
    pen.lineWidth = 1;
    pen.beginPath();
    for (const mark of this.view.marks) {
      const p = Math.round(this.px(this.spec.x === "epoch" ? mark.x / this.view.spec.batches : mark.x)) + 0.5;
      pen.moveTo(p, this.frame.top);
      pen.lineTo(p, this.frame.bottom);
    }
    if (this.spec.kind === "heatmap") { pen.strokeStyle = "white"; pen.stroke(); } // seen on dark colours, the dashes on light ones
    pen.setLineDash([4, 3]);
    pen.strokeStyle = this.spec.kind === "heatmap" ? "black" : this.view.ink;
    pen.stroke();
    pen.setLineDash([]);
    if (this.spec.first) this.labels(pen);
    if (this.pointer && this.drag !== null && this.drag !== undefined) {
      pen.fillStyle = "rgba(128,128,128,0.25)";
      pen.fillRect(this.drag, this.frame.top, this.pointer.x - this.drag, this.frame.bottom - this.frame.top);
    }
  }

  // What was turned, the latest first: each in the first row that is free there. Where four are full, a line has no label.
  labels(pen) {
    const { frame, view } = this, from = [Infinity, Infinity, Infinity, Infinity];
    pen.textAlign = "left";
    pen.textBaseline = "top";
    pen.fillStyle = view.ink;
    pen.strokeStyle = view.paper;
    pen.lineWidth = 3;
    this.labelled = [];
    for (const mark of [...view.marks].sort((a, b) => b.x - a.x)) {
      const p = this.px(mark.x), wide = pen.measureText(mark.text).width;
      if (p < frame.left || p > frame.right) continue;
      const left = p + 3 + wide > frame.right ? p - 3 - wide : p + 3, row = from.findIndex((taken) => left + wide + 6 < taken);
      if (row < 0) continue;
      from[row] = left;
      this.labelled.push({ text: mark.text, left, right: left + wide, row });
      pen.strokeText(mark.text, left, frame.top + 1 + LINE * row);
      pen.fillText(mark.text, left, frame.top + 1 + LINE * row);
    }
  }

  // Latest, lowest and highest value of the followed class, else of the panel's line; else of the class that stands out, by its role.
  // Returns its row, -1 for none.
  summary() {
    const { data, spec, view } = this, last = data.x.length - 1;
    if (spec.kind === "bars") { this.tell(data.y.some((y) => y === y) ? "last epoch, 95 % intervals" : ""); return -1; }
    let row = spec.lines.findIndex((line) => line.class !== null && line.class === view.followed), role = "";
    if (row < 0 && !spec.picks) row = spec.tells || 0;
    if (row < 0) {
      const latest = Array.from({ length: data.rows }, (_, r) => this.at(r, last)), known = latest.filter((y) => y === y);
      const edge = spec.worst === "low" ? Math.min(...known) : Math.max(...known), alike = known.filter((y) => y === edge).length;
      row = latest.indexOf(edge);
      role = `${spec.picks} `;
      if (alike !== 1) { // to name one of several would be a lie
        this.tell(alike ? `${alike === data.rows ? "all classes" : `${role}${alike} classes`}: now ${short(edge)}` : "");
        return -1;
      }
    }
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i <= last; i++) { const y = this.at(row, i); if (y === y) { low = Math.min(low, y); high = Math.max(high, y); } }
    this.tell(high >= low ? `${role}${spec.lines[row].name}: now ${short(this.at(row, last))}, min ${short(low)}, max ${short(high)}` : "");
    return row;
  }

  tell(text) {
    this.numbers.textContent = text;
    this.canvas.setAttribute("aria-label", `${this.spec.title}. ${text}`);
  }

  point(event) {
    this.pointer = { x: event.offsetX, y: event.offsetY };
    const found = this.nearest();
    if (!found) return;
    const value = `${found.name}: ${short(found.y)}`, where = this.spec.kind === "bars" ? "" : ` at ${this.spec.x} ${short(found.x)}`;
    this.view.tell(value + where, event);
    if (this.drag !== null) this.view.redraw();
  }

  nearest() {
    const { data, spec, pointer, frame } = this;
    if (!data || !data.x.length || !pointer || !this.px) return null;
    let i = 0;
    for (let k = 1; k < data.x.length; k++) if (Math.abs(this.px(spec.kind === "bars" ? k : data.x[k]) - pointer.x) < Math.abs(this.px(spec.kind === "bars" ? i : data.x[i]) - pointer.x)) i = k;
    if (spec.kind === "bars") return { name: this.view.spec.classes[i], class: i, x: i, y: data.y[i] };
    let row = 0;
    if (spec.kind === "heatmap") row = Math.max(0, Math.min(data.rows - 1, Math.floor(((pointer.y - frame.top) / (frame.bottom - frame.top)) * data.rows)));
    else for (let r = 1; r < data.rows; r++) if (Math.abs(this.py(this.at(r, i)) - pointer.y) < Math.abs(this.py(this.at(row, i)) - pointer.y)) row = r;
    return { name: spec.lines[row].name, class: spec.lines[row].class, x: data.x[i], y: this.at(row, i) };
  }

  release(event) {
    const from = this.drag;
    this.drag = null;
    const wide = this.frame ? this.frame.right - this.frame.left : 1, value = (p) => this.span[0] + ((p - this.frame.left) / wide) * (this.span[1] - this.span[0]);
    if (from !== null && this.span && Math.abs(event.offsetX - from) > 8) return this.view.zoom([value(from), value(event.offsetX)].sort((a, b) => a - b));
    const found = this.nearest();
    if (found && found.class !== null) this.view.follow(found.class);
  }
}
