// Response map and class correlation: one layer at one epoch, decoded when it is first looked at.
const layerCache = new Map();

async function layerData(index, epoch) {
  if (!meta.layers.length) return null;
  const layer = meta.layers[index], at = entryAt(layer.epochs, epoch), entry = layer.epochs[at];
  const id = index + "." + at;
  if (!layerCache.has(id)) {
    const data = { layer, channels: layer.channels, label: entry.label, rho: entry.rho };
    if (entry.key) data.values = await array(entry.key);
    data.correlation = entry.corr ? await array(entry.corr) : null;
    if (layer.top) data.top = await array(layer.top);
    if (layer.simg) data.simg = await array(layer.simg);
    layerCache.set(id, data);
  }
  return layerCache.get(id);
}

// Class-rank S: share of the group among the classes that excite a channel most; ties count by their expected share.
function selectivityOf(layer, members) {
  const m = members.reduce((sum, x) => sum + x, 0), out = new Float64Array(layer.channels);
  if (!m || m === K) return out;
  const column = new Uint8Array(K), counts = new Int32Array(256), inside = new Int32Array(256);
  for (let j = 0; j < layer.channels; j++) {
    counts.fill(0);
    inside.fill(0);
    for (let c = 0; c < K; c++) {
      column[c] = layer.values[c * layer.channels + j];
      counts[column[c]]++;
      if (members[c]) inside[column[c]]++;
    }
    let left = m, hits = 0;
    for (let v = 255; v >= 0 && left > 0; v--) {
      if (!counts[v]) continue;
      if (counts[v] <= left) { hits += inside[v]; left -= counts[v]; }
      else { hits += inside[v] * left / counts[v]; left = 0; }
    }
    out[j] = hits / m;
  }
  return out;
}

// Mean of the best class-rank S of independent channels whose ranks mean nothing (`random_best` in selectivity.py).
function bestByChance(size, channels) {
  const logChoose = (n, k) => { let sum = 0; for (let i = 1; i <= k; i++) sum += Math.log((n - k + i) / i); return sum; };
  let below = 0, before = 0, mean = 0;
  for (let hits = Math.max(0, 2 * size - K); hits <= size; hits++) {
    below += Math.exp(logChoose(size, hits) + logChoose(K - size, size - hits) - logChoose(K, size));
    const allBelow = Math.min(1, below) ** channels;
    mean += hits * (allBelow - before);
    before = allBelow;
  }
  return mean / size;
}

// Columns by relevance to the selected classes: selectivity, then the mean difference inside against outside.
function orderColumns(layer) {
  const key = selection().join(",");
  if (layer.sortedFor === key) return;
  layer.sortedFor = key;
  const ids = Array.from({ length: layer.channels }, (_, i) => i);
  layer.share = key ? selectivityOf(layer, selected) : null;
  if (layer.share) {
    const size = selection().length;
    const gap = ids.map(j => {
      let inside = 0, all = 0;
      for (let c = 0; c < K; c++) {
        const v = layer.values[c * layer.channels + j];
        all += v;
        if (selected[c]) inside += v;
      }
      return inside / size - (all - inside) / (K - size || 1);
    });
    ids.sort((a, b) => layer.share[b] - layer.share[a] || gap[b] - gap[a] || a - b);
  }
  layer.columns = ids;
  layer.columnPlace = new Int32Array(layer.channels);
  ids.forEach((j, at) => { layer.columnPlace[j] = at; });
}

function drawResponse(g) {
  const layer = current.layer;
  if (!layer?.values) return note(g, "this file holds no response maps");
  orderColumns(layer);
  const M = layer.channels, image = new ImageData(M, K), table = lut("sequential"), pixels = image.data;
  for (let at = 0; at < K; at++) {
    const from = order[at] * M;
    for (let j = 0; j < M; j++) {
      const v = layer.values[from + layer.columns[j]] * 3, p = (at * M + j) * 4;
      pixels[p] = table[v];
      pixels[p + 1] = table[v + 1];
      pixels[p + 2] = table[v + 2];
      pixels[p + 3] = 255;
    }
  }
  layer.image = image;
  stamp(g, image);
  for (const { from } of blocksOf(levels[state.level]).slice(1)) {
    if (state.level < levels.length - 1) { g.fillStyle = "#fff"; g.fillRect(toX(0), toY(from) - 0.6, side.w * view.kx, 1.2); }
  }
  el("totals").textContent = `${layer.layer.name}, ${M} channels, ${layer.label}${treeNote(layer)}` +
    (layer.share ? `; best channel ${layer.columns[0]}: class-rank S = ${layer.share[layer.columns[0]].toFixed(2)}, ` +
      `by chance ${bestByChance(selection().length, M).toFixed(2)}` : "");
}

function drawCorrelation(g) {
  const layer = current.layer;
  if (!layer?.correlation) return note(g, "this file holds no class correlations");
  const image = new ImageData(K, K), table = lut("diverging"), upper = layer.correlation;
  for (let r = 0; r < K; r++) for (let c = 0; c < K; c++) {
    const v = correlationOf(upper, order[r], order[c]) * 3, p = (r * K + c) * 4;
    image.data[p] = table[v];
    image.data[p + 1] = table[v + 1];
    image.data[p + 2] = table[v + 2];
    image.data[p + 3] = 255;
  }
  layer.image = image;
  stamp(g, image);
  drawOutlines(g);
  el("totals").textContent = `${layer.layer.name}, ${layer.label}${treeNote(layer)}` +
    (Number.isFinite(layer.rho) ? `; Spearman with the tree ${layer.rho.toFixed(2)}` : "");
}

// Layers are not kept at every epoch; the numbers in the tree can be of another one.
const treeNote = layer => current.treeEpoch === layer.label ? "" : ` (tree: confusions of ${current.treeEpoch})`;

// Stored as bytes, -1..1 on 0..255, the upper triangle row by row without the diagonal.
function correlationOf(upper, a, b) {
  if (a === b) return 255;
  if (a > b) [a, b] = [b, a];
  return upper[a * K - a * (a + 1) / 2 + b - a - 1];
}

function note(g, text) {
  g.fillStyle = "#5c5c66";
  g.font = "13px system-ui, sans-serif";
  g.fillText(text, 20, TOP + 30);
  el("totals").textContent = text;
}

// I7: what a channel does: per level the group for which it exceeds chance most, and responses inside against outside.
function drawChannelInfo() {
  const box = el("channelinfo"), layer = current?.layer;
  box.replaceChildren();
  const j = channel();
  if (j === null || !layer.values) return;
  box.append(make("h2", `channel ${j} of ${layer.layer.name}`));
  const table = make("table");
  const images = layer.simg && layer.layer.null, measure = images ? "S" : "class-rank S";
  table.append(rowOf("th", "level", "group", measure, `best channel by chance (${images ? "95 %" : "mean"})`));
  let row = 0;  // of simg and its null: the groups of all levels, one after the other
  levels.slice(0, -1).forEach((level, at) => {
    let shown = null;
    meta.levels[at].groups.forEach((name, group) => {
      const members = Uint8Array.from(level, x => x === group ? 1 : 0);
      const share = images ? layer.simg[row * layer.channels + j] / 255 : selectivityOfColumn(layer, j, members);
      const chance = images ? layer.layer.null[row] : bestByChance(members.reduce((sum, x) => sum + x, 0), layer.channels);
      if (!shown || share - chance > shown.share - shown.chance) shown = { name, share, chance };
      row += 1;
    });
    table.append(rowOf("td", meta.levels[at].name, shown.name, shown.share.toFixed(2), shown.chance.toFixed(2)));
  });
  box.append(table, make("p", (images ? "S: share of the group among as many strongest images as it has."
    : "Class-rank S: share of the group among as many strongest classes as it has.") +
    " By chance: what the best of all channels of this layer reaches for other groups of that size."));
  const fixed = [...(images ? ["S"] : []), ...(layer.top ? ["the strongest images"] : [])].join(" and ");
  if (fixed) box.append(make("p", `Always of ${layer.layer.epochs.at(-1).label}, the last one kept: ${fixed}.`));
  if (selection().length) box.append(make("p", "mean response of classes, selected (solid) and others (hatched)"), histogram(layer, j));
}

function selectivityOfColumn(layer, j, members) {
  const one = { channels: 1, values: Uint8Array.from({ length: K }, (_, c) => layer.values[c * layer.channels + j]) };
  return selectivityOf(one, members)[0];
}

function histogram(layer, j) {
  const canvas = make("canvas");
  canvas.width = 230;
  canvas.height = 60;
  const inside = new Float64Array(16), outside = new Float64Array(16);
  for (let c = 0; c < K; c++) (selected[c] ? inside : outside)[layer.values[c * layer.channels + j] >> 4]++;
  const g = canvas.getContext("2d"), share = list => { const sum = list.reduce((a, b) => a + b, 0) || 1; return list.map(v => v / sum); };
  const a = share(inside), b = share(outside), most = Math.max(...a, ...b);
  for (let i = 0; i < 16; i++) {
    g.fillStyle = "#b34700";
    g.fillRect(i * 14, 60 - 58 * a[i] / most, 6, 58 * a[i] / most);
    g.strokeStyle = "#1b1b1f";
    const h = 58 * b[i] / most;
    if (h > 0) g.strokeRect(i * 14 + 6.5, 60 - h, 5, h);
    for (let y = 60 - h + 3; y < 60; y += 4) { g.beginPath(); g.moveTo(i * 14 + 6.5, y); g.lineTo(i * 14 + 11.5, y); g.stroke(); }
  }
  return canvas;
}
