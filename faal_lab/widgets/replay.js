// A page that plays a recorded run by itself, in the panels of the live page. Comes after view.js in one module, and stands where
// Python stands in a notebook: it answers the view with data up to a batch.

const numbers = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

class Recorded {
  constructor(run, place) {
    this.run = run;
    this.spec = run.spec;
    this.followed = -1;
    this.number = 0;
    this.parts = Object.entries(run.panels).map(([id, held]) => {
      const { rows, ...arrays } = held;
      return [id, rows, Object.entries(arrays).map(([name, text]) => [name, numbers(text)])];
    });
    this.steps = this.parts.find(([id]) => id === "weights")[2].find(([name]) => name === "x")[1];
    this.bars = Object.fromEntries(Object.entries(run.bars).map(([name, text]) => [name, numbers(text)]));
    this.last = this.steps[this.steps.length - 1];
    this.at = this.linked() || this.last;
    this.controls(place);
    this.view = new View(this, place);
    this.numbersBox = make("details", "faal-table", place);
    make("summary", "", this.numbersBox, "These numbers as a table");
    this.table = make("table", "", this.numbersBox);
    this.numbersBox.addEventListener("toggle", () => this.tabulate());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.view.redraw());
    addEventListener("hashchange", () => { this.pause(); this.go(this.linked() || this.last); });
    this.go(this.at);
  }

  // What the view asks of its model.
  get(name) { return name === "spec" ? this.spec : name === "followed" ? this.followed : 0; }
  set(name, value) { this[name] = value; this.tabulate(); }
  save_changes() {}
  on(event, call) { if (event === "msg:custom") this.call = call; }
  off() {}
  send(message) { if (message.kind === "hello") this.show(); }

  // The batch that the address names, as in #step=120; 0 where it names none.
  linked() { return Math.min(this.last, Number((location.hash.match(/step=(\d+)/) || [0, 0])[1])); }

  controls(place) {
    const row = make("div", "faal-player", place);
    this.play = make("button", "faal-play", row, "Play");
    this.play.addEventListener("click", () => (this.timer ? this.pause() : this.start()));
    this.slider = make("input", "faal-scrub", row);
    Object.assign(this.slider, { type: "range", min: this.steps[0], max: this.last, step: 1 });
    this.slider.setAttribute("aria-label", "batch");
    this.slider.addEventListener("input", () => { this.pause(); this.go(Number(this.slider.value)); });
    this.slider.addEventListener("change", () => history.replaceState(null, "", `#step=${this.at}`)); // a link to this moment
    this.where = make("output", "faal-where", row);
    const label = make("label", "", row, "all of it in ");
    this.speed = make("select", "faal-speed", label);
    for (const seconds of [10, 30, 90]) make("option", "", this.speed, `${seconds} s`).value = seconds;
    this.speed.value = 30;
  }

  start() {
    if (this.at >= this.last) this.go(this.steps[0]);
    this.play.textContent = "Pause";
    let before = performance.now(), exact = this.at;
    this.timer = setInterval(() => {
      const now = performance.now();
      exact += ((this.last - this.steps[0]) * (now - before)) / (1000 * this.speed.value);
      before = now;
      this.go(Math.min(this.last, Math.floor(exact)));
      if (this.at >= this.last) this.pause();
    }, 100);
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
  }

  go(step) {
    this.at = Math.max(this.steps[0], step);
    this.slider.value = this.at;
    const epochs = this.epochs(), text = `batch ${this.at} of ${this.last}, epoch ${Math.ceil(this.at / this.spec.batches)}`;
    this.where.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
    this.show(epochs);
    this.tabulate();
  }

  epochs() { return this.run.ends.filter((end) => end <= this.at).length; }

  // Every panel's data up to this batch.
  show(epochs = this.epochs()) {
    if (!this.call) return;
    const panels = {}, buffers = [], put = (array) => buffers.push(array) - 1;
    for (const [id, rows, arrays] of this.parts) {
      const x = arrays.find(([name]) => name === "x")[1], whole = x.length;
      let kept = x.findIndex((place) => place > (id === "epochs" ? epochs : this.at));
      if (kept < 0) kept = whole;
      panels[id] = { rows };
      for (const [name, array] of arrays) {
        const cut = new Float32Array(kept * (name === "x" ? 1 : rows));
        for (let r = 0; r < cut.length / kept; r++) cut.set(array.subarray(r * whole, r * whole + kept), r * kept);
        panels[id][name] = put(cut);
      }
    }
    const classes = this.spec.classes.length, from = (Math.max(1, epochs) - 1) * classes;
    panels.classes = { rows: 1, x: put(Float32Array.from(this.spec.classes, (_, i) => i)) };
    for (const [name, array] of Object.entries(this.bars))
      panels.classes[name] = put(epochs ? array.slice(from, from + classes) : new Float32Array(classes).fill(NaN));
    this.shown = { panels, buffers };
    this.call({ kind: "data", number: ++this.number, panels, marks: this.run.marks.filter((mark) => mark.x < this.at) }, buffers);
  }

  tabulate() {
    if (!this.numbersBox || !this.numbersBox.open) return;
    const columns = [["weights", "weight"], ["accuracy", "robust accuracy, training, %"], ["margin", "margin"]];
    const latest = (id, r) => { const { y, x } = this.shown.panels[id], n = this.shown.buffers[x].length; return this.shown.buffers[y][r * n + n - 1]; };
    this.table.replaceChildren();
    make("caption", "", this.table, `${this.where.textContent}; means over the last ${this.run.window} batches`);
    const head = make("tr", "", make("thead", "", this.table));
    for (const name of ["class", ...columns.map(([, name]) => name)]) make("th", "", head, name).scope = "col";
    const body = make("tbody", "", this.table);
    this.spec.classes.forEach((name, i) => {
      const row = make("tr", i === this.followed ? "faal-followed" : "", body);
      make("th", "", row, name).scope = "row";
      for (const [id] of columns) make("td", "", row, short(latest(id, i)));
    });
  }
}

window.faal = new Recorded(JSON.parse(document.getElementById("run").textContent), document.querySelector("main"));
