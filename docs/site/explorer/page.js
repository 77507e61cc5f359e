/* Show the worst case of the scores on the sliders: state, address, controls, pictures. The numbers are solver.js's.

   `state` is the one truth: a control changes it and calls `show`, which sets every control, picture and text from it. */
(() => {
  "use strict";

  const { SETS, worstCase, largestMultiplier, radiusForMultiplier } = globalThis.faalSolver;
  const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B5A900", "#7F7F7F"];
  const CORNERS = [[0, 0], [1, 0], [0.5, Math.sqrt(3) / 2]]; // the places of the three classes
  const CENTRE = [0.5, Math.sqrt(3) / 6];
  const DIRECTIONS = 360;
  const STOPS = 400; // of the radius slider
  const SMALLEST = 1e-3; // the first stop of a logarithmic slider; before it is uniform
  const FEWEST = 3, MOST = 10; // classes
  const START = [-0.6, -0.2, 0.3, -0.4, 0.1, -0.1, -0.5, 0.2, -0.3, 0]; // also the scores of classes that are added

  const $ = (id) => document.getElementById(id);
  const clipped = (value, low, high) => Math.min(Math.max(value, low), high);
  const rounded = (value) => Number(value.toPrecision(4));
  const said = ([low, high]) => (high === Infinity ? `at least ${low}` : `between ${low} and ${high}`);
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  const fresh = () => ({ set: "kl", radius: 0.2, scores: START.slice(0, 3), keep: true });

  let state = fresh();
  let lastMultiplier = 1; // c* of the last set with a radius: simplex and point have none to hand on

  /* The address: #set=kl&radius=0.2&scores=-0.6,-0.2,0.3, and keep=no. */

  function address() {
    const { set, radius, scores, keep } = state;
    const parts = [`set=${set}`, ...(SETS[set].limits ? [`radius=${radius}`] : []), `scores=${scores}`];
    return `#${[...parts, ...(keep ? [] : ["keep=no"])].join("&")}`;
  }

  /** Read a state from an address; throws a RangeError that names the part which cannot be read. */
  function read(hash) {
    const parts = new URLSearchParams(hash.replace(/^#/, "")), found = fresh();
    for (const name of parts.keys()) {
      if (!["set", "radius", "scores", "keep"].includes(name)) throw new RangeError(`"${name}" is no part of a setting`);
    }
    found.set = parts.get("set") ?? found.set;
    if (!Object.hasOwn(SETS, found.set)) throw new RangeError(`there is no set "${found.set}"`);
    const limits = SETS[found.set].limits, radius = parts.get("radius");
    if (limits && radius === null && parts.has("set")) found.radius = SETS[found.set].start;
    if (limits && radius !== null) {
      found.radius = radius.trim() ? Number(radius) : NaN;
      if (!(Number.isFinite(found.radius) && found.radius >= limits[0] && found.radius <= limits[1])) {
        throw new RangeError(`a radius of ${found.set} is ${said(limits)}, not "${radius}"`);
      }
    }
    if (parts.has("scores")) {
      const words = parts.get("scores").split(",");
      found.scores = words.map((word) => (word.trim() ? Number(word) : NaN));
      if (!found.scores.every((s) => s >= -1 && s <= 1)) throw new RangeError(`scores are from -1 to 1, not "${words}"`);
      if (words.length < FEWEST || words.length > MOST) {
        throw new RangeError(`there must be ${FEWEST} to ${MOST} scores, not ${words.length}`);
      }
    }
    if (!["yes", "no", null].includes(parts.get("keep"))) throw new RangeError(`keep is yes or no, not "${parts.get("keep")}"`);
    found.keep = parts.get("keep") !== "no";
    return found;
  }

  let writing = 0;
  /** Write the state into the address, at most a few times a second: browsers refuse more. */
  function write() {
    clearTimeout(writing);
    writing = setTimeout(() => history.replaceState(null, "", address()), 200);
  }

  function restore() {
    clearTimeout(writing);
    const note = $("note");
    note.hidden = true;
    try {
      state = read(location.hash);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      note.textContent = `The address holds a setting that cannot be shown: ${error.message}. The page shows its first setting.`;
      note.hidden = false;
      state = fresh();
    }
    show();
  }

  /* The radius slider: on every set, the right end reaches farthest. */

  function radiusAt(stop) {
    const set = SETS[state.set], share = stop / STOPS, far = set.reach(state.scores.length);
    if (share === 0) return set.uniform;
    if (share === 1) return far; // rounded it might fall short
    if (state.set === "cvar") return rounded(1 / (1 + share * (1 / far - 1)));
    return rounded(set.log ? SMALLEST * (far / SMALLEST) ** share : share * far);
  }

  function stopOf(radius) {
    const set = SETS[state.set], far = set.reach(state.scores.length);
    if (radius === set.uniform) return 0;
    if (state.set === "cvar") return (STOPS * (1 / radius - 1)) / (1 / far - 1);
    return STOPS * (set.log ? Math.log(radius / SMALLEST) / Math.log(far / SMALLEST) : radius / far);
  }

  /** The largest c* to ask for: KL reaches the number of classes only at an infinite radius. */
  const mostMultiplier = () => state.scores.length - (state.set === "kl" ? 0.01 : 0);

  function setMultiplier(multiplier) {
    const classes = state.scores.length, most = clipped(multiplier, 1, mostMultiplier());
    const radius = radiusForMultiplier(state.set, most, classes);
    state.radius = most === classes ? radius : clipped(rounded(radius), ...SETS[state.set].limits);
  }

  function changeSet(name) {
    state.set = name;
    const limits = SETS[name].limits;
    if (!limits) return;
    if (state.keep) setMultiplier(lastMultiplier);
    else state.radius = clipped(state.radius, ...limits);
  }

  function changeClasses(count) {
    state.scores = [...state.scores.slice(0, count), ...START.slice(state.scores.length, count)];
  }

  const PRESETS = {
    one: (_, c) => (c === 0 ? 0.6 : -0.4),
    two: (_, c) => (c < 2 ? 0.6 : -0.4),
    equal: () => 0,
    random: () => Math.round(Math.random() * 100 - 50) / 50,
  };

  /* Words. */

  const joined = (words) => words.join(", ").replace(/, (\d+)$/, " and $1");
  const classesNamed = (indices) => (indices.length > 1 ? "Classes " : "Class ") + joined(indices.map((c) => `${c + 1}`));
  const times = (m) => (m < 1e-12 ? "0" : m && m < 0.095 ? `${Number(m.toPrecision(1))}` : m.toFixed(m < 0.95 ? 2 : 1));

  /** Say in plain words how much the classes count. */
  function sentence(weights) {
    const classes = weights.length, multipliers = weights.map((w) => w * classes);
    const most = Math.max(...multipliers), least = Math.min(...multipliers);
    if (most - least < 1e-9) return "Every class counts as much as in plain training.";
    const at = (m) => multipliers.flatMap((x, c) => (Math.abs(x - m) < 1e-9 ? [c] : []));
    const top = at(most), low = at(least), each = (found) => (found.length > 1 ? "count" : "counts");
    if (least < 1e-12 && top.length + low.length === classes) {
      const verb = top.length > 1 ? "share all the weight: each counts" : "takes all the weight: it counts";
      return `${classesNamed(top)} ${verb} ${times(most)} times as much as in plain training.`;
    }
    const rest = low.length > 3 ? `${low.length} other classes count` : `${classesNamed(low).toLowerCase()} ${each(low)}`;
    const little = least < 1e-12 ? `${rest} nothing` : `${rest} ${times(least)} times as much`;
    return `${classesNamed(top)} ${each(top)} ${times(most)} times as much as in plain training; ${little}.`;
  }

  /* Pictures: SVG at the size of its place, so that letters keep theirs. */

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const listed = (weights) => weights.map((w) => w.toFixed(3)).join(", ");
  /** Place a distribution of three classes in the plane of CORNERS. */
  const flat = (weights) => [0, 1].map((axis) => weights.reduce((total, w, c) => total + w * CORNERS[c][axis], 0));

  let outlined = "", outline = [];
  /** Compute the outline of the set: one worst case for each direction around the circle. */
  function region() {
    const key = `${state.set} ${state.radius}`;
    if (key === outlined) return outline;
    outline = [...Array(DIRECTIONS)].map((_, k) => {
      const angle = (2 * Math.PI * k) / DIRECTIONS, push = [Math.cos(angle), Math.sin(angle)];
      const scores = CORNERS.map((corner) => push[0] * (corner[0] - CENTRE[0]) + push[1] * (corner[1] - CENTRE[1]));
      return flat(worstCase(state.set, scores, state.radius).weights);
    });
    outlined = key;
    return outline;
  }

  function drawTriangle(weights) {
    $("triangle").hidden = weights.length !== 3;
    if (weights.length !== 3) return;
    const svg = $("simplex"), width = svg.clientWidth, height = svg.clientHeight;
    const size = Math.min(width - 90, (height - 56) / CORNERS[2][1]), left = (width - size) / 2;
    const place = ([x, y]) => [left + x * size, height - 28 - y * size];
    const points = (places) => places.map((p) => place(p).map((v) => v.toFixed(2)).join(",")).join(" ");
    const line = (from, to, look) => {
      const [[x1, y1], [x2, y2]] = [place(from), place(to)];
      return element("line", { x1, y1, x2, y2, class: look });
    };
    const polygon = (places, look) => element("polygon", { points: points(places), class: look });
    const parts = [polygon(CORNERS, "axis"), polygon(region(), "region")];
    const middle = state.scores.reduce((a, b) => a + b, 0) / 3, worst = flat(weights);
    const push = flat(state.scores.map((s) => s - middle)); // the centre drops out: these sum to 0
    const length = Math.hypot(...push);
    if (length > 1e-9) {
      const [x, y] = push.map((p) => p / length), tip = [CENTRE[0] + 0.5 * x, CENTRE[1] + 0.5 * y];
      const wing = (side) => [tip[0] - 0.05 * x - side * 0.025 * y, tip[1] - 0.05 * y + side * 0.025 * x];
      parts.push(line([worst[0] - 0.3 * y, worst[1] + 0.3 * x], [worst[0] + 0.3 * y, worst[1] - 0.3 * x], "level"));
      parts.push(line(CENTRE, [tip[0] - 0.03 * x, tip[1] - 0.03 * y], "push"));
      parts.push(polygon([tip, wing(1), wing(-1)], "head"));
    }
    const dot = (at, r, attributes) => element("circle", { cx: place(at)[0], cy: place(at)[1], r, ...attributes });
    parts.push(dot(CENTRE, 4, { class: "head" }));
    CORNERS.forEach((corner, c) => {
      const [x, y] = place(corner);
      parts.push(dot(corner, 6, { fill: COLOURS[c] }));
      parts.push(element("text", { x, y: c === 2 ? y - 12 : y + 22, "text-anchor": "middle" }, `all on class ${c + 1}`));
    });
    parts.push(dot(worst, 8, { class: "worst" }));
    svg.replaceChildren(...parts);
    const where = `The set ${state.set} on the simplex of three classes`;
    svg.setAttribute("aria-label", `${where}; the worst case has weights ${listed(weights)}.`);
  }

  function drawBars(weights) {
    const svg = $("bars"), width = svg.clientWidth, height = svg.clientHeight, classes = weights.length;
    const left = 40, slot = (width - left - 4) / classes, bar = Math.min(64, slot * 0.64), half = height * 0.42;
    const parts = [], middle = (c) => left + slot * (c + 0.5);
    const panel = (title, top, bottom, low, high, ticks) => {
      const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
      parts.push(element("text", { x: 0, y: top - 14, class: "title" }, title));
      for (const tick of ticks) {
        parts.push(element("line", { x1: left, x2: width, y1: y(tick), y2: y(tick), class: tick === 0 ? "axis" : "grid" }));
        const label = `${tick}`.replace("-", "−");
        parts.push(element("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end", class: "soft" }, label));
      }
      return y;
    };
    const rectangle = (c, from, to, said) => {
      const [y, tall] = [Math.min(from, to), Math.abs(from - to)];
      const made = element("rect", { x: middle(c) - bar / 2, width: bar, y, height: tall, fill: COLOURS[c % 8] });
      made.append(element("title", {}, `class ${c + 1}: ${said}`));
      return made;
    };
    const words = (c, y, text, look) => element("text", { x: middle(c), y, "text-anchor": "middle", class: look }, text);

    const scoreAt = panel("Scores (how hard)", 30, half - 14, -1, 1, [-1, 0, 1]);
    state.scores.forEach((s, c) => parts.push(rectangle(c, scoreAt(0), scoreAt(s), `score ${signed(s)}`)));

    const high = [0.25, 0.5, 1].find((top) => Math.max(...weights) <= 0.9 * top) ?? 1;
    const weightAt = panel("Worst-case weights", half + 44, height - 22, 0, high, [0, high / 2, high]);
    weights.forEach((w, c) => parts.push(rectangle(c, weightAt(0), weightAt(w), `weight ${w.toFixed(3)}`)));
    const level = weightAt(1 / classes);
    parts.push(element("line", { x1: left, x2: width, y1: level, y2: level, class: "uniform" }));
    weights.forEach((w, c) => {
      parts.push(words(c, weightAt(w) - 5, (slot > 40 ? "×" : "") + times(w * classes), "multiplier"));
      parts.push(words(c, height - 6, slot > 60 ? `class ${c + 1}` : `${c + 1}`, "name"));
    });
    parts.push(element("text", { x: width, y: half + 32, "text-anchor": "end", class: "soft" }, `dotted: uniform, 1/${classes}`));
    svg.replaceChildren(...parts);
    const uniform = (1 / classes).toFixed(3), scores = state.scores.map(signed).join(", ");
    svg.setAttribute("aria-label", `Scores ${scores}; worst-case weights ${listed(weights)}; uniform is ${uniform}.`);
  }

  /* Controls. */

  function makeSlider(c) {
    const row = document.createElement("div"), label = document.createElement("label");
    const dot = document.createElement("i"), slider = document.createElement("input"), output = document.createElement("output");
    row.className = "row";
    dot.className = "dot";
    dot.style.background = COLOURS[c % 8];
    Object.assign(slider, { type: "range", min: "-1", max: "1", step: "0.02", id: `score-${c + 1}` });
    slider.addEventListener("input", () => changed(() => (state.scores[c] = Number(slider.value))));
    label.htmlFor = output.htmlFor = slider.id;
    label.append(dot, `class ${c + 1}`);
    row.append(label, slider, output);
    return row;
  }

  function showControls() {
    const { set, radius, scores, keep } = state, { limits, symbol, reach } = SETS[set], classes = scores.length;
    $("set").value = set;
    $("keep").checked = keep;
    $("classes").value = classes;
    $("classes-number").textContent = classes;
    const rows = $("scores");
    while (rows.children.length > classes) rows.lastChild.remove();
    while (rows.children.length < classes) rows.append(makeSlider(rows.children.length));
    scores.forEach((s, c) => {
      const [, slider, output] = rows.children[c].children;
      slider.value = s;
      slider.setAttribute("aria-valuetext", signed(s));
      output.textContent = signed(s);
    });
    for (const part of document.querySelectorAll("[data-radius]")) part.hidden = !limits;
    for (const part of document.querySelectorAll("[data-set]")) part.hidden = part.dataset.set !== set;
    $("set-name").textContent = set;
    if (!limits) return;
    lastMultiplier = largestMultiplier(set, classes, radius);
    $("symbol").textContent = symbol;
    $("radius").value = clipped(stopOf(radius), 0, STOPS);
    $("radius").setAttribute("aria-valuetext", `${rounded(radius)}`);
    $("radius").title = `from ${SETS[set].uniform} to ${rounded(reach(classes))}`;
    $("multiplier").max = classes;
    $("multiplier").value = lastMultiplier;
    $("multiplier").setAttribute("aria-valuetext", `${lastMultiplier.toFixed(2)} times its share`);
    showTyped(document.activeElement);
  }

  /** Show the numbers of the fields, but not in one where somebody types. */
  function showTyped(busy) {
    const values = { "radius-number": rounded(state.radius), "multiplier-number": lastMultiplier.toFixed(2) };
    for (const [id, value] of Object.entries(values)) if ($(id) !== busy) $(id).value = value;
  }

  function showNumbers(found) {
    const { set, radius, scores } = state, { limits, symbol } = SETS[set], classes = scores.length;
    const small = (text) => Object.assign(document.createElement("small"), { textContent: text });
    const reached = found.divergence === 0 ? "0" : found.divergence.toPrecision(3);
    $("sentence").textContent = sentence(found.weights);
    $("value").textContent = signed(found.value);
    $("plain").textContent = signed(scores.reduce((a, b) => a + b, 0) / classes);
    $("divergence-name").textContent = set === "cvar" ? "α reached" : set === "simplex" ? "mass moved" : "divergence reached";
    $("divergence").replaceChildren(reached, ...(limits ? [small(` of ${symbol} = ${rounded(radius)}`)] : []));
    const now = classes * Math.max(...found.weights);
    const most = limits ? `c* = ${lastMultiplier.toFixed(2)}` : `at most ${set === "point" ? 1 : classes}`;
    $("now").replaceChildren(now.toFixed(2), small(` of ${most}`));
  }

  function show() {
    const found = worstCase(state.set, state.scores, state.radius);
    showControls();
    showNumbers(found);
    drawTriangle(found.weights);
    drawBars(found.weights);
  }

  function changed(change) {
    change();
    $("note").hidden = true;
    show();
    write();
  }

  /** Take a typed number, clipped to what the set allows; a field that holds none gets the present number back. */
  function typed(id, take) {
    const field = $(id);
    field.addEventListener("change", () => {
      const text = field.value.trim().replace(",", "."), number = text ? Number(text) : NaN;
      changed(() => (Number.isFinite(number) ? take(number) : null));
      showTyped();
    });
  }

  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("set").addEventListener("change", () => changed(() => changeSet($("set").value)));
  $("keep").addEventListener("change", () => changed(() => (state.keep = $("keep").checked)));
  $("radius").addEventListener("input", () => changed(() => (state.radius = radiusAt(Number($("radius").value)))));
  $("multiplier").addEventListener("input", () => changed(() => setMultiplier(Number($("multiplier").value))));
  typed("radius-number", (radius) => (state.radius = clipped(radius, ...SETS[state.set].limits)));
  typed("multiplier-number", setMultiplier);
  $("classes").addEventListener("input", () => changed(() => changeClasses(Number($("classes").value))));
  $("reset").addEventListener("click", () => changed(() => (state = fresh())));
  for (const button of document.querySelectorAll("[data-preset]")) {
    button.addEventListener("click", () => changed(() => (state.scores = state.scores.map(PRESETS[button.dataset.preset]))));
  }
  window.addEventListener("hashchange", restore);
  new ResizeObserver(show).observe(document.querySelector("main"));
  restore();
})();
