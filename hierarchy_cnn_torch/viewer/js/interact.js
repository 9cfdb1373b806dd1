// Mouse, keyboard and files.
let cursor = null;   // [row place, column place] of the keyboard or mouse
let drag = null;
let playing = null;
let hoverMs = 0;

function say(text) { el("status").textContent = text; }

function positionOf(event, canvas) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

const columnAt = x => Math.floor((x / (side.w * view.kx) + view.x) * columnCount());
const rowAt = y => Math.floor(((y - TOP) / (side.h * view.ky) + view.y) * K);

function cellAt(x, y) {
  const c = columnAt(x), r = rowAt(y);
  return y >= TOP && r >= 0 && r < K && c >= 0 && c < columnCount() ? [r, c] : null;
}

// I2: what is under the cursor.
function describe(r, c) {
  const a = order[r];
  if (state.tab === "response") {
    const layer = current.layer;
    if (!layer?.values) return "";
    const j = layer.columns[c], v = layer.values[a * layer.channels + j] / 255;
    return `${meta.names[a]} × channel ${j}: ${percent(v)} of the channel's range` + (layer.share ? `, class-rank S = ${layer.share[j].toFixed(2)}` : "");
  }
  const b = order[c];
  const shared = a === b ? "same class" : `lowest common group: ${commonAncestor(a, b).name}`;
  if (state.tab === "correlation") {
    const layer = current.layer;
    const v = layer?.correlation ? (correlationOf(layer.correlation, a, b) / 127.5 - 1).toFixed(2) : "–";
    return `${meta.names[a]} × ${meta.names[b]}: correlation ${v}; ${shared}`;
  }
  const n = current.cell[a * K + b];
  const share = current.signed ? "" : ` (${percent(n / current.actual[a])} of the row)`;
  return `actual ${meta.names[a]}, predicted ${meta.names[b]}: ${withSign(n)}${share}; ${shared}`;
}

function drawCursor() {
  const t = performance.now(), g = fit(over);
  if (drag?.box) {
    const [x0, y0, x1, y1] = drag.box;
    g.setLineDash([5, 3]);
    outline(g, Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0), "#b34700", 2);
  }
  if (state.cells && state.tab === "confusion" && state.cells.length < 4000) {
    for (const [a, b] of state.cells) outline(g, toX(place[b]) - 1, toY(place[a]) - 1, Math.max(cellW(), 3) + 2, Math.max(cellH(), 3) + 2, "#b34700", 1.5);
  }
  if (cursor) {
    const [r, c] = cursor, x = toX(c), y = toY(r);
    g.fillStyle = "rgba(0,0,0,0.10)";
    g.fillRect(0, y, side.w * view.kx, Math.max(cellH(), 1));
    g.fillRect(x, TOP, Math.max(cellW(), 1), side.h * view.ky);
    outline(g, x - 1, y - 1, Math.max(cellW(), 2) + 2, Math.max(cellH(), 2) + 2, "#000", 1.5);
    g.font = "bold 11px system-ui, sans-serif";
    tag(g, meta.names[order[r]], 4, Math.max(TOP + 8, y - 8));
    if (state.tab !== "response") tag(g, meta.names[order[c]], x + 6, TOP - 8);
    say(describe(r, c));
  }
  hoverMs = performance.now() - t;
}

function tag(g, text, x, y) {
  const w = g.measureText(text).width + 8;
  const left = Math.max(0, Math.min(x, base.clientWidth - w));
  g.fillStyle = "#1b1b1f";
  g.fillRect(left, y - 8, w, 16);
  g.fillStyle = "#fff";
  g.textBaseline = "middle";
  g.textAlign = "left";
  g.fillText(text, left + 4, y);
}

// I3: the cells that the filters show inside a rectangle of places (both ends included).
function pickCells(r0, c0, r1, c1, add) {
  const found = new Map((add && state.cells || []).map(p => [p.join(), p]));
  const level = levels[state.level], { row, col, keep } = visibleCells(current), blocks = new Set();
  if (state.aggregate) {  // a cell that is drawn stands for those of a pair of groups
    const shown = new Set(keep.map(i => row[i] + "," + col[i]));
    for (let r = r0; r <= r1; r++) for (let c = c0; c <= c1; c++) {
      const block = level[order[r]] + "," + level[order[c]];
      if (shown.has(block)) blocks.add(block);
    }
  }
  const isInside = (a, b) => state.aggregate ? blocks.has(level[a] + "," + level[b])
    : place[a] >= r0 && place[a] <= r1 && place[b] >= c0 && place[b] <= c1;
  for (const i of state.aggregate ? current.n.keys() : keep) {
    const [a, b] = state.aggregate ? [current.row[i], current.col[i]] : [row[i], col[i]];
    if (state.aggregate && a === b && !state.diagonal) continue;
    if (isInside(a, b)) found.set(a + "," + b, [a, b]);
  }
  limit = 120;
  update({ cells: found.size ? [...found.values()] : null });
}

function pickAt(r, c, add) {
  limit = 120;
  if (state.tab === "response") update({ channel: current.layer.columns[c] });
  else pickCells(r, c, r, c, add);
}

function clearAll() { picked.clear(); update({ nodes: [], cells: null, channel: null }); }

// I9: zoom about a point of the canvas, keep the matrix on the screen.
function zoom(factor, x, y) {
  const fx = x / (side.w * view.kx) + view.x, fy = (y - TOP) / (side.h * view.ky) + view.y;
  view.kx = Math.min(Math.max(1, view.kx * factor), Math.max(1, columnCount() / 4));
  view.ky = Math.min(Math.max(1, view.ky * factor), Math.max(1, K / 4));
  view.x = fx - x / (side.w * view.kx);
  view.y = fy - (y - TOP) / (side.h * view.ky);
  clampView();
  update();
}

function pan(dx, dy) {
  view.x += dx / (side.w * view.kx);
  view.y += dy / (side.h * view.ky);
  clampView();
  update();
}

function clampView() {
  const w = base.clientWidth / (side.w * view.kx), h = (base.clientHeight - TOP) / (side.h * view.ky);
  view.x = Math.max(0, Math.min(view.x, Math.max(0, 1 - w)));
  view.y = Math.max(0, Math.min(view.y, Math.max(0, 1 - h)));
}

function findClass(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return;
  let c = meta.names.findIndex(name => name.toLowerCase() === wanted);
  if (c < 0) c = meta.names.findIndex(name => name.toLowerCase().includes(wanted));
  if (c < 0) return say(`no class name holds "${text}"`);
  if (view.ky > 1) {
    view.y = place[c] / K - 0.5 / view.ky;
    if (state.tab !== "response") view.x = place[c] / K - 0.5 / view.kx;
    clampView();
  }
  update({ nodes: [leafOf[c].index], cells: null }).then(() => say(describeNode(leafOf[c])));
}

function bindMatrix() {
  over.addEventListener("pointermove", event => {
    const [x, y] = positionOf(event, over);
    if (drag?.pan) {
      pan(drag.x - x, drag.y - y);
      [drag.x, drag.y] = [x, y];
      return;
    }
    if (drag) drag.box = [drag.x, drag.y, x, y];
    const at = cellAt(x, y);
    if (at) { cursor = at; drawCursor(); }
  });
  over.addEventListener("pointerdown", event => {
    const [x, y] = positionOf(event, over);
    over.focus();
    over.setPointerCapture(event.pointerId);
    drag = { x, y, pan: event.button === 1 || event.altKey };
  });
  over.addEventListener("pointerup", event => {
    const [x, y] = positionOf(event, over), was = drag;
    drag = null;
    if (!was || was.pan) return;
    const clampRow = v => Math.max(0, Math.min(K - 1, v)), clampColumn = v => Math.max(0, Math.min(columnCount() - 1, v));
    if (Math.hypot(x - was.x, y - was.y) < 4) {
      const at = cellAt(x, y);
      if (at) pickAt(at[0], at[1], event.shiftKey);
    } else if (state.tab === "confusion") {
      const rows = [rowAt(y), rowAt(was.y)].map(clampRow).sort((a, b) => a - b);
      const columns = [columnAt(x), columnAt(was.x)].map(clampColumn).sort((a, b) => a - b);
      pickCells(rows[0], columns[0], rows[1], columns[1], event.shiftKey);
    }
  });
  over.addEventListener("pointerleave", () => { if (!drag) { cursor = null; drawCursor(); } });
  over.addEventListener("wheel", event => {
    event.preventDefault();
    const [x, y] = positionOf(event, over);
    if (event.shiftKey) pan(event.deltaY + event.deltaX, 0);
    else zoom(Math.exp(-event.deltaY / 400), x, Math.max(y, TOP));
  }, { passive: false });
  over.addEventListener("keydown", event => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key in steps) {
      event.preventDefault();
      const [dr, dc] = steps[event.key];
      if (event.shiftKey) return pan(dc * 60, dr * 60);
      const [r, c] = cursor ?? [0, 0];
      cursor = cursor ? [Math.max(0, Math.min(K - 1, r + dr)), Math.max(0, Math.min(columnCount() - 1, c + dc))] : [0, 0];
      const x = toX(cursor[1]), y = toY(cursor[0]);
      if (x < 0 || x > base.clientWidth || y < TOP || y > base.clientHeight) pan(x < 0 ? x : Math.max(0, x + 40 - base.clientWidth), y < TOP ? y - TOP : Math.max(0, y + 40 - base.clientHeight));
      drawCursor();
    } else if (event.key === "Enter" && cursor) pickAt(cursor[0], cursor[1], event.shiftKey);
  });
  el("minimap").addEventListener("pointerdown", event => {
    const [x, y] = positionOf(event, el("minimap"));
    view.x = x / 110 - 0.5 / view.kx;
    view.y = y / 110 - 0.5 / view.ky;
    clampView();
    update();
  });
}

function bindTree() {
  tree.addEventListener("click", event => {
    const node = nodeAt(...positionOf(event, tree));
    if (node) { focusNode = node.index; pickNode(node, event.shiftKey); }
  });
  tree.addEventListener("mousemove", event => {
    const node = nodeAt(...positionOf(event, tree));
    if (node) say(describeNode(node));
  });
  tree.addEventListener("keydown", event => {
    if (event.key.startsWith("Arrow")) { event.preventDefault(); moveFocus(event.key); }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pickNode(nodes[focusNode], event.shiftKey); }
  });
  tree.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), 0, Math.max(positionOf(event, tree)[1], TOP));
  }, { passive: false });
  tree.addEventListener("focus", drawIcicle);
  tree.addEventListener("blur", drawIcicle);
}

function step(key, by, end) { update({ [key]: Math.max(0, Math.min(end - 1, state[key] + by)), cells: key === "epoch" ? null : state.cells }); }

function play() {
  if (playing) { clearInterval(playing); playing = null; el("play").textContent = "▶"; return; }
  el("play").textContent = "❚❚";
  playing = setInterval(() => update({ epoch: (state.epoch + 1) % epochLabels.length }), 700);
}

function bindKeys() {
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && el("helpbox").open) return;  // it closes the dialog
    if (event.key === "Escape") { event.target.blur?.(); return clearAll(); }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const orders = ["tree", "id", "popularity", "recall"], tabs = ["confusion", "response", "correlation"];
    const keys = {
      "/": () => el("search").focus(), "?": help, "+": () => zoom(1.5, base.clientWidth / 2, base.clientHeight / 2),
      "-": () => zoom(1 / 1.5, base.clientWidth / 2, base.clientHeight / 2), "0": () => { Object.assign(view, { x: 0, y: 0, kx: 1, ky: 1 }); update(); },
      "[": () => step("level", -1, levels.length), "]": () => step("level", 1, levels.length), ",": () => step("epoch", -1, epochLabels.length),
      ".": () => step("epoch", 1, epochLabels.length), "p": play, "o": () => update({ order: orders[(orders.indexOf(state.order) + 1) % 4] }),
      "a": () => update({ aggregate: !state.aggregate }), "d": () => update({ diagonal: !state.diagonal }),
    };
    if (["1", "2", "3"].includes(event.key)) { if (event.key === "1" || meta.layers.length) update({ tab: tabs[+event.key - 1] }); return; }
    if (event.key in keys) { event.preventDefault(); keys[event.key](); }
  });
}

function help() {
  const rows = [["click in the tree", "select a group; Shift adds; Esc clears"], ["click or drag in the matrix", "images of those cells; Shift adds"],
    ["wheel, + −, 0", "zoom in, out, whole view"], ["Alt or middle drag, Shift+wheel, Shift+arrows", "move the view"],
    ["Tab, then arrows and Enter", "walk through tree or matrix without a mouse"], ["1 2 3", "confusion, responses, class correlation"],
    ["[ ]", "coarser, finer level"], [", . p", "epoch back, on, play"], ["o a d", "next order, aggregate, diagonal"], ["/", "find a class"], ["?", "this list"]];
  const table = make("table"), close = make("button", "close");
  table.append(...rows.map(r => rowOf("td", ...r)));
  close.onclick = () => el("helpbox").close();
  el("helpbox").replaceChildren(make("h1", "Keys and mouse"), table, make("p", meta.about), close);
  el("helpbox").showModal();
}

// I10: image ids for relabelling, and the picture of the view.
function selectionFile() {
  const marked = shownSamples.filter(i => picked.has(sample.id[i]));
  const rows = marked.length ? marked : shownSamples;
  return {
    format: "blocks-selection-1", source: meta.title, epoch: meta.runs[0].epochs.at(-1).label,
    classes: selection().map(c => meta.names[c]), cells: (state.cells ?? []).map(([r, c]) => [meta.names[r], meta.names[c]]),
    images: rows.map(i => ({ id: sample.id[i], actual: meta.names[sample.actual[i]], predicted: meta.names[sample.predicted[i]],
      confidence: +(sample.confidence[i] / 255).toFixed(3), s1: +(sample.s1[i] / 255).toFixed(3), relabel: null })),
  };
}

function save(blob, name) {
  const link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 5000);
}

function pngOfView() {
  const ratio = window.devicePixelRatio || 1, sheet = make("canvas");
  sheet.width = tree.width + base.width;
  sheet.height = base.height;
  const g = sheet.getContext("2d");
  g.fillStyle = "#fff";
  g.fillRect(0, 0, sheet.width, sheet.height);
  g.drawImage(tree, 0, 0);
  g.drawImage(base, tree.width, 0);
  g.fillStyle = "#1b1b1f";
  g.font = `${11 * ratio}px system-ui, sans-serif`;
  g.fillText(meta.title, 4 * ratio, 12 * ratio);
  return new Promise(resolve => sheet.toBlob(resolve, "image/png"));
}
