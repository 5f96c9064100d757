// What is selected, shown and open. Every view listens; the page's address holds all of it behind its "#".

const state = {
  selected: new Set(), color: "cluster", hidden: new Set(), text: "", outliersOnly: false, selectedOnly: false,
  time: 1, open: -1, sort: "row", down: false,
  query: null,  // What a served page searches for: like a row or words, from and to seconds, least, and a count.
};
const listeners = [];
let matching = new Uint8Array(0);  // 1 for each video that passes the filters

function update(changes) {
  Object.assign(state, changes);
  const changed = new Set(Object.keys(changes));
  if (["text", "outliersOnly", "selectedOnly", "hidden", "color"].some(key => changed.has(key))
      || changed.has("selected") && state.selectedOnly) {
    filterVideos();
    changed.add("matching");
  }
  for (const listen of listeners) listen(changed);
  writeAddress();
}

function select(rows, {add = false, open = -1} = {}) {
  const selected = new Set(add ? state.selected : []);
  for (const row of rows) add && rows.length === 1 && selected.has(row) ? selected.delete(row) : selected.add(row);
  update({selected, ...(open >= 0 ? {open} : {})});
}

function filterVideos() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const scale = coloring(), hasWords = wordsFilter(words);
  matching = new Uint8Array(data.n);
  for (let i = 0; i < data.n; i++) {
    const hidden = scale.kind === "text" && state.hidden.has(scale.keyOf(i));
    matching[i] = !hidden && (!state.outliersOnly || data.outlier[i]) && (!state.selectedOnly || state.selected.has(i))
      && hasWords(i) ? 1 : 0;
  }
}

function wordsFilter(words) {
  if (!words.length) return () => true;
  if (data.byView) return foundByServer(words);
  return row => { const text = searchText(row); return words.every(word => text.includes(word)); };
}

const searchTexts = [];
function searchText(row) {
  if (searchTexts[row] === undefined) {
    const columns = data.columns.filter(column => column.kind === "text").map(column => textOf(column, row));
    const all = [data.names[row], data.uris[row], nameOfCluster(data.cluster[row]), data.captions[row], ...columns];
    searchTexts[row] = all.join(" ").toLowerCase();
  }
  return searchTexts[row];
}

function writeRanges(rows) {
  const sorted = [...rows].sort((a, b) => a - b), parts = [];
  for (let i = 0; i < sorted.length; i++) {
    const first = sorted[i];
    while (sorted[i + 1] === sorted[i] + 1) i++;
    parts.push(first === sorted[i] ? `${first}` : `${first}-${sorted[i]}`);
  }
  return parts.join(".");
}

function readRanges(text) {
  const rows = new Set();
  for (const part of text.split(".").filter(Boolean)) {
    const [first, last = first] = part.split("-").map(Number);
    if (!(first >= 0)) continue;
    for (let row = first; row <= Math.min(last, data.n - 1); row++) rows.add(row);
  }
  return rows;
}

let addressTimer = 0;
function writeAddress() {  // Browsers let a page change its address only so many times a second.
  clearTimeout(addressTimer);
  const write = () => history.replaceState(null, "", addressOf(state) || location.pathname + location.search);
  addressTimer = setTimeout(write, 150);
}

function addressOf(s) {
  const parts = new URLSearchParams();
  if (s.color !== "cluster") parts.set("color", s.color);
  if (s.hidden.size) parts.set("hide", [...s.hidden].join("\n"));
  if (s.text) parts.set("find", s.text);
  if (s.outliersOnly) parts.set("outliers", "1");
  if (s.selectedOnly) parts.set("only", "selected");
  if (s.time < 1) parts.set("time", s.time.toFixed(3));
  if (s.selected.size) parts.set("select", writeRanges(s.selected));
  if (s.open >= 0) parts.set("open", s.open);
  if (s.sort !== "row") parts.set("sort", (s.down ? "-" : "") + s.sort);
  for (const [name, value] of Object.entries(s.query ?? {})) parts.set(name, value);
  const text = parts.toString();
  return text && `#${text}`;
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const color = parts.get("color"), open = Number(parts.get("open") ?? -1), sort = parts.get("sort") ?? "row";
  return {
    color: color && colorings().some(each => each.key === color) ? color : "cluster",
    hidden: new Set((parts.get("hide") ?? "").split("\n").filter(Boolean)),
    text: parts.get("find") ?? "",
    outliersOnly: parts.get("outliers") === "1",
    selectedOnly: parts.get("only") === "selected",
    time: Math.min(Math.max(Number(parts.get("time") ?? 1) || 0, 0), 1),
    selected: readRanges(parts.get("select") ?? ""),
    open: open >= 0 && open < data.n ? Math.floor(open) : -1,
    sort: sort.replace(/^-/, ""), down: sort.startsWith("-"),
    query: readQuery(parts),
  };
}

function readQuery(parts) {
  const like = Number(parts.get("like") ?? -1), words = parts.get("words");
  if (!words && !(Number.isInteger(like) && like >= 0 && like < data.n)) return null;
  const query = words ? {words} : {like};
  for (const name of words ? ["least", "count"] : ["from", "to", "least", "count"]) {
    const value = Number(parts.get(name) || NaN);
    if (Number.isFinite(value)) query[name] = value;
  }
  return query;
}
