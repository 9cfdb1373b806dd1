// What is shown, and everything that follows from it. Every change goes through update(), which redraws all views.
const levels = [];  // group label of each class, coarsest first; the last entry is the classes themselves
const state = {
  tab: "confusion", order: "tree", level: 0, aggregate: false, run: "0", minCount: 1, diagonal: false,
  scope: "all", sign: "both", colour: "log", epoch: 0, layer: 0, nodeColour: "recall", nodes: [],
  cells: null, channel: null, groupBy: "actual", sortBy: "confidence",
};
const view = { x: 0, y: 0, kx: 1, ky: 1 };  // fractions of the whole matrix that lie left/above, and the zoom
let treeOrder, order, place, current, selected = new Uint8Array(K);

function orderOf(kind, matrix) {
  if (kind === "tree") return treeOrder;
  const ids = Array.from({ length: K }, (_, i) => i);
  if (kind === "id") return ids;
  const popularity = i => matrix.actual[i] ? matrix.predicted[i] / matrix.actual[i] : 0;
  if (kind === "popularity") return ids.sort((a, b) => popularity(b) - popularity(a) || a - b);
  const recall = i => matrix.actual[i] ? matrix.right[i] / matrix.actual[i] : 0;
  const first = new Map();
  treeOrder.forEach((c, at) => { if (!first.has(leafOf[c].parent)) first.set(leafOf[c].parent, at); });
  return ids.sort((a, b) => first.get(leafOf[a].parent) - first.get(leafOf[b].parent) || recall(b) - recall(a) || a - b);
}

// Recall, precision, F1 and popularity of a set of classes taken as one label.
function groupMeasures(classes, matrix) {
  const inside = new Uint8Array(K);
  for (const c of classes) inside[c] = 1;
  let right = 0, actual = 0, predicted = 0;
  for (let i = 0; i < K; i++) if (inside[i]) { actual += matrix.actual[i]; predicted += matrix.predicted[i]; }
  for (const a of classes) for (const b of classes) right += matrix.count(a, b);
  return measuresOf(right, actual, predicted);
}

function measuresOf(right, actual, predicted) {
  return { right, actual, predicted, recall: right / actual, precision: right / predicted,
           f1: 2 * right / (actual + predicted), popularity: predicted / actual };
}

// Measures of every tree node at once: each cell counts for the common ancestors of its two classes.
function nodeMeasures(matrix) {
  const right = new Float64Array(nodes.length);
  for (let i = 0; i < matrix.n.length; i++) right[commonAncestor(matrix.row[i], matrix.col[i]).index] += matrix.n[i];
  for (let i = nodes.length - 1; i > 0; i--) right[nodes[i].parent.index] += right[i];
  return nodes.map((node, i) => {
    let actual = 0, predicted = 0;
    for (const c of node.classes) { actual += matrix.actual[c]; predicted += matrix.predicted[c]; }
    return measuresOf(right[i], actual, predicted);
  });
}

// The cells that pass the filters. Aggregated, cells are groups of the level instead of classes; "diagonal" means classes.
function visibleCells(matrix) {
  const level = levels[state.level];
  let { row, col, n } = matrix;
  const keep = [];
  let shown = 0;
  if (state.aggregate) ({ row, col, n } = aggregated(matrix, level));
  for (let i = 0; i < n.length; i++) {
    const value = n[i];
    if (!value || (Math.abs(value) < state.minCount)) continue;
    if (!state.aggregate && !state.diagonal && row[i] === col[i]) continue;
    const same = state.aggregate ? row[i] === col[i] : level[row[i]] === level[col[i]];
    if (state.scope === "inside" && !same) continue;
    if (state.scope === "across" && same) continue;
    if (matrix.signed && (state.sign === "more" ? value < 0 : state.sign === "fewer" && value > 0)) continue;
    keep.push(i);
    shown += value;
  }
  return { row, col, n, keep, shown };
}

function aggregated(matrix, level) {
  const groups = Math.max(...level) + 1, sums = new Float64Array(groups * groups);
  for (let i = 0; i < matrix.n.length; i++) {
    if (state.diagonal || matrix.row[i] !== matrix.col[i]) sums[level[matrix.row[i]] * groups + level[matrix.col[i]]] += matrix.n[i];
  }
  const row = [], col = [], n = [];
  sums.forEach((value, i) => { if (value) { row.push(Math.floor(i / groups)); col.push(i % groups); n.push(value); } });
  return { row, col, n };
}

// First and last place of each run of neighbours that share a label.
function blocksOf(label) {
  const out = [];
  for (let at = 0; at < K; at++) {
    const value = label[order[at]];
    if (!out.length || out[out.length - 1].value !== value) out.push({ value, from: at, to: at + 1 });
    else out[out.length - 1].to = at + 1;
  }
  return out;
}

let pending = null;
async function update(change = {}) {
  Object.assign(state, change);
  if (state.aggregate && state.order !== "tree") state.order = "tree";
  const asked = pending = {}, isDifference = state.run === "diff";
  const base = await confusion(isDifference ? 1 : +state.run, state.epoch);  // the tree shows its numbers
  const matrix = isDifference ? await difference(state.epoch) : base;
  const layer = state.tab === "confusion" ? null : await layerData(state.layer, state.epoch);
  if (asked !== pending) return;  // a later change overtook this one
  current = matrix;
  current.layer = layer;
  current.count = (a, b) => base.cell[a * K + b];
  current.measures = base.measures ??= nodeMeasures(base);
  current.treeEpoch = (state.run === "0" ? "" : `${meta.runs[1].name}, `) + base.label;
  order = orderOf(state.order, current);
  place = new Int32Array(K);
  order.forEach((c, at) => { place[c] = at; });
  selected = new Uint8Array(K);
  for (const i of state.nodes) for (const c of nodes[i].classes) selected[c] = 1;
  const t = performance.now();
  drawAll();
  window.blocks.drawMs = performance.now() - t;
  window.blocks.updates += 1;
  writeHash();
}

// The chosen channel of the layer that is shown; null if that has fewer channels.
function channel() {
  return state.tab === "response" && state.channel < current.layer?.channels ? state.channel : null;
}

function selection() {
  const out = [];
  for (let c = 0; c < K; c++) if (selected[c]) out.push(c);
  return out;
}

// The state that a link carries.
function writeHash() {
  const keep = {};
  for (const [key, value] of Object.entries(state)) {
    if (key === "cells" && value && value.length > 300) continue;  // too much for a link
    if (JSON.stringify(value) !== defaults[key]) keep[key] = value;
  }
  if (view.kx !== 1 || view.ky !== 1) keep.view = [view.x, view.y, view.kx, view.ky].map(v => +v.toFixed(5));
  const text = Object.keys(keep).length ? "#" + encodeURIComponent(JSON.stringify(keep)) : "#";
  if (location.hash !== text) history.replaceState(null, "", text);
}

function readHash() {
  try {
    const given = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
    for (const key of Object.keys(state)) if (key in given && fits(key, given[key])) state[key] = given[key];
    if (Array.isArray(given.view) && given.view.length === 4 && given.view.every(Number.isFinite)) {
      [view.x, view.y, view.kx, view.ky] = given.view;
      view.kx = Math.max(1, view.kx);
      view.ky = Math.max(1, view.ky);
    }
  } catch { say("the link's state could not be read; showing the start view"); }
}

// A link can come from another file: take only values that exist here.
function fits(key, value) {
  const whole = (list, end) => Array.isArray(list) && list.every(v => Number.isInteger(v) && v >= 0 && v < end);
  const sets = { tab: ["confusion", "response", "correlation"], order: ["tree", "id", "popularity", "recall"],
    scope: ["all", "inside", "across"], sign: ["both", "more", "fewer"], colour: ["log", "linear", "binary"],
    nodeColour: ["recall", "precision", "f1", "plain"], groupBy: ["actual", "predicted"], sortBy: ["confidence", "s1"],
    run: [...meta.runs.map((_, i) => String(i)), ...(meta.runs.length > 1 ? ["diff"] : [])] };
  if (key in sets) return sets[key].includes(value) && (value !== "response" && value !== "correlation" || meta.layers.length > 0);
  const ends = { level: levels.length, epoch: epochLabels.length, layer: meta.layers.length };
  if (key in ends) return whole([value], ends[key]);
  if (key === "nodes") return whole(value, nodes.length);
  if (key === "minCount") return Number.isFinite(value) && value >= 1;
  if (key === "channel") return value === null || whole([value], 1e6);
  if (key === "cells") return value === null || (Array.isArray(value) && value.every(p => whole(p, K) && p.length === 2));
  return typeof value === "boolean";
}
const defaults = {};
