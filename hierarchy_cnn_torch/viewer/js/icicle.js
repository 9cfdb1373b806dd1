// The class tree as an icicle whose leaves stand in the same rows as the matrix.
const tree = el("icicle");
let icicleRects = [];  // {node, x, y, w, h} of the last drawing, for the mouse and the keyboard
let focusNode = 0;

const depths = Math.max(...nodes.map(node => node.depth)) + 1;

// The node of a class at a depth; a leaf that stands higher fills the columns to its right.
function ancestorAt(c, depth) {
  let node = leafOf[c];
  while (node.depth > depth) node = node.parent;
  return node;
}

function columnX(depth, width) {
  const leafWidth = Math.min(width * 0.45, 110), root = 16;
  if (depth >= depths - 1) return width - leafWidth;
  return depth ? root + (width - leafWidth - root) * (depth - 1) / (depths - 2) : 0;
}

function drawIcicle() {
  const g = fit(tree), width = tree.clientWidth, height = tree.clientHeight;
  icicleRects = [];
  const chosen = new Set(state.nodes);
  g.font = "10px system-ui, sans-serif";
  g.textBaseline = "middle";
  for (let depth = 0; depth < depths; depth++) {
    const x = columnX(depth, width), right = depth === depths - 1 ? width : columnX(depth + 1, width);
    let at = 0;
    while (at < K) {  // neighbours of one node form one box; other orders than the tree's break nodes into pieces
      const node = ancestorAt(order[at], depth);
      let end = at + 1;
      while (end < K && ancestorAt(order[end], depth) === node) end++;
      const y = toY(at), h = toY(end) - y;
      at = end;
      if (node.depth < depth) continue;
      const w = (node.children.length ? right : width) - x;
      if (y > height || y + h < TOP) continue;
      icicleRects.push({ node, x, y, w, h });
      const picked = chosen.has(node.index) || (!node.children.length && selected[node.classes[0]]);
      g.fillStyle = nodePaint(node);
      g.fillRect(x, Math.max(y, TOP), w, Math.min(h, h + y - TOP));
      if (h > 2.5 || node.children.length) outline(g, x, Math.max(y, TOP), w, Math.min(h, h + y - TOP), "#fff", 0.7);
      if (picked) {
        g.fillStyle = "rgba(230,120,0,0.35)";
        g.fillRect(x, Math.max(y, TOP), w, Math.min(h, h + y - TOP));
        g.fillStyle = "#b34700";
        g.fillRect(x, Math.max(y, TOP), 3, Math.min(h, h + y - TOP));
      }
      if (node.index === focusNode && document.activeElement === tree) outline(g, x + 1.5, Math.max(y, TOP) + 1.5, w - 3, h - 3, "#b34700", 3);
      if (h >= 7) label(g, node, x, Math.max(y, TOP), w, Math.min(h, h + y - TOP));
    }
  }
  g.fillStyle = "#5c5c66";
  g.fillText(state.nodeColour === "plain" ? "" : `nodes: ${state.nodeColour} (dark is low)`, 4, TOP - 12);
}

function nodePaint(node) {
  if (state.nodeColour === "plain") return "#dcdce4";
  const value = current.measures[node.index][state.nodeColour];
  return Number.isFinite(value) ? paint("nodes", value) : "#fff";
}

function label(g, node, x, y, w, h) {
  const value = state.nodeColour === "plain" ? 1 : current.measures[node.index][state.nodeColour];
  const i = Math.max(0, Math.min(255, Math.round((value || 0) * 255))) * 3, table = lut("nodes");
  const dark = state.nodeColour !== "plain" && 0.3 * table[i] + 0.59 * table[i + 1] + 0.11 * table[i + 2] < 130;
  g.save();
  g.beginPath();
  g.rect(x, y, w, h);
  g.clip();
  g.fillStyle = dark ? "#fff" : "#1b1b1f";
  g.textAlign = "left";
  g.font = `${Math.min(10, Math.floor(h))}px system-ui, sans-serif`;
  if (w < 40 && h > w) {
    g.translate(x + w / 2, y + h / 2);
    g.rotate(-Math.PI / 2);
    g.textAlign = "center";
    g.fillText(node.name, 0, 0, h - 4);
  } else g.fillText(shortened(g, node.name, (w - 8) / 0.75), x + 5, y + h / 2, w - 8);
  g.restore();
}

function nodeAt(x, y) {
  const hit = icicleRects.find(r => x >= r.x && x < r.x + r.w && y >= r.y && y < r.y + r.h && y >= TOP);
  return hit ? hit.node : null;
}

// I1: a click selects a node, shift adds (or takes away), Escape clears.
function pickNode(node, add) {
  const now = new Set(add ? state.nodes : []);
  if (add && now.has(node.index)) now.delete(node.index); else now.add(node.index);
  update({ nodes: [...now], cells: null });
}

function moveFocus(key) {
  const node = nodes[focusNode];
  let next = node;
  if (key === "ArrowLeft") next = node.parent ?? node;
  if (key === "ArrowRight") next = [...node.children].sort((a, b) => first(a) - first(b))[0] ?? node;
  if (key === "ArrowUp" || key === "ArrowDown") {
    const same = nodes.filter(other => other.depth === node.depth).sort((a, b) => first(a) - first(b));
    next = same[same.indexOf(node) + (key === "ArrowUp" ? -1 : 1)] ?? node;
  }
  focusNode = next.index;
  say(describeNode(next));
  drawIcicle();
}

function first(node) { return Math.min(...node.classes.map(c => place[c])); }

function describeNode(node) {
  const f = current.measures[node.index];
  return `${node.name}: ${node.classes.length} classes, ${f.actual} images, recall ${percent(f.recall)}, ` +
    `precision ${percent(f.precision)}, F1 ${percent(f.f1)}, popularity ${Number.isFinite(f.popularity) ? f.popularity.toFixed(2) : "–"}`;
}
