// The centre: confusion matrix, response map, class correlation; one transform for all, shared with the icicle.
const TOP = 92, EDGE = 6, SLANT = Math.PI / 3;
const NOTE = 16;                // CSS pixels at the top for the note on the axes; names end below it
const MOST_STRETCH = 1.3;       // a matrix need not be square to be read, and the window seldom is
const el = id => document.getElementById(id);
const base = el("matrix"), over = el("overlay");
let side = { w: 100, h: 100 };  // CSS pixels of the whole matrix at zoom 1
let cells = null;               // what visibleCells() gave for the last drawing

function fit(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const w = Math.max(1, Math.round(canvas.clientWidth * ratio)), h = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return g;
}

const columnCount = () => state.tab === "response" && current.layer ? current.layer.channels : K;
const toX = c => (c / columnCount() - view.x) * side.w * view.kx;
const toY = r => TOP + (r / K - view.y) * side.h * view.ky;
const cellW = () => side.w * view.kx / columnCount();
const cellH = () => side.h * view.ky / K;

function lut(name) { return meta.luts[name]; }
function paint(name, t) {
  const table = lut(name), i = Math.max(0, Math.min(255, Math.round(t * 255))) * 3;
  return `rgb(${table[i]},${table[i + 1]},${table[i + 2]})`;
}

// Position of a value on the colour scale, 0..1; signed values use both halves of a diverging scale.
function scaled(value, most, signed) {
  const size = Math.abs(value);
  const t = state.colour === "binary" ? 1 : state.colour === "linear" ? size / most : Math.log1p(size) / Math.log1p(most);
  return signed ? 0.5 + Math.sign(value) * (0.08 + 0.42 * t) : 0.12 + 0.88 * t;
}

function drawAll() {
  const w = base.clientWidth, h = base.clientHeight;
  const room = { w: Math.max(50, w - EDGE), h: Math.max(50, h - TOP - EDGE) };
  if (state.tab !== "response") room.w = Math.max(50, room.w - nameLength() * Math.cos(SLANT));  // the last name leans out
  const most = MOST_STRETCH * Math.min(room.w, room.h);
  side = state.tab === "response" ? room : { w: Math.min(room.w, most), h: Math.min(room.h, most) };
  const g = fit(base);
  fit(over);
  g.save();
  g.beginPath();
  g.rect(0, TOP, w, h - TOP);
  g.clip();
  if (state.tab === "confusion") drawConfusion(g);
  else if (state.tab === "response") drawResponse(g);
  else drawCorrelation(g);
  drawBands(g);
  g.restore();
  drawColumnLabels(g);
  drawIcicle();
  drawMinimap();
  drawLegend();
  drawGroupInfo();
  drawSamples();
  syncControls();
}

function drawConfusion(g) {
  cells = visibleCells(current);
  const { row, col, n, keep } = cells;
  let most = 1;
  for (const i of keep) if (Math.abs(n[i]) > most) most = Math.abs(n[i]);
  cells.most = most;
  g.fillStyle = "#fff";
  g.fillRect(toX(0), toY(0), side.w * view.kx, side.h * view.ky);
  outline(g, toX(0), toY(0), side.w * view.kx, side.h * view.ky, "#8a8a94", 1);
  const map = current.signed ? "diverging" : "sequential";
  if (state.aggregate) drawAggregate(g, map, most);
  else if (keep.length > 150000) drawDense(g, map, most);
  else {
    const w = cellW(), h = cellH(), small = Math.min(w, h) < 4;
    const halo = small ? (Math.min(w, h) < 1.5 ? 1.4 : 0.9) : 0;
    const bins = new Map();
    for (const i of keep) {
      const bin = Math.round(scaled(n[i], most, current.signed) * 255);
      if (!bins.has(bin)) bins.set(bin, []);
      bins.get(bin).push(i);
    }
    const strength = bin => current.signed ? Math.abs(bin - 127.5) : bin;
    const right = base.clientWidth, bottom = base.clientHeight;
    for (const bin of [...bins.keys()].sort((a, b) => strength(a) - strength(b))) {  // strong ones on top
      const colour = paint(map, bin / 255);
      g.fillStyle = colour;
      for (const i of bins.get(bin)) {
        const x = toX(place[col[i]]), y = toY(place[row[i]]);
        if (x > right || y > bottom || x + w < 0 || y + h < TOP) continue;
        if (halo) {
          g.globalAlpha = 0.25 + 0.35 * strength(bin) / 255;
          g.fillRect(x - halo, y - halo, w + 2 * halo, h + 2 * halo);
          g.globalAlpha = 1;
        }
        g.fillRect(x, y, Math.max(w, 0.7), Math.max(h, 0.7));
        if (w < 18 || h < 12) continue;
        writeCount(g, n[i], x, y, w, h, bin);
        g.fillStyle = colour;
      }
    }
  }
  drawOutlines(g);
  const count = number => number.toLocaleString("en");
  el("totals").textContent = current.signed ? `${imagesOf(cells.shown)} in the cells shown, ${count(current.total)} in all`
    : state.diagonal ? `${count(cells.shown)} shown of ${count(current.total)} images` : `${count(cells.shown)} shown of ${count(current.errors)} errors, ${count(current.total)} images`;
}

// A number of images; in a difference the change of it, with a sign, and from which run to which.
const withSign = value => (current.signed && value > 0 ? "+" : "") + value;
const imagesOf = value => `${withSign(value)} images` + (current.signed ? ` from ${meta.runs[0].name} to ${meta.runs[1].name}` : "");

// Numbers in the cells, with a sign in a difference, so that nothing hangs on colour alone.
function writeCount(g, value, x, y, w, h, bin) {
  const table = lut(current.signed ? "diverging" : "sequential");
  const dark = 0.3 * table[bin * 3] + 0.59 * table[bin * 3 + 1] + 0.11 * table[bin * 3 + 2] < 130;
  g.fillStyle = dark ? "#fff" : "#000";
  g.font = "10px system-ui, sans-serif";
  g.textAlign = "center";
  g.textBaseline = "middle";
  g.fillText(withSign(value), x + w / 2, y + h / 2, w - 2);
}

function drawDense(g, map, most) {
  const { row, col, n, keep } = cells;
  const image = new ImageData(K, K), table = lut(map);
  for (const i of keep) {
    const at = (place[row[i]] * K + place[col[i]]) * 4, t = Math.round(scaled(n[i], most, current.signed) * 255) * 3;
    image.data[at] = table[t];
    image.data[at + 1] = table[t + 1];
    image.data[at + 2] = table[t + 2];
    image.data[at + 3] = 255;
  }
  stamp(g, image);
}

function stamp(g, image) {
  const sheet = new OffscreenCanvas(image.width, image.height);
  sheet.getContext("2d").putImageData(image, 0, 0);
  g.imageSmoothingEnabled = cellW() < 1 || cellH() < 1;
  g.drawImage(sheet, toX(0), toY(0), side.w * view.kx, side.h * view.ky);
}

function drawAggregate(g, map, most) {
  const blocks = blocksOf(levels[state.level]);
  const span = new Map(blocks.map(b => [b.value, b]));
  const { row, col, n, keep } = cells;
  for (const i of keep) {
    const r = span.get(row[i]), c = span.get(col[i]);
    const x = toX(c.from), y = toY(r.from), w = toX(c.to) - x, h = toY(r.to) - y;
    const t = scaled(n[i], most, current.signed);
    g.fillStyle = paint(map, t);
    g.fillRect(x, y, w, h);
    if (w > 14 && h > 10) writeCount(g, n[i], x, y, w, h, Math.round(t * 255));
  }
}

// Squares around the groups of the chosen level: blocks on the diagonal where neighbours belong together.
function drawOutlines(g) {
  if (state.level >= levels.length - 1 && !state.aggregate) return;
  for (const { from, to } of blocksOf(levels[state.level])) {
    outline(g, toX(from), toY(from), toX(to) - toX(from), toY(to) - toY(from), "#1b1b1f", 1.2);
  }
}

function outline(g, x, y, w, h, colour, width) {
  g.strokeStyle = colour;
  g.lineWidth = width;
  g.strokeRect(x, y, w, h);
}

// Bands along rows and columns of the selected classes: a tint and two solid lines, visible in grey too.
function drawBands(g) {
  const width = state.tab === "response" ? side.w * view.kx : toX(columnCount()) - toX(0);
  for (const { value, from, to } of blocksOf(selected)) {
    if (!value) continue;
    const y = toY(from), h = toY(to) - y;
    band(g, toX(0), y, width, h, true);
    if (state.tab !== "response") band(g, toX(from), toY(0), toX(to) - toX(from), side.h * view.ky, false);
  }
  if (channel() !== null && current.layer.columnPlace) {
    const x = toX(current.layer.columnPlace[channel()]);
    band(g, x, toY(0), Math.max(cellW(), 2), side.h * view.ky, false);
  }
}

function band(g, x, y, w, h, horizontal) {
  g.fillStyle = "rgba(230,120,0,0.13)";
  g.fillRect(x, y, w, h);
  g.fillStyle = "#b34700";
  if (horizontal) { g.fillRect(x, y, w, 1); g.fillRect(x, y + h - 1, w, 1); }
  else { g.fillRect(x, y, 1, h); g.fillRect(x + w - 1, y, 1, h); }
}

function drawColumnLabels(g) {
  g.fillStyle = "#5c5c66";
  g.font = "10px system-ui, sans-serif";
  g.textBaseline = "middle";
  if (state.tab === "response") {
    g.textAlign = "left";
    const name = state.nodes.length ? "channels by selectivity for the selected classes" : "channels in stored order";
    g.fillText(name, 6, TOP - 12);
    return;
  }
  g.textAlign = "left";
  g.fillText(state.tab === "confusion" ? "predicted →   (rows: actual ↓)" : "class × class", 6, NOTE / 2);
  const blocks = cellW() >= 9 ? order.map((c, at) => ({ name: meta.names[c], from: at, to: at + 1 }))
    : blocksOf(levels[Math.min(state.level, levels.length - 2)] ?? levels[0]).map(b => ({ ...b, name: groupName(b) }));
  let last = -99;
  for (const { name, from, to } of blocks) {
    const x = (toX(from) + toX(to)) / 2;
    if (x < 0 || x > base.clientWidth || x - last < 9) continue;
    last = x;
    g.save();
    g.translate(x, TOP - 4);
    g.rotate(-SLANT);
    g.fillText(shortened(g, name, nameLength()), 0, 0);
    g.restore();
  }
}

// How long a name over a column may be: it leans, and ends below the note.
const nameLength = () => (TOP - 4 - NOTE) / Math.sin(SLANT) - 6;

function shortened(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  let end = text.length - 1;
  while (end > 1 && g.measureText(text.slice(0, end) + "…").width > width) end -= 1;
  return text.slice(0, end) + "…";
}

function groupName(block) {
  const classes = order.slice(block.from, block.to);
  let node = leafOf[classes[0]];
  while (node.parent && node.classes.length < classes.length) node = node.parent;
  return node.name;
}

function drawMinimap() {
  const canvas = el("minimap");
  canvas.hidden = view.kx === 1 && view.ky === 1;
  if (canvas.hidden) return;
  const g = canvas.getContext("2d"), s = canvas.width;
  g.fillStyle = "#fff";
  g.fillRect(0, 0, s, s);
  if (state.tab === "confusion" && !state.aggregate && cells) {
    g.fillStyle = "#3a4a7a";
    for (const i of cells.keep) g.fillRect(place[cells.col[i]] / K * s, place[cells.row[i]] / K * s, 1, 1);
  } else if (current.layer?.image) {
    const sheet = new OffscreenCanvas(current.layer.image.width, current.layer.image.height);
    sheet.getContext("2d").putImageData(current.layer.image, 0, 0);
    g.drawImage(sheet, 0, 0, s, s);
  }
  const w = base.clientWidth / (side.w * view.kx), h = (base.clientHeight - TOP) / (side.h * view.ky);
  outline(g, view.x * s, view.y * s, Math.min(1, w) * s, Math.min(1, h) * s, "#b34700", 2);
}

function drawLegend() {
  const canvas = el("legend"), g = canvas.getContext("2d");
  g.clearRect(0, 0, canvas.width, canvas.height);
  const signed = state.tab === "confusion" && current.signed;
  const map = state.tab === "correlation" || signed ? "diverging" : "sequential";
  for (let i = 0; i < 150; i++) {
    const t = i / 149;
    g.fillStyle = paint(map, map === "sequential" && state.tab === "confusion" ? 0.12 + 0.88 * t : t);
    g.fillRect(i, 0, 1, 12);
  }
  g.fillStyle = "#1b1b1f";
  g.font = "10px system-ui, sans-serif";
  const most = cells ? cells.most : 1;
  const texts = state.tab === "correlation" ? ["-1", "0", "1"] : state.tab === "response" ? ["low", "", "high"]
    : signed ? [`-${most} fewer`, "0", `more ${most}`] : [state.colour === "binary" ? "any" : "1", state.colour, `${most}`];
  texts.forEach((text, i) => {
    g.textAlign = ["left", "center", "right"][i];
    g.fillText(text, [0, 75, 150][i], 24);
  });
}
