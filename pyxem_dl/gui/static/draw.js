// What is drawn: numbers to colours, spots, rings, scale bars. Nothing here knows of the kernel or of controls.

// Okabe and Ito's colours, which the colour-blind tell apart; the shapes differ, too
const SPOTS = [
  { color: "#E69F00", shape: "circle" },
  { color: "#56B4E9", shape: "square" },
  { color: "#CC79A7", shape: "diamond" },
];
const NOT_INDEXED = [169, 169, 169];
// matplotlib's viridis at seventeen places
const VIRIDIS = [
  [68, 1, 84], [72, 24, 106], [71, 45, 123], [66, 64, 134], [59, 82, 139], [51, 99, 141], [44, 114, 142],
  [38, 130, 142], [33, 145, 140], [31, 160, 136], [40, 174, 128], [63, 188, 115], [94, 201, 98], [132, 212, 75],
  [173, 220, 48], [216, 226, 25], [253, 231, 37],
];

function viridis(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[i].map((low, c) => low + (place - i) * (VIRIDIS[i + 1][c] - low));
}

// The numbers below which so many per cent of all finite ones lie
function percentiles(values, shares) {
  const finite = values.filter(Number.isFinite).sort();
  if (!finite.length) return shares.map(() => 0);
  return shares.map((share) => finite[Math.round((share / 100) * (finite.length - 1))]);
}

// Colours as the screen has them, one number each
const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
const shades = (color) => Uint32Array.from({ length: 256 }, (_, v) => packed(color(v / 255).map(Math.round)));
const GRAYS = shades((share) => [255 * share, 255 * share, 255 * share]);
const VIRIDIS_SHADES = shades(viridis);

// A picture of the scan; positions that are not indexed, or below the threshold, are grey
function paintLayer(layer, threshold) {
  const [rows, columns] = layer.shape;
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const { colors, numbers, indexed } = layer;
  const scores = threshold > 0 ? layer.scores : null;
  const [low, high] = layer.range ?? (layer.range = colors ? [0, 1] : percentiles(numbers, [1, 99]));
  const table = ["virtual image", "image"].includes(layer.name) ? GRAYS : VIRIDIS_SHADES;
  const scale = 255 / (high > low ? high - low : 1);
  const missing = packed(NOT_INDEXED);
  let hidden = 0;
  for (let i = 0; i < pixels.length; i++) {
    const left = (indexed && !indexed[i]) || (scores && !(scores[i] >= threshold));
    if (left) hidden++;
    if (left || (numbers && !Number.isFinite(numbers[i]))) pixels[i] = missing;
    else if (numbers) pixels[i] = table[Math.min(Math.max(Math.round((numbers[i] - low) * scale), 0), 255)];
    else pixels[i] = (0xff000000 | (colors[3 * i + 2] << 16) | (colors[3 * i + 1] << 8) | colors[3 * i]) >>> 0;
  }
  return { image, hidden };
}

// A pattern: 8 bits are the root of the intensity; percentiles and gamma are chosen here
function paintPattern(pattern, how) {
  const { bytes, shape: [rows, columns] } = pattern;
  const count = new Uint32Array(256);
  for (const value of bytes) count[value]++;
  const level = (share) => {
    let left = (share / 100) * bytes.length;
    for (let v = 0; v < 256; v++) if ((left -= count[v]) < 0) return v;
    return 255;
  };
  const low = (level(how.low) / 255) ** 2;
  const high = Math.max((level(how.high) / 255) ** 2, low + 1e-5);
  const shade = new Uint8Array(256);
  for (let v = 0; v < 256; v++) {
    const share = Math.min(Math.max(((v / 255) ** 2 - low) / (high - low), 0), 1) ** how.gamma;
    shade[v] = Math.round(255 * (how.inverted ? 1 - share : share));
  }
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < bytes.length; i++) pixels[i] = (0xff000000 | (shade[bytes[i]] * 0x010101)) >>> 0;
  if (how.mask && how.mask.length === bytes.length) {
    for (let i = 0; i < bytes.length; i++) if (how.mask[i]) image.data.set([120, 40, 40, 255], 4 * i);
  }
  return image;
}

function blit(canvas, image) {
  const small = new OffscreenCanvas(image.width, image.height);
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function outlined(context, color, width, path) {
  for (const [style, extra] of [["rgba(0,0,0,.75)", 2], [color, 0]]) {
    context.strokeStyle = style;
    context.lineWidth = width + extra;
    context.beginPath();
    path();
    context.stroke();
  }
}

function drawSpot(context, x, y, size, number) {
  const { color, shape } = SPOTS[number % SPOTS.length];
  outlined(context, color, 1.5, () => {
    if (shape === "circle") context.arc(x, y, size, 0, 2 * Math.PI);
    else if (shape === "square") context.rect(x - size, y - size, 2 * size, 2 * size);
    else {
      const s = 1.35 * size;
      [[0, -s], [s, 0], [0, s], [-s, 0]].forEach(([dx, dy], i) => context[i ? "lineTo" : "moveTo"](x + dx, y + dy));
      context.closePath();
    }
  });
}

function drawCross(context, x, y, size) {
  outlined(context, "white", 1.5, () => {
    for (const [dx, dy] of [[size, 0], [0, size]]) {
      context.moveTo(x - dx, y - dy);
      context.lineTo(x + dx, y + dy);
    }
  });
}

function drawScaleBar(context, canvas, width, unit, ratio) {
  const raw = width / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const length = [5, 2, 1].map((m) => m * power).find((each) => each <= raw) ?? power;
  const pixels = (length / width) * canvas.width;
  const [x, y] = [0.04 * canvas.width, 0.96 * canvas.height];
  context.fillStyle = "white";
  context.strokeStyle = "black";
  context.lineWidth = ratio;
  context.fillRect(x, y - 5 * ratio, pixels, 5 * ratio);
  context.strokeRect(x, y - 5 * ratio, pixels, 5 * ratio);
  context.font = `${12 * ratio}px sans-serif`;
  context.lineWidth = 3 * ratio;
  const text = `${Number(length.toPrecision(3))} ${unit}`;
  context.strokeText(text, x, y - 9 * ratio);
  context.fillText(text, x, y - 9 * ratio);
}
