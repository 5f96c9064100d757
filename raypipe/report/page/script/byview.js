// The page of very many videos, as raypipe explore serves it: the numbers of all come at once, and what is shown of
// single ones, texts and paths, when it comes into view (docs/page_server.md). A page that holds all has all here.

const UNKNOWN = 0, ASKED = 1, HERE = 2, AT_ONCE = 2;

async function fetchNumbers(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return new Uint8Array(await answer.arrayBuffer());
}

// Makes room for what will come of single rows. Memory that nobody has written to takes none.
function awaitRows(data) {
  const {n} = data, sums = lengths => {
    const starts = new Uint32Array(n + 1);
    for (let row = 0; row < n; row++) starts[row + 1] = starts[row] + lengths[row];
    return starts;
  };
  data.starts = sums(data.lengths);
  data.points = new Float32Array(2 * data.starts[n]);
  data.boxes = restore(data.boxes, {scale: data.pointBox.scale, origin: [...data.pointBox.origin, ...data.pointBox.origin]});
  for (let row = 0; row < n; row++) {
    if (!data.lengths[row]) data.boxes.set([Infinity, Infinity, -Infinity, -Infinity], 4 * row);
  }
  if (data.reducedLengths) {
    data.reducedStarts = sums(data.reducedLengths);
    data.reduced = new Float32Array(data.dim * data.reducedStarts[n]);
  }
  for (const name of ["names", "ids", "uris", "links", "captions", "reasons"]) data[name] = [];
  for (const name of ["origin", "span", "oddStart", "oddEnd"]) data[name] = new Float32Array(n);
  for (const column of data.columns) if (column.kind === "text" && !column.codes) column.byRow = [];
  data.stripOf = new Int16Array(n).fill(-1);
  return data;
}

// Fetches what is known of single rows: each is asked for once, and many at a time.
class RowFetcher {
  constructor(route, most, take) {
    Object.assign(this, {route, most, take, known: new Uint8Array(data.n), kept: new Set(), seen: [], waiting: [], busy: 0});
  }

  has(row) { return this.known[row] === HERE; }

  // Resolves when these rows are here, whatever else is asked for meanwhile.
  fetch(rows) {
    const lacking = rows.filter(row => !this.has(row));
    if (!lacking.length) return Promise.resolve();
    for (const row of lacking) if (this.known[row] === UNKNOWN) this.kept.add(row);
    this.sendLater();
    return new Promise((done, fail) => this.waiting.push({rows: lacking, done, fail}));
  }

  // Takes the rows that are in view now, in place of those of an earlier view that have not been asked for.
  show(rows) {
    this.seen = rows.filter(row => this.known[row] === UNKNOWN);
    if (this.seen.length) this.sendLater();
  }

  sendLater() {
    this.timer ||= setTimeout(() => { this.timer = 0; this.send(); });
  }

  send() {
    while (this.busy < AT_ONCE) {
      const rows = this.choose();
      if (!rows.length) return;
      this.busy++;
      this.load(rows).finally(() => { this.busy--; this.send(); });
    }
  }

  choose() {
    const rows = [];
    for (const row of [...this.kept, ...this.seen]) {
      if (rows.length >= this.most) break;
      if (this.known[row] === UNKNOWN) rows.push(row);
      this.known[row] = ASKED;
      this.kept.delete(row);
    }
    this.seen = this.seen.filter(row => this.known[row] === UNKNOWN);
    return rows.sort((a, b) => a - b);
  }

  async load(rows) {
    try {
      const found = readArrays(await window.raypipe.askBytes(`${this.route}?of=${writeRanges(rows)}`));
      this.take(rows, found);
      for (const row of rows) this.known[row] = HERE;
    } catch (error) {
      for (const row of rows) this.known[row] = UNKNOWN;
      this.kept.clear();
      this.seen = [];
      for (const {fail} of this.waiting.splice(0)) fail(error);
      this.hasFailed = true;
      return say(`Some videos could not be fetched: ${error.message}.`);
    }
    if (this.hasFailed) say("");
    this.hasFailed = false;
    this.waiting = this.waiting.filter(({rows: wanted, done}) => {
      const isDone = wanted.every(row => this.has(row));
      if (isDone) done();
      return !isDone;
    });
    this.onHere?.();
  }
}

const fetchers = {};
function startByView() {
  if (!data.byView) return;
  fetchers.texts = new RowFetcher("rows", 250, takeTexts);
  fetchers.paths = new RowFetcher("paths", 1000, (rows, {points}) => {
    takePaths(data.points, data.starts, 2, data.pointBox, rows, points);
  });
  fetchers.texts.onHere = drawTable;
  fetchers.paths.onHere = () => redraw("rows", "colors");
}

function takeTexts(rows, found) {
  rows.forEach((row, i) => {
    for (const name of ["names", "ids", "uris", "links", "captions", "reasons", "origin", "span", "oddStart", "oddEnd"]) {
      data[name][row] = found[name][i];
    }
    for (const {name, byRow} of data.columns) if (byRow) byRow[row] = found[`column ${name}`][i];
  });
  if (data.reduced) takePaths(data.reduced, data.reducedStarts, data.dim, data.reducedBox, rows, found.reduced);
}

function takePaths(target, starts, dim, box, rows, whole) {
  const values = restore(whole, box);
  let from = 0;
  for (const row of rows) {
    const end = from + dim * (starts[row + 1] - starts[row]);
    target.set(values.subarray(from, end), dim * starts[row]);
    from = end;
  }
}

const hasPath = row => !data.byView || fetchers.paths.has(row);
const isHere = row => !data.byView || fetchers.texts.has(row) && hasPath(row);
const fetchTexts = async rows => data.byView && fetchers.texts.fetch(rows);
const showTexts = rows => data.byView && fetchers.texts.show(rows);

// Of the paths that are to be drawn, those that are here; the others are asked for.
function pathsHere(rows) {
  if (!data.byView) return rows;
  fetchers.paths.show([...rows, ...[state.open, map.hovered].filter(row => row >= 0)]);
  return rows.filter(hasPath);
}

function nameOf(row) {
  const name = make("bdi", {}, data.names[row] ?? "…");
  if (data.names[row] === undefined) fetchTexts([row]).then(() => name.replaceChildren(data.names[row]), () => {});
  return name;
}

// The pane of a video that is yet to come.
function showComing(row) {
  find("details").replaceChildren(make("p", {class: "muted"}, "…"));
  Promise.all([fetchers.texts.fetch([row]), fetchers.paths.fetch([row])])
    .then(() => state.open === row && showDetails(row), () => {});
}

async function nearRows(row, count) {
  if (!data.byView) return nearestVideos(row, count);
  const {videos} = await window.raypipe.ask(`search?like=${encodeURIComponent(data.ids[row])}&n=${count}`);
  return window.raypipe.isStale ? [] : videos.map(video => video.row).filter(other => other !== null);
}

function nearToCome(row, list, entry) {
  list.append(make("li", {class: "muted"}, "…"));  // Among a million videos the search takes a while.
  whenOpen(list, () => nearRows(row, 6).then(
    rows => list.replaceChildren(...rows.map(entry)),
    error => list.replaceChildren(make("li", {class: "muted"}, `not found: ${error.message}`)),
  ));
}

async function playBeside(row, others, from) {
  try {
    const rows = [row, ...others.length ? others.slice(0, 8) : await nearRows(row, 1)];
    await fetchTexts(rows);
    window.raypipe.compare(rows.map(each => data.ids[each]), from);
  } catch (error) {
    say(`The videos cannot be played: ${error.message}.`);
  }
}

// A bit for each row, whether the server has found it.
const readBit = (bits, row) => bits[row >> 3] >> (row & 7) & 1;

const search = {asked: "", found: "", bits: null};
const isSearching = () => Boolean(data.byView && state.text.trim() && search.found !== search.asked);

// Which rows have words in their texts; until the server has answered, those that had the words before.
function foundByServer(words) {
  const text = words.join(" ");
  if (text !== search.asked) {
    search.asked = text;
    window.raypipe.askBytes(`find?text=${encodeURIComponent(text)}`).then(bits => {
      if (search.asked !== text) return;  // Other words have been typed meanwhile.
      Object.assign(search, {found: text, bits});
      update({text: state.text});
    }, error => {
      if (search.asked === text) search.asked = search.found;
      say(`The words could not be searched: ${error.message}.`);
    });
  }
  return row => search.bits !== null && readBit(search.bits, row);
}

const ranks = {};

// The ranks of names or of a column's texts; null until they have come, and the table is sorted again.
function ranksByServer(by) {
  if (ranks[by] === undefined) {
    ranks[by] = null;
    window.raypipe.askBytes(`ranks?by=${encodeURIComponent(by)}`).then(bytes => {
      ranks[by] = new Uint32Array(bytes.buffer);
      update({sort: state.sort});
    }, error => {
      delete ranks[by];
      say(`The table could not be sorted: ${error.message}.`);
    });
  }
  return ranks[by];
}

// Whether the table's rows or their order are yet to change by themselves.
const isWaiting = () => isSearching() || Object.values(ranks).includes(null);

let lassos = 0;
async function selectInside(lasso, add) {
  if (!data.byView) return select(rowsInside(lasso), {add});
  if (lasso.length < 3) return select([], {add});
  const turn = ++lassos, [left, top] = toPlace([0, 0]);
  const at = lasso.map(point => point.join(",")).join(";");
  try {
    const bits = await window.raypipe.askBytes(`inside?time=${state.time}&view=${left},${top},${1 / map.scale}&at=${at}`);
    const rows = [];
    for (let row = 0; row < data.n; row++) if (matching[row] && readBit(bits, row)) rows.push(row);
    if (turn === lassos) select(rows, {add});
  } catch (error) {
    say(`The lasso could not be asked for: ${error.message}.`);
  }
}
