// Reads what the exporter wrote into this page. Arrays stay compressed until somebody asks for them.
"use strict";
const started = performance.now();
const meta = JSON.parse(document.getElementById("meta").textContent);
const K = meta.names.length;
const kinds = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array, f8: Float64Array };
const cache = new Map();

function bytesOf(text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

// Returns a promise of the typed array stored under `key`; the same array each time.
function array(key) {
  if (!cache.has(key)) cache.set(key, decode(key));
  return cache.get(key);
}

async function decode(key) {
  const info = meta.arrays[key];
  const element = document.getElementById("d-" + key);
  let bytes = bytesOf(element.textContent);
  element.remove();
  if (info.gzip) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  return new kinds[info.dtype](bytes.buffer, 0, bytes.byteLength / kinds[info.dtype].BYTES_PER_ELEMENT);
}

// The tree as a flat list of nodes, parents first; depth 0 is the root, leaves are classes.
const nodes = [];
(function walk(item, depth, parent) {
  const node = { name: item.name, classes: item.classes, depth, parent, children: [], index: nodes.length };
  nodes.push(node);
  if (parent) parent.children.push(node);
  for (const child of item.children) walk(child, depth + 1, node);
})(meta.tree, 0, null);
const leafOf = new Array(K);
for (const node of nodes) if (!node.children.length) leafOf[node.classes[0]] = node;

// The deepest node that holds both classes.
function commonAncestor(a, b) {
  let x = leafOf[a], y = leafOf[b];
  while (x !== y) {
    if (x.depth >= y.depth) x = x.parent; else y = y.parent;
  }
  return x;
}

// Labels of all epochs of runs and layers, oldest first; "end" and the like come after the numbered ones.
const numberOf = label => +(/^epoch (\d+)$/.exec(label)?.[1] ?? Number.MAX_SAFE_INTEGER);
const epochLabels = [...new Set([...meta.runs, ...meta.layers].flatMap(list => list.epochs.map(entry => entry.label)))]
  .sort((a, b) => numberOf(a) - numberOf(b));

// Where a run or layer holds that epoch; if it does not, its nearest earlier one, or else its first.
const entryAt = (list, epoch) => Math.max(0, list.findLastIndex(entry => epochLabels.indexOf(entry.label) <= epoch));

// One confusion matrix as sparse triplets with its row and column sums and the counts by cell.
const matrices = new Map();
async function confusion(run, epoch) {
  const { key, label } = meta.runs[run].epochs[entryAt(meta.runs[run].epochs, epoch)];
  if (!matrices.has(key)) {
    const [row, col, n] = await Promise.all([array(key + "_row"), array(key + "_col"), array(key + "_n")]);
    matrices.set(key, { ...sparse(row, col, n), label });
  }
  return matrices.get(key);
}

function sparse(row, col, n) {
  const actual = new Float64Array(K), predicted = new Float64Array(K), right = new Float64Array(K);
  const cell = new Float64Array(K * K);
  let total = 0, errors = 0;
  for (let i = 0; i < n.length; i++) {
    actual[row[i]] += n[i];
    predicted[col[i]] += n[i];
    cell[row[i] * K + col[i]] += n[i];
    total += n[i];
    if (row[i] === col[i]) right[row[i]] += n[i]; else errors += n[i];
  }
  return { row, col, n, actual, predicted, right, cell, total, errors };
}

// What changed from run 0 to run 1 at an epoch, cell by cell; both hold the same test images.
async function difference(epoch) {
  const id = "diff." + epoch;
  if (!matrices.has(id)) {
    const a = await confusion(0, epoch), b = await confusion(1, epoch);
    const label = a.label === b.label ? a.label : `${meta.runs[1].name} ${b.label}, ${meta.runs[0].name} ${a.label}`;
    const row = [], col = [], n = [], cell = new Float64Array(K * K);
    for (let i = 0; i < K * K; i++) {
      const d = b.cell[i] - a.cell[i];
      if (d === 0) continue;
      cell[i] = d;
      row.push(Math.floor(i / K)); col.push(i % K); n.push(d);
    }
    matrices.set(id, { ...b, label, row, col, n, cell, signed: true });
  }
  return matrices.get(id);
}
