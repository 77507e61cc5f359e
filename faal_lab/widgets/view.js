// The grid of panels in a notebook's output: what they share (legend, followed class, zoom, tooltip, theme), and the talk
// with Python. Comes after drawing.js and panels.js in one module.

const SILENT = 6; // seconds without a word, then the page is disconnected

class View {
  constructor(model, el) {
    this.model = model;
    this.root = make("div", "faal-view", el);
    this.offline = make("div", "faal-disconnected", this.root);
    this.offline.setAttribute("role", "status");
    this.offline.hidden = true;
    this.live = false;
    this.heardAt = Date.now();
    this.clock = setInterval(() => this.listen(), 1000);
    this.legend = make("div", "faal-legend", this.root);
    this.grid = make("div", "faal-grid", this.root);
    this.tip = make("div", "faal-tip", this.root);
    this.tip.hidden = true;
    this.marks = [];
    this.span = null;
    this.number = this.drawn = this.told = 0;
    this.build();
    this.heard = (message, buffers) => this.hear(message, buffers);
    this.rebuilt = () => { this.build(); this.model.send({ kind: "hello" }); };
    this.recoloured = () => { this.followed = this.model.get("followed"); this.mark(); this.redraw(); };
    model.on("msg:custom", this.heard);
    model.on("change:spec", this.rebuilt);
    model.on("change:followed", this.recoloured);
    this.hider = () => this.hide();
    model.on("change:kept", this.hider);
    this.hide();
    this.watcher = new ResizeObserver(() => { for (const panel of this.panels.values()) panel.measure(); this.redraw(); });
    this.watcher.observe(this.grid);
    // JupyterLab changes its theme by an attribute of the body; other pages follow the system
    this.theme = new MutationObserver(() => this.redraw());
    this.theme.observe(document.body, { attributes: true });
    this.root.faal = this; // for tests, and for whoever wants the numbers of a picture
    model.send({ kind: "hello" });
  }

  stop() {
    this.model.off("msg:custom", this.heard);
    this.model.off("change:spec", this.rebuilt);
    this.model.off("change:followed", this.recoloured);
    this.model.off("change:kept", this.hider);
    this.watcher.disconnect();
    clearInterval(this.clock);
    clearTimeout(this.later);
    for (const panel of this.panels.values()) panel.watcher.disconnect();
    this.theme.disconnect();
  }

  build() {
    this.spec = this.model.get("spec");
    this.followed = this.model.get("followed");
    for (const panel of this.panels ? this.panels.values() : []) panel.watcher.disconnect();
    this.grid.replaceChildren();
    // one margin for all, so that a batch stands in the same place in every panel
    const heat = this.spec.panels.some((panel) => panel.kind === "heatmap");
    this.named = widest(this.spec.classes, FONT);
    this.left = heat ? Math.ceil(Math.max(46, Math.min(120, this.named + 8))) : 46;
    this.panels = new Map(this.spec.panels.map((panel) => [panel.id, new Panel(this, panel, this.grid)]));
    for (const panel of this.panels.values()) panel.measure();
    this.legend.replaceChildren();
    this.chips = this.spec.classes.map((name, i) => {
      const chip = make("button", "faal-chip", this.legend);
      chip.title = `Follow ${name} in every panel; again: all of them`;
      const line = make("span", "faal-swatch", chip);
      line.style.borderTop = `3px ${this.spec.dashes[i].length ? "dashed" : "solid"} ${this.spec.colours[i]}`;
      make("span", "", chip, name);
      chip.addEventListener("click", () => this.follow(i));
      return chip;
    });
    this.mark();
  }

  mark() {
    this.chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(i === this.followed)));
    for (const panel of this.panels.values()) if (panel.data && panel.spec.kind === "lines") panel.data.low = null; // another class's
  }

  // ipywidgets gives no name to the handle of a slider, nor to a player's buttons: a screen reader would be silent there.
  name() {
    const place = this.root.closest(".jp-OutputArea") || document;
    for (const handle of place.querySelectorAll(".widget-slider .noUi-handle")) {
      const label = handle.closest(".widget-slider").querySelector(".widget-label"), name = label ? label.textContent.trim() : "";
      if (name && handle.getAttribute("aria-label") !== name) handle.setAttribute("aria-label", name);
    }
    for (const [icon, name] of Object.entries({ play: "Play", pause: "Pause", stop: "Stop", retweet: "Repeat" }))
      for (const sign of place.querySelectorAll(`.widget-play .fa-${icon}`))
        if (sign.parentElement.getAttribute("aria-label") !== name) sign.parentElement.setAttribute("aria-label", name);
  }

  // While a run is live, Python sends a sign of life every two seconds.
  listen() {
    this.name();
    const since = Math.round((Date.now() - this.heardAt) / 1000), lost = this.live && since >= SILENT, page = this.root.closest(".faal-dashboard");
    this.offline.hidden = !lost;
    this.offline.textContent = lost ? `disconnected since ${since} s` : "";
    if (page) page.classList.toggle("faal-offline", lost); // the status line is out of date
  }

  hear(message, buffers) {
    this.heardAt = Date.now();
    if (message.kind === "pulse") this.live = message.live;
    this.listen();
    if (message.kind === "still") return this.still(message.text);
    if (message.kind === "save") return this.save(message, buffers);
    if (message.kind !== "data") return;
    this.number = message.number;
    this.marks = message.marks;
    for (const [id, entry] of Object.entries(message.panels)) if (this.panels.has(id)) this.panels.get(id).take(entry, buffers);
    for (const panel of this.panels.values()) if (panel.spec.from) panel.data = this.panels.get(panel.spec.from).data;
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.ink = getComputedStyle(this.root).color;
      this.paper = this.background();
      for (const panel of this.panels.values()) if (panel.inView) panel.draw();
      this.drawn = this.number;
      if (this.number - this.told >= 4) {
        this.told = this.number;
        this.model.send({ kind: "drawn", number: this.number });
      }
    });
  }

  follow(index) {
    this.followed = index === this.followed ? -1 : index;
    this.model.set("followed", this.followed);
    this.model.save_changes();
    this.mark();
    this.redraw();
  }

  zoom(span) {
    this.span = span;
    this.model.send({ kind: "zoom", span });
    this.redraw();
  }

  tell(text, event) {
    this.tip.hidden = !text;
    if (!text) return;
    this.tip.textContent = text;
    const box = this.root.getBoundingClientRect(), left = event.clientX - box.left;
    this.tip.style.left = `${Math.min(left + 12, box.width - this.tip.offsetWidth - 4)}px`;
    this.tip.style.top = `${event.clientY - box.top + 14}px`;
  }

  background() {
    for (let node = this.root; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "white";
  }

  // The output before the widget's holds a picture for a page without a kernel. Here the widget is alive, so it is hidden. The page
  // draws that output anew after each change, in its own time.
  hide() {
    const start = "data:image/png;base64,";
    for (const wait of [0, 100, 500, 2000]) setTimeout(() => {
      const beside = this.root.closest(".jp-OutputArea-child")?.previousElementSibling, image = beside?.querySelector("img");
      const ours = image ? image.src.length === start.length + this.model.get("kept") : beside?.textContent.trim() === "\u200b";
      if (ours) beside.style.display = "none";
    }, wait);
  }

  // A picture for the notebook, when nothing has changed for a second.
  still(text) {
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      if (!this.root.isConnected || !this.grid.clientWidth) return;
      this.ink = getComputedStyle(this.root).color;
      this.model.send({ kind: "still", png: this.picture(text).toDataURL("image/png").split(",")[1], text });
    }, 1000);
  }

  // All panels in one picture, as they are on the page, on its background, under a text.
  picture(text = "") {
    const whole = document.createElement("canvas"), box = this.grid.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    const pen = whole.getContext("2d"), font = "13px system-ui, sans-serif", high = 18;
    pen.font = font;
    const lines = text ? text.split("\n").flatMap((line) => wrapped(pen, line, box.width - 16)) : [];
    const keyed = lines.length && this.spec.panels.some((panel) => panel.kind === "lines" && panel.lines[0].class !== null);
    const keys = keyed ? keysOf(pen, this.spec, box.width - 16) : [], rows = keys.length ? keys[keys.length - 1].row + 1 : 0;
    const head = lines.length && (lines.length + rows) * high + 26;
    whole.width = box.width * ratio;
    whole.height = (box.height + head) * ratio;
    pen.scale(ratio, ratio);
    pen.fillStyle = this.background();
    pen.fillRect(0, 0, box.width, box.height + head);
    pen.fillStyle = this.ink;
    pen.font = font;
    lines.forEach((line, i) => pen.fillText(line, 8, (i + 1) * high));
    for (const key of keys) {
      const y = (lines.length + key.row + 1) * high;
      pen.fillText(key.name, 8 + key.x + 28, y);
      pen.strokeStyle = key.colour;
      pen.lineWidth = 3;
      pen.setLineDash(key.dash);
      pen.beginPath();
      pen.moveTo(8 + key.x, y - 4);
      pen.lineTo(8 + key.x + 22, y - 4);
      pen.stroke();
    }
    pen.setLineDash([]);
    pen.translate(0, head);
    for (const panel of this.panels.values()) {
      panel.draw();
      const place = (panel.spec.note ? panel.box.lastChild : panel.canvas).getBoundingClientRect();
      const scale = panel.ends ? ` (dark ${panel.ends[0].textContent}, light ${panel.ends[2].textContent})` : "";
      pen.fillText(panel.spec.title + scale, place.left - box.left, place.top - box.top - 6);
      if (panel.spec.note) pen.fillText(panel.spec.note, place.left - box.left, place.top - box.top + 14, place.width);
      else pen.drawImage(panel.canvas, place.left - box.left, place.top - box.top, place.width, place.height);
    }
    return whole;
  }

  save(message, buffers) {
    const offer = (blob, name) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    };
    message.files.forEach((name, i) => offer(new Blob([buffers[i]]), name));
    this.picture().toBlob((blob) => offer(blob, message.picture));
  }
}

// A text in lines that fit a width.
function wrapped(pen, text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines[lines.length - 1]} ${word}`.trim();
    if (pen.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

// Where each class stands in a legend: row, and x in the row.
function keysOf(pen, spec, width) {
  let x = 0, row = 0;
  return spec.classes.map((name, i) => {
    const wide = 28 + pen.measureText(name).width + 16;
    if (x && x + wide > width) { x = 0; row += 1; }
    x += wide;
    return { name, x: x - wide, row, colour: spec.colours[i], dash: spec.dashes[i] };
  });
}

export default { render({ model, el }) { const view = new View(model, el); return () => view.stop(); } };
