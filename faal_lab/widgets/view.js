// The grid of panels in a notebook's output: what they share (legend, followed class, zoom, tooltip, theme), and the talk
// with Python. Comes after drawing.js and panels.js in one module.

class View {
  constructor(model, el) {
    this.model = model;
    this.root = make("div", "faal-view", el);
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
    this.watcher.disconnect();
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

  hear(message, buffers) {
    if (message.kind === "save") return this.save(message, buffers);
    if (message.kind !== "data") return;
    this.number = message.number;
    this.marks = message.marks;
    for (const [id, entry] of Object.entries(message.panels)) if (this.panels.has(id)) this.panels.get(id).take(entry, buffers);
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

  // All panels in one picture, as they are on the page, on its background.
  picture() {
    const whole = document.createElement("canvas"), box = this.grid.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    whole.width = box.width * ratio;
    whole.height = box.height * ratio;
    const pen = whole.getContext("2d");
    pen.scale(ratio, ratio);
    pen.fillStyle = this.background();
    pen.fillRect(0, 0, box.width, box.height);
    pen.fillStyle = this.ink;
    pen.font = "13px system-ui, sans-serif";
    for (const panel of this.panels.values()) {
      panel.draw();
      const place = panel.canvas.getBoundingClientRect();
      pen.fillText(panel.spec.title, place.left - box.left, place.top - box.top - 6);
      pen.drawImage(panel.canvas, place.left - box.left, place.top - box.top, place.width, place.height);
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

export default { render({ model, el }) { const view = new View(model, el); return () => view.stop(); } };
