// The widget: controls, the talk with the kernel, and what its answers change.

// Two questions at a time, and what was asked meanwhile is asked together with the next one: nothing queues up. One would
// do, if Jupyter's server did not hold an answer back for 40 ms until the browser has acknowledged the small message before
// it, that the kernel is busy (Nagle's algorithm): it does so with whatever it sends next, the second question.
const AT_ONCE = 2;

class Talk {
  constructor(model, silent) {
    [this.model, this.silent, this.asked, this.heard, this.next] = [model, silent, 0, 0, null];
  }

  get waits() { return this.asked > this.heard; }

  ask(settings) {
    this.next = { ...this.next, ...settings };
    this.go();
  }

  go() {
    if (this.asked - this.heard >= AT_ONCE || !this.next) return;
    const set = this.next;
    this.next = null;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.silent(); this.heard = this.asked; }, 8000);
    this.tell({ kind: "ask", number: ++this.asked, set });
  }

  tell(message) {
    try {
      this.model.send(message);
    } catch {
      this.silent();
    }
  }

  // An answer to a question is one to all before it
  answered(number) {
    this.heard = Math.max(this.heard, Math.min(number, this.asked));
    if (!this.waits) clearTimeout(this.timer);
    this.go();
  }
}

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
// Numbers must begin at a multiple of their size, and buffers of messages need not
const numbersOf = (view, Kind) => new Kind(bytesOf(view).slice().buffer);

function frameOf(message, buffers) {
  const frame = { ...message, pattern: { ...message.pattern, bytes: bytesOf(buffers[0]) } };
  frame.candidates = message.candidates.map((each, i) => {
    const [row, column, intensity, hkl] = buffers.slice(1 + 4 * i, 5 + 4 * i);
    const numbers = { row: numbersOf(row, Float32Array), column: numbersOf(column, Float32Array) };
    return { ...each, ...numbers, intensity: numbersOf(intensity, Float32Array), hkl: numbersOf(hkl, Int16Array) };
  });
  return frame;
}

function layerOf(message, buffers) {
  const layer = { ...message };
  let i = 0;
  if (message.values === "colors") layer.colors = bytesOf(buffers[i++]);
  else layer.numbers = numbersOf(buffers[i++], Float32Array);
  if (message.has_indexed) layer.indexed = bytesOf(buffers[i++]);
  if (message.has_scores) layer.scores = numbersOf(buffers[i++], Float32Array);
  return layer;
}

class Controls {
  constructor(changed) { [this.changed, this.all] = [changed, {}]; }

  labelled(text, input, title = "") {
    return element("label", { title }, element("span", { textContent: text }), input);
  }

  choice(name, text, title) {
    const input = element("select", {
      "data-testid": name, on: { change: () => this.changed(name, input.value) },
    });
    this.all[name] = input;
    return this.labelled(text, input, title);
  }

  slider(name, text, min, max, step, title) {
    const shown = element("output", {});
    const input = element("input", {
      type: "range", min, max, step, "data-testid": name,
      on: { input: () => { shown.textContent = Number(input.value).toPrecision(3); this.changed(name, Number(input.value)); } },
    });
    input.shown = shown;
    this.all[name] = input;
    return element("label", { title }, element("span", { textContent: text }), input, shown);
  }

  tick(name, text, title) {
    const input = element("input", {
      type: "checkbox", "data-testid": name, on: { change: () => this.changed(name, input.checked) },
    });
    this.all[name] = input;
    return element("label", { title }, input, element("span", { textContent: text }));
  }

  // What the kernel says goes into the controls, but not into the one that is held
  set(name, value, choices) {
    const input = this.all[name];
    if (choices && choices.map(String).join("\n") !== [...input.options].map((each) => each.value).join("\n")) {
      input.replaceChildren(...choices.map((each) => element("option", { value: each, textContent: each })));
    }
    if (input.type === "checkbox") input.checked = value;
    else if (document.activeElement !== input || input.tagName === "SELECT") input.value = value;
    if (input.shown) input.shown.textContent = Number(input.value).toPrecision(3);
  }

  shown(name, is) { this.all[name].closest("label").style.display = is ? "" : "none"; }
}

const ORDINALS = ["1st", "2nd", "3rd"];
// What only the browser needs to know
const OWN = new Set(["gamma", "low", "high", "inverted", "mode", "spots"]);
const SHIFTS = { center_row: 0, center_column: 1 };

class View {
  constructor(model, root) {
    this.state = null;
    this.frames = 0;
    this.talk = new Talk(model, () => this.say(
      "The kernel does not answer: it is busy, or was restarted. Then run the cell again.", true));
    this.map = new MapPanel((x, y) => this.talk.ask({ x, y }));
    this.pattern = new PatternPanel({
      virtual: (ring) => this.talk.tell({ kind: "virtual", ...ring }),
      shift: (by) => this.change("center_shift", this.state.center_shift.map((each, i) => each + by[i])),
    });
    this.controls = new Controls((name, value) => this.change(name, value));
    this.keys = {};
    this.root = root;
    this.build();
    this.heard = (message, buffers) => this.hear(message, buffers);
    model.on("msg:custom", this.heard);
    this.leave = () => {
      this.talk.tell({ kind: "bye" });
      model.off("msg:custom", this.heard);
      clearTimeout(this.talk.timer);
    };
    this.talk.tell({ kind: "hello" });
  }

  build() {
    const c = this.controls;
    const button = (name, text, does, title = "") =>
      element("button", { type: "button", textContent: text, title, "data-testid": name, on: { click: does } });
    this.status = element("div", { className: "status", role: "status", "data-testid": "status" });
    this.text = element("pre", { className: "words", "data-testid": "text" });
    this.legend = element("div", { className: "legend", "data-testid": "legend" });
    this.keyRow = element("div", { className: "keys", "data-testid": "keys" });
    this.bar = element("progress", { max: 1, value: 0, "data-testid": "progress" });
    this.path = element("input", { type: "text", value: "map.h5", size: 12, "data-testid": "path", ariaLabel: "File" });
    this.codeBox = element("textarea", { readOnly: true, rows: 6, "data-testid": "code-text", ariaLabel: "Code" });
    this.codeBox.style.display = "none";
    this.origin = element("pre", { "data-testid": "provenance" });
    this.originBox = element("details", {}, element("summary", { textContent: "Where the map comes from" }), this.origin);
    this.index = button("index", "Index the scan", () => this.talk.tell({ kind: "index" }));
    this.cancel = button("cancel", "Cancel", () => this.talk.tell({ kind: "cancel" }), "What is done is kept");
    this.root.classList.add("pyxem-dl-explorer");
    this.root.append(
      element("div", { className: "row" },
        c.choice("source", "Spots from"), c.choice("model", "Model"), c.choice("phase", "Phase"),
        c.choice("spots", "Show", "Which of the orientations found is drawn"),
        c.tick("link", "HyperSpy", "Move together with the navigator of s.plot()"), this.index, this.cancel, this.bar),
      element("div", { className: "panels" },
        element("div", { className: "panel" },
          element("div", { className: "row" }, c.choice("layer", "Map"), c.choice("candidate", "of the", "Whose orientation the map shows")),
          this.map.root, this.legend, this.keyRow),
        element("div", { className: "panel" },
          element("div", { className: "row" },
            c.choice("mode", "Mouse", "What the mouse does on the pattern"),
            c.slider("gamma", "Gamma", 0.1, 1, 0.05), c.slider("low", "Low %", 0, 95, 1),
            c.slider("high", "High %", 90, 100, 0.1), c.tick("inverted", "Invert")),
          this.pattern.root, this.text)),
      element("div", { className: "row" },
        c.slider("threshold", "Threshold", 0, 1, 0.005, "Lowest score, or confidence of disks"),
        c.slider("crystal_threshold", "Crystal", 0, 1, 0.005, "Lowest probability that there is a crystal"),
        c.slider("scale_factor", "Scale ×", 0.95, 1.05, 0.001), c.slider("center_row", "Centre, rows", -5, 5, 0.1),
        c.slider("center_column", "columns", -5, 5, 0.1)),
      element("div", { className: "row" },
        button("code", "Copy code", () => this.talk.tell({ kind: "code" }), "The lines that make this map"),
        this.path, button("save", "Save", () => this.talk.tell({ kind: "save", path: this.path.value, overwrite: this.replace.checked }),
          ".h5, .ang, .ctf, or .png for the picture"),
        element("label", {}, this.replace = element("input", { type: "checkbox", "data-testid": "overwrite" }), "replace"),
        this.status),
      this.codeBox, this.originBox);
    c.set("mode", "indices", ["indices", "detector", "center"]);
    for (const [name, value] of Object.entries(this.pattern.how)) if (c.all[name]) c.set(name, value);
  }

  change(name, value) {
    if (name === "gamma" || name === "low" || name === "high" || name === "inverted") {
      this.pattern.how[name] = value;
      this.pattern.drawPicture();
    } else if (name === "mode") {
      this.pattern.mode = value;
      this.pattern.drawAbove();
    } else if (name === "spots") {
      this.pattern.shown = ORDINALS.indexOf(value);
      this.pattern.drawAbove();
    } else if (name in SHIFTS) {
      const shift = [...this.state.center_shift];
      shift[SHIFTS[name]] = value;
      this.state.center_shift = shift;
      this.talk.ask({ center_shift: shift });
    } else {
      if (name === "threshold") this.greyOut(value);
      if (name === "center_shift") this.state.center_shift = value;
      this.talk.ask({ [name]: name === "candidate" ? ORDINALS.indexOf(value) : value });
    }
    this.root.dataset.changed = name;
  }

  // At once, without the kernel
  greyOut(threshold) {
    this.map.threshold = this.map.layer?.scores ? threshold : 0;
    this.map.drawPicture();
    this.showLegend();
  }

  say(text, failed) {
    this.status.textContent = text;
    this.status.classList.toggle("failed", !!failed);
  }

  hear(message, buffers) {
    const kinds = { state: "hearState", frame: "hearFrame", layer: "hearLayer", key: "hearKey", mask: "hearMask", code: "hearCode" };
    const name = kinds[message.kind];
    if (name) this[name](message, buffers);
  }

  hearState(state) {
    const c = this.controls;
    this.state = state;
    const disks = !state.can_index;
    for (const name of ["source", "model", "phase", "layer"]) c.set(name, state[name], state[`${name}s`]);
    c.set("candidate", ORDINALS[state.candidate], ORDINALS.slice(0, state.most));
    const spots = state.most > 1 ? [...ORDINALS.slice(0, state.most), "all"] : [ORDINALS[0]];
    c.set("spots", ORDINALS[this.pattern.shown] ?? "all", spots);
    c.set("link", state.link);
    for (const [name, limit] of [["threshold", "score"], ["crystal_threshold", "crystal"]]) {
      c.set(name, state[name] ?? state.limits[limit] ?? 0);
    }
    c.set("scale_factor", state.scale_factor);
    for (const [name, i] of Object.entries(SHIFTS)) {
      c.set(name, state.center_shift[i]);
      c.shown(name, state.fixed_center && !disks);
    }
    c.shown("source", state.sources.length > 1);
    c.shown("phase", state.phases.length > 1);
    for (const name of ["spots", "candidate"]) c.shown(name, state.most > 1);
    for (const name of ["model", "crystal_threshold", "scale_factor"]) c.shown(name, !disks);
    c.shown("threshold", state.source !== "image");
    for (const name of ["link", "mode"]) c.shown(name, state.source !== "image");
    for (const each of [this.index, this.cancel, this.bar]) each.style.display = state.can_index ? "" : "none";
    this.index.disabled = state.running;
    this.cancel.disabled = !state.running;
    this.bar.style.visibility = state.running ? "visible" : "hidden";
    this.origin.textContent = state.provenance;
    this.originBox.style.display = state.provenance ? "" : "none";
    this.showLegend();
    this.bar.value = state.done / Math.max(1, state.grid[0] * state.grid[1]);
    this.say(state.status, state.failed);
    if (this.map.layer?.scores && this.map.threshold !== state.map_threshold) this.greyOut(state.map_threshold);
    [this.map.step, this.map.unit] = [state.step, state.unit];
    this.map.reshape(state.grid);
    const [rows, columns] = state.detector;
    this.pattern.ring ??= {
      center: this.pattern.frame ? [...this.pattern.frame.center] : [(rows - 1) / 2, (columns - 1) / 2],
      inner: 0.1 * Math.min(rows, columns), outer: 0.45 * Math.min(rows, columns),
    };
    this.root.dataset.running = state.running;
  }

  // The kernel moved, as HyperSpy's navigator or a line of code did
  follow(x, y) {
    if (this.map.place[0] === y && this.map.place[1] === x) return;
    this.map.place = [y, x];
    this.map.drawAbove();
  }

  hearFrame(message, buffers) {
    const frame = frameOf(message, buffers);
    this.talk.answered(message.number);
    this.pattern.show(frame);
    if (!this.talk.waits) this.follow(frame.x, frame.y);
    this.text.textContent = frame.text;
    this.showDots(frame);
    Object.assign(this.root.dataset, { echo: message.number, x: frame.x, y: frame.y, frames: ++this.frames });
  }

  hearLayer(message, buffers) {
    const layer = layerOf(message, buffers);
    this.map.threshold = layer.scores ? this.state?.map_threshold ?? 0 : 0;
    this.map.show(layer);
    this.showLegend();
    this.root.dataset.layer = layer.name;
    this.root.dataset.layers = Number(this.root.dataset.layers ?? 0) + 1;
  }

  showLegend() {
    const { layer, hidden } = this.map;
    if (!layer) return;
    const swatch = (color) => element("i", { className: "swatch", style: `background:${color}` });
    const entries = layer.legend.map(([name, color]) => [color ? swatch(color) : null, name]);
    if (layer.numbers && layer.range) {
      const [low, high] = layer.range.map((each) => Number(each.toPrecision(3)));
      entries.push([null, `${low} to ${high} ${layer.unit}`]);
    }
    const n = layer.shape[0] * layer.shape[1];
    if (hidden) entries.push([swatch("darkgray"), `not indexed (${((100 * hidden) / n).toFixed(1)} %)`]);
    this.legend.replaceChildren(...entries.map((entry) => element("span", {}, ...entry)));
    this.root.dataset.hidden = hidden ?? 0;
    for (const [phase, each] of Object.entries(this.keys)) {
      const counts = layer.name.startsWith("IPF") && this.state.keys.includes(phase);
      each.root.style.display = counts ? "" : "none";
    }
  }

  hearKey(message, buffers) {
    if (!buffers.length) return;
    const address = URL.createObjectURL(new Blob([bytesOf(buffers[0])], { type: "image/png" }));
    const dot = element("i", { className: "dot", "data-testid": "dot" });
    const picture = element("img", { src: address, alt: `Colour key of ${message.phase}` });
    const root = element("div", { className: "key" },
      element("div", { className: "stack" }, picture, dot), element("span", { textContent: message.phase }));
    this.keys[message.phase] = { root, dot };
    this.keyRow.replaceChildren(...Object.values(this.keys).map((each) => each.root));
    this.showLegend();
    if (this.pattern.frame) this.showDots(this.pattern.frame);
  }

  showDots(frame) {
    const direction = { z: 0, x: 1, y: 2 }[(this.state?.layer ?? "").slice(-1)] ?? 0;
    for (const each of Object.values(this.keys)) each.dot.style.display = "none";
    const candidate = frame.candidates[Math.max(this.pattern.shown, 0)];
    const key = candidate && this.keys[candidate.phase];
    if (!key || !candidate.key) return;
    const [x, y] = candidate.key[direction];
    Object.assign(key.dot.style, { display: "block", left: `${100 * x}%`, top: `${100 * y}%` });
  }

  hearMask(message, buffers) {
    this.pattern.how.mask = bytesOf(buffers[0]);
    this.pattern.drawPicture();
  }

  hearCode(message) {
    this.codeBox.value = message.text;
    this.codeBox.style.display = "";
    navigator.clipboard?.writeText(message.text).catch(() => {}); // not allowed everywhere; it can be read in the box
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, element("div"));
    el.append(view.root);
    return view.leave;
  },
};
