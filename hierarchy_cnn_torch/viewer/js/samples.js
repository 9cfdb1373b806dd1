// The right-hand side: numbers of the selection, and the images behind it.
let sample = null;       // columns of the sample table, decoded once
let shownSamples = [];   // rows of the table that are listed now
const picked = new Set();
let limit = 120;

const make = (tag, text) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; return e; };
const percent = v => Number.isFinite(v) ? (100 * v).toFixed(1) + " %" : "–";
const rowOf = (tag, ...texts) => { const tr = make("tr"); tr.append(...texts.map(t => make(tag, t))); return tr; };

async function loadSamples() {
  if (!meta.samples) return;
  const names = ["id", "actual", "predicted", "confidence", "s1", "thumb"];
  const columns = await Promise.all(names.map(name => array("sample_" + name)));
  sample = Object.fromEntries(names.map((name, i) => [name, columns[i]]));
  sample.row = new Map();
  sample.id.forEach((id, i) => sample.row.set(id, i));
}

// Rows of the sample table for the present selection: cells first, then a channel's top images, then classes.
function chosenSamples() {
  if (!sample) return [];
  if (channel() !== null && current.layer.top) {
    const { top, channels } = current.layer, out = [];
    for (let k = 0; k < top.length / channels; k++) {
      const row = sample.row.get(top[k * channels + channel()]);
      if (row !== undefined) out.push(row);
    }
    return out;
  }
  const out = [];
  if (state.cells) {
    const wanted = new Set(state.cells.map(([r, c]) => r * K + c));
    for (let i = 0; i < sample.id.length; i++) if (wanted.has(sample.actual[i] * K + sample.predicted[i])) out.push(i);
  } else if (selection().length) {
    for (let i = 0; i < sample.id.length; i++) if (selected[sample.actual[i]] && passes(i)) out.push(i);
  }
  const by = state.sortBy === "s1" ? sample.s1 : sample.confidence;
  return out.sort((a, b) => by[b] - by[a] || sample.id[a] - sample.id[b]);
}

// A group's samples obey the same error filter as the matrix; correct exemplars count as "all".
function passes(i) {
  const level = levels[state.level], a = sample.actual[i], p = sample.predicted[i];
  if (state.scope === "all") return true;
  return a !== p && (level[a] === level[p]) === (state.scope === "inside");
}

function drawSamples() {
  const box = el("samples");
  box.replaceChildren();
  shownSamples = chosenSamples();
  drawChannelInfo();
  el("samplebar").hidden = !sample || !isAsked();
  if (!isAsked()) return;
  if (!sample) {
    if (state.cells || selection().length) box.append(make("p", "This file holds no image list (export it with --scores, or from a run)."));
    return;
  }
  const fixed = channel() !== null && current.layer.top;
  if (!shownSamples.length) {
    const where = state.cells ? "in these cells" : "of this selection";
    box.append(make("p", state.cells || selection().length ? `None of the listed images (${meta.samples.note}) is ${where}.`
      : "This file does not list the strongest images of this channel."));
    return;
  }
  const groups = new Map();
  for (const i of shownSamples.slice(0, limit)) {
    const name = fixed ? "strongest images" : meta.names[state.groupBy === "actual" ? sample.actual[i] : sample.predicted[i]];
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(i);
  }
  for (const [name, rows] of groups) {
    box.append(make("h2", fixed ? name : `${state.groupBy}: ${name} (${rows.length})`));
    const tiles = make("div");
    tiles.className = "tiles";
    tiles.append(...rows.map(tile));
    box.append(tiles);
  }
  if (shownSamples.length > limit) {
    const more = make("button", `show more (${shownSamples.length - limit} left)`);
    more.onclick = () => { limit += 400; drawSamples(); };
    box.append(more);
  }
  box.append(make("p", `${shownSamples.length} images (${meta.samples.note}). Click marks an image for the selection file.`));
}

function tile(i) {
  const button = make("button");
  button.className = picked.has(sample.id[i]) ? "tile picked" : "tile";
  const text = `image ${sample.id[i]}: ${meta.names[sample.actual[i]]} → ${meta.names[sample.predicted[i]]}, ` +
    `confidence ${percent(sample.confidence[i] / 255)}, s1 ${(sample.s1[i] / 255).toFixed(2)}`;
  button.title = text;
  button.setAttribute("aria-label", text);
  const at = sample.thumb[i], { sprites, per, across, tile: size } = meta.samples;
  if (sprites.length && at !== 0xffffffff) {
    const inside = at % per, scale = 40 / size;
    button.style.backgroundImage = `url("${spriteUrl(Math.floor(at / per))}")`;
    button.style.backgroundSize = `${across * 40}px auto`;
    button.style.backgroundPosition = `${-(inside % across) * size * scale}px ${-Math.floor(inside / across) * size * scale}px`;
  } else button.textContent = sample.id[i];
  button.onclick = () => {
    if (!picked.delete(sample.id[i])) picked.add(sample.id[i]);
    button.classList.toggle("picked");
    say(text);
  };
  button.onfocus = button.onmouseenter = () => say(text);
  return button;
}

const spriteUrls = new Map();
function spriteUrl(index) {
  const sprite = meta.samples.sprites[index];
  if (sprite.file) return sprite.file;
  if (!spriteUrls.has(index)) {
    const bytes = bytesOf(document.getElementById("d-" + sprite.key).textContent);
    spriteUrls.set(index, URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })));
  }
  return spriteUrls.get(index);
}

function drawGroupInfo() {
  const box = el("groupinfo"), classes = selection();
  box.replaceChildren();
  if (state.cells) {
    let count = 0;
    for (const [r, c] of state.cells) count += current.cell[r * K + c];
    box.append(make("h2", `${state.cells.length} cells, ${imagesOf(count)}`));
  }
  if (!isAsked()) explain(box);
  if (!classes.length) return;
  const f = groupMeasures(classes, current);
  const names = state.nodes.map(i => nodes[i].name);
  box.append(make("h2", `${names.slice(0, 4).join("; ")}${names.length > 4 ? " …" : ""} (${classes.length} classes)`));
  const table = make("table");
  table.append(rowOf("th", "recall", "precision", "F1", "popularity"));
  table.append(rowOf("td", percent(f.recall), percent(f.precision), percent(f.f1), Number.isFinite(f.popularity) ? f.popularity.toFixed(2) : "–"));
  box.append(table);
}

// Whether something is selected; if not, the panel says what the view shows.
const isAsked = () => Boolean(state.cells || selection().length || channel() !== null);

const READING = {
  confusion: "Rows are actual classes, columns predicted ones, both in the order of the tree on the left. The darker a cell, the " +
    "more errors it has. Squares are the groups of the chosen level: in a network that follows the tree errors stay inside them.",
  response: "Rows are classes in the order of the tree, columns the channels of a layer. The darker a cell, the stronger the " +
    "channel responds to the class. Select a group: channels that respond to it more than to others move to the left.",
  correlation: "How alike a layer responds to two classes: 1 is alike, -1 opposite. Blocks along the diagonal are groups of " +
    "classes that the layer takes for similar.",
};

function explain(box) {
  box.append(make("h2", "What this shows"), make("p", READING[state.tab]));
  if (state.tab === "confusion") {
    if (!current.signed) box.append(make("h2", "Errors that stay inside their group"), insideTable());
    if (!state.aggregate) box.append(make("h2", current.signed ? "Largest changes" : "Most frequent confusions"), ...pairList());
  }
  const what = state.tab === "response" ? "a channel for its strongest images" : "a cell, or drag a rectangle";
  box.append(make("p", `Click a group in the tree, or ${what}: numbers and images appear here. ? lists keys and mouse.`));
}

// Share of the errors whose wrong class is in the right group, and what it were if errors fell on any wrong class alike.
function insideTable() {
  const table = make("table");
  table.append(rowOf("th", "level", "groups", "inside", "by chance"));
  meta.levels.forEach(({ name, groups }, at) => {
    const level = levels[at], size = new Float64Array(groups.length);
    level.forEach(group => { size[group] += 1; });
    let errors = 0, inside = 0, chance = 0;
    for (let i = 0; i < current.n.length; i++) {
      const a = current.row[i], b = current.col[i], n = current.n[i];
      if (a === b) continue;
      errors += n;
      chance += n * (size[level[a]] - 1) / (K - 1);
      if (level[a] === level[b]) inside += n;
    }
    table.append(rowOf("td", name, String(groups.length), percent(inside / errors), percent(chance / errors)));
  });
  return table;
}

function pairList() {
  const { row, col, n, keep } = cells;
  const order = keep.filter(i => row[i] !== col[i]).sort((i, j) => Math.abs(n[j]) - Math.abs(n[i]) || row[i] - row[j] || col[i] - col[j]);
  return order.slice(0, 14).map(i => {
    const button = make("button");
    button.className = "pair";
    button.append(make("span", `${meta.names[row[i]]} → ${meta.names[col[i]]}`), make("span", withSign(n[i])));
    button.onclick = () => update({ cells: [[row[i], col[i]]], nodes: [] });
    return button;
  });
}
