// Puts the page together: controls, first drawing, and window.blocks for tests and for the curious.
function options(select, texts, values) {
  select.replaceChildren(...texts.map((text, i) => { const o = make("option", text); o.value = values ? values[i] : i; return o; }));
}

function bindControls() {
  el("title").textContent = meta.title;
  options(el("classlist"), meta.names.map(() => ""), meta.names);
  options(el("run"), [...meta.runs.map(run => run.name), ...(meta.runs.length > 1 ? [`${meta.runs[1].name} − ${meta.runs[0].name}`] : [])],
    [...meta.runs.map((_, i) => i), ...(meta.runs.length > 1 ? ["diff"] : [])]);
  options(el("layer"), meta.layers.map(layer => layer.name));
  el("level").max = levels.length - 1;
  el("epoch").max = epochLabels.length - 1;
  el("epochbox").hidden = epochLabels.length < 2;
  for (const button of document.querySelectorAll("#tabs button")) {
    button.disabled = button.dataset.tab !== "confusion" && !meta.layers.length;
    button.title = button.disabled ? "this file holds no layers" : "";
    button.onclick = () => update({ tab: button.dataset.tab });
  }
  const bind = (id, key, read) => { el(id).addEventListener("input", () => update({ [key]: read(el(id)) })); };
  const value = e => e.value, checked = e => e.checked, whole = e => +e.value;
  bind("order", "order", value);
  bind("level", "level", whole);
  bind("aggregate", "aggregate", checked);
  bind("run", "run", value);
  bind("diagonal", "diagonal", checked);
  bind("scope", "scope", value);
  bind("sign", "sign", value);
  bind("colour", "colour", value);
  bind("layer", "layer", whole);
  bind("nodecolour", "nodeColour", value);
  bind("groupby", "groupBy", value);
  bind("sortby", "sortBy", value);
  bind("mincount", "minCount", e => Math.max(1, Math.floor(+e.value) || 1));
  el("epoch").addEventListener("input", () => update({ epoch: +el("epoch").value }));
  el("search").addEventListener("change", () => findClass(el("search").value));
  el("play").onclick = play;
  el("help").onclick = help;
  el("save-json").onclick = () => save(new Blob([JSON.stringify(selectionFile(), null, 1)], { type: "application/json" }), "selection.json");
  el("save-png").onclick = async () => save(await pngOfView(), "view.png");
  window.addEventListener("hashchange", () => { Object.assign(state, JSON.parse(JSON.stringify(startState))); readHash(); update(); });
}

// Controls show the state, wherever a change came from.
function syncControls() {
  const set = (id, value) => { if (document.activeElement !== el(id) || el(id).type === "range") el(id).value = value; };
  set("order", state.order);
  set("level", state.level);
  set("run", state.run);
  set("mincount", state.minCount);
  set("scope", state.scope);
  set("sign", state.sign);
  set("colour", state.colour);
  set("layer", state.layer);
  set("epoch", state.epoch);
  set("nodecolour", state.nodeColour);
  set("groupby", state.groupBy);
  set("sortby", state.sortBy);
  el("aggregate").checked = state.aggregate;
  el("diagonal").checked = state.diagonal;
  const names = [...meta.levels.map(level => `${level.name} (${level.groups.length})`), `classes (${K})`];
  el("levelname").textContent = names[state.level];
  el("epochname").textContent = state.tab === "confusion" ? current.label : current.layer?.label ?? "";
  for (const button of document.querySelectorAll("#tabs button")) button.setAttribute("aria-selected", button.dataset.tab === state.tab);
  const show = (name, on) => document.querySelectorAll(name).forEach(e => { e.hidden = !on; });
  show(".for-confusion", state.tab === "confusion");
  show(".for-layers", state.tab !== "confusion");
  show(".for-diff", state.tab === "confusion" && state.run === "diff");
}

let startState;
window.blocks = {
  updates: 0, drawMs: 0, loadMs: 0, meta, state,
  get order() { return Array.from(order); },
  get selection() { return selection(); },
  get level() { return state.level; },
  get filters() { const { minCount, diagonal, scope, sign, colour, aggregate } = state; return { minCount, diagonal, scope, sign, colour, aggregate }; },
  get shown() { return cells ? { total: cells.shown, count: cells.keep.length } : null; },
  get samples() { return shownSamples.map(i => sample.id[i]); },
  get hoverMs() { return hoverMs; },
  get view() { return { ...view }; },
  get channels() { return current.layer?.columns ? Array.from(current.layer.columns) : null; },
  update, pickNode: (index, add) => pickNode(nodes[index], add), nodes: nodes.map(n => ({ name: n.name, depth: n.depth, classes: n.classes })),
  cellCentre: (r, c) => [toX(c) + cellW() / 2, toY(r) + cellH() / 2],
  nodeCentre: index => { const r = icicleRects.find(x => x.node.index === index); return r ? [r.x + r.w / 2, r.y + r.h / 2] : null; },
  selectionFile, drawCursorAt: (r, c) => { cursor = [r, c]; drawCursor(); return hoverMs; },
};

async function start() {
  for (let i = 0; i < meta.levels.length; i++) levels.push(await array("level_" + i));
  levels.push(Uint16Array.from({ length: K }, (_, i) => i));
  treeOrder = Array.from(await array("order"));
  meta.luts = {};
  for (const name of ["sequential", "diverging", "nodes"]) meta.luts[name] = await array("lut_" + name);
  state.epoch = epochLabels.length - 1;
  state.level = Math.max(0, levels.length - 2);
  startState = JSON.parse(JSON.stringify(state));
  for (const [key, value] of Object.entries(state)) defaults[key] = JSON.stringify(value);
  await loadSamples();
  bindControls();
  bindMatrix();
  bindTree();
  bindKeys();
  readHash();
  await update();
  new ResizeObserver(() => drawAll()).observe(el("centre"));  // a bar that wraps moves the views too
  window.blocks.loadMs = performance.now() - started;
  window.blocks.ready = true;
  say(`${K} classes, ${current.total.toLocaleString("en")} images; press ? for keys`);
}
start().catch(error => { say("this file cannot be shown: " + error.message); window.blocks.failed = String(error); throw error; });
