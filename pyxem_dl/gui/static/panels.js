// The two panels: the scan on the left, the pattern on the right. Each has a picture and, above it, what moves.

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, does] of Object.entries(value)) made.addEventListener(event, does);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

class Panel {
  constructor(name, label) {
    this.picture = element("canvas", { className: "picture", "data-testid": `${name}-picture` });
    this.above = element("canvas", {
      className: "above", tabIndex: 0, "data-testid": name, role: "img", "aria-label": label,
    });
    this.root = element("div", { className: "stack" }, this.picture, this.above);
    this.shape = [1, 1];
    new ResizeObserver(() => this.fit()).observe(this.root);
  }

  get ratio() { return window.devicePixelRatio || 1; }

  // As many pixels as the screen has for it; both canvases are drawn again
  fit() {
    const width = this.root.clientWidth;
    if (!width) return;
    const [rows, columns] = this.shape;
    const height = Math.min(width * rows / columns, 1.6 * width);
    for (const canvas of [this.picture, this.above]) {
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.root.style.height = `${height}px`;
    this.drawPicture();
    this.drawAbove();
  }

  reshape(shape) {
    if (shape[0] === this.shape[0] && shape[1] === this.shape[1] && this.picture.width > 1) return false;
    this.shape = shape;
    this.fit();
    return true;
  }

  // From pixels of the array to pixels of the canvas, and back: the middle of the first is 0
  toCanvas(row, column) {
    const [rows, columns] = this.shape;
    return [((column + 0.5) / columns) * this.above.width, ((row + 0.5) / rows) * this.above.height];
  }

  toArray(event) {
    const box = this.above.getBoundingClientRect();
    const [rows, columns] = this.shape;
    return [((event.clientY - box.top) / box.height) * rows - 0.5, ((event.clientX - box.left) / box.width) * columns - 0.5];
  }

  cleared() {
    const context = this.above.getContext("2d");
    context.clearRect(0, 0, this.above.width, this.above.height);
    return context;
  }

  drawPicture() {}
  drawAbove() {}
}

class MapPanel extends Panel {
  constructor(moved) {
    super("map", "Map of the scan: drag, or use the arrow keys");
    [this.layer, this.threshold, this.place, this.step, this.unit] = [null, 0, [0, 0], [1, 1], "px"];
    const at = (event) => {
      const [row, column] = this.toArray(event).map(Math.round);
      this.move(row, column, moved);
    };
    this.above.addEventListener("pointerdown", (event) => {
      this.above.setPointerCapture(event.pointerId);
      this.above.focus();
      at(event);
    });
    this.above.addEventListener("pointermove", (event) => { if (event.buttons) at(event); });
    this.above.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation(); // Jupyter would go to the next cell
      const many = event.shiftKey ? 10 : 1;
      this.move(this.place[0] + many * by[0], this.place[1] + many * by[1], moved);
    });
  }

  move(row, column, moved) {
    const inside = (i, n) => Math.min(Math.max(i, 0), n - 1);
    const place = [inside(row, this.shape[0]), inside(column, this.shape[1])];
    if (place[0] === this.place[0] && place[1] === this.place[1]) return;
    this.place = place;
    moved(place[1], place[0]);
    // once for what the screen shows, however often the mouse is heard
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = null;
      this.drawAbove();
    });
  }

  show(layer) {
    this.layer = layer;
    if (!this.reshape(layer.shape)) this.drawPicture();
  }

  drawPicture() {
    if (!this.layer || this.picture.width < 2) return;
    const { image, hidden } = paintLayer(this.layer, this.threshold);
    this.hidden = hidden;
    blit(this.picture, image);
  }

  drawAbove() {
    if (this.above.width < 2) return;
    const context = this.cleared();
    if (this.shape[1] > 3) drawScaleBar(context, this.above, this.step[1] * this.shape[1], this.unit, this.ratio);
    const [x, y] = this.toCanvas(...this.place);
    const [left, top] = this.toCanvas(this.place[0] - 0.5, this.place[1] - 0.5);
    const size = Math.max(2 * (x - left), 8 * this.ratio);
    const height = Math.max(2 * (y - top), 8 * this.ratio);
    outlined(context, "white", 1.5 * this.ratio, () => context.rect(x - size / 2, y - height / 2, size, height));
  }
}

class PatternPanel extends Panel {
  constructor(asked) {
    super("pattern", "Pattern at the cursor with the spots of its orientations");
    this.frame = null;
    this.how = { gamma: 0.4, low: 0, high: 99.8, inverted: false, mask: null };
    this.shown = 0; // which candidate; -1 for all
    this.mode = "indices"; // what the mouse does: indices, detector, center
    this.ring = null; // of the virtual detector, in pixels of the signal
    this.tip = element("div", { className: "tip", "data-testid": "tip" });
    this.root.append(this.tip);
    let grip = null;
    this.above.addEventListener("pointerdown", (event) => {
      if (this.mode === "indices" || !this.frame) return;
      this.above.setPointerCapture(event.pointerId);
      grip = this.mode === "center" ? { what: "center", from: this.toArray(event) } : this.gripOf(event);
    });
    this.above.addEventListener("pointermove", (event) => {
      if (grip && event.buttons) this.drag(grip, event, asked);
      else this.hover(event);
    });
    this.above.addEventListener("pointerup", () => {
      if (grip && grip.what !== "center") asked.virtual(this.ring);
      grip = null;
    });
    this.above.addEventListener("pointerleave", () => { this.tip.style.display = "none"; });
  }

  get spots() {
    if (!this.frame) return [];
    return this.frame.candidates.flatMap((each, i) => (this.shown < 0 || this.shown === i ? [[each, i]] : []));
  }

  show(frame) {
    this.frame = frame;
    if (!this.reshape(frame.pattern.shape)) {
      this.drawPicture();
      this.drawAbove();
    }
  }

  drawPicture() {
    if (this.frame && this.picture.width > 1) blit(this.picture, paintPattern(this.frame.pattern, this.how));
  }

  drawAbove() {
    if (!this.frame || this.above.width < 2) return;
    const context = this.cleared();
    for (const [candidate, number] of this.spots) {
      for (let i = 0; i < candidate.n; i++) {
        const [x, y] = this.toCanvas(candidate.row[i], candidate.column[i]);
        drawSpot(context, x, y, (4 + 6 * Math.sqrt(candidate.intensity[i])) * this.ratio, number);
      }
    }
    const [x, y] = this.toCanvas(...this.frame.center);
    drawCross(context, x, y, 6 * this.ratio);
    if (this.mode === "detector" && this.ring) this.drawRing(context);
  }

  // The ring is told in pixels of the signal; what is shown may be binned
  onScreen(pixel) { return (pixel + 0.5) / this.frame.binning - 0.5; }

  drawRing(context) {
    const [x, y] = this.toCanvas(...this.ring.center.map((each) => this.onScreen(each)));
    const unit = this.above.width / this.shape[1] / this.frame.binning;
    for (const radius of [this.ring.inner, this.ring.outer]) {
      outlined(context, "#F0E442", 1.5 * this.ratio, () => context.arc(x, y, radius * unit, 0, 2 * Math.PI));
    }
  }

  inSignal(event) { return this.toArray(event).map((each) => (each + 0.5) * this.frame.binning - 0.5); }

  gripOf(event) {
    const [row, column] = this.inSignal(event);
    const radius = Math.hypot(row - this.ring.center[0], column - this.ring.center[1]);
    const near = Math.max(6 * this.frame.binning, 0.15 * this.ring.outer);
    if (Math.abs(radius - this.ring.outer) < near) return { what: "outer" };
    if (Math.abs(radius - this.ring.inner) < near && this.ring.inner > 0) return { what: "inner" };
    return { what: "ring", from: [row, column], center: this.ring.center };
  }

  drag(grip, event, asked) {
    const [row, column] = this.inSignal(event);
    if (grip.what === "center") {
      const here = this.toArray(event);
      asked.shift(here.map((each, i) => (each - grip.from[i]) * this.frame.binning));
      grip.from = here;
      return;
    }
    const radius = Math.hypot(row - this.ring.center[0], column - this.ring.center[1]);
    if (grip.what === "outer") this.ring.outer = Math.max(radius, this.ring.inner + 1);
    else if (grip.what === "inner") this.ring.inner = Math.min(radius, this.ring.outer - 1);
    else this.ring.center = [grip.center[0] + row - grip.from[0], grip.center[1] + column - grip.from[1]];
    this.drawAbove();
  }

  hover(event) {
    const [row, column] = this.toArray(event);
    const near = (8 * this.shape[1]) / this.above.getBoundingClientRect().width;
    let best = null;
    for (const [candidate, number] of this.spots) {
      for (let i = 0; i < candidate.n; i++) {
        const distance = Math.hypot(candidate.row[i] - row, candidate.column[i] - column);
        if (distance < near && (!best || distance < best.distance)) best = { distance, candidate, number, i };
      }
    }
    this.tip.style.display = best ? "block" : "none";
    if (!best) return;
    const { candidate, i } = best;
    const hkl = candidate.hkl.length ? ` (${[...candidate.hkl.subarray(3 * i, 3 * i + 3)].join(" ")})` : "";
    this.tip.textContent = `${candidate.phase}${hkl} ${candidate.intensity[i].toFixed(2)}`;
    const [x, y] = this.toCanvas(candidate.row[i], candidate.column[i]);
    this.tip.style.left = `${x / this.ratio + 12}px`;
    this.tip.style.top = `${y / this.ratio - 8}px`;
  }
}
