// The table of videos. Only the rows in sight exist as elements, so that ten thousand cost no more than twenty.

const ROW = 34;  // pixels a row
const table = {rows: [], columns: [], toReveal: false};

function startTable() {
  table.columns = [
    {key: "name", title: "video", textOf: row => data.names[row], wide: true},
    {key: "cluster", title: "cluster", textOf: row => String(data.cluster[row]), values: data.cluster},
    ...data.columns.slice(0, 6).map(column => ({
      key: `column ${column.name}`, title: column.title, textOf: row => textOf(column, row), column,
      values: column.kind === "number" ? data[column.array] : null,
    })),
  ];
  const head = find("table-head");
  head.append(make("span", {role: "columnheader", class: "pick"}, make("span", {class: "unseen"}, "selected")));
  for (const column of table.columns) {
    column.button = make("button", {type: "button", onclick: () => sortBy(column.key)}, column.title);
    column.head = make("span", {role: "columnheader", class: column.wide ? "wide" : ""}, column.button);
    head.append(column.head);
  }
  const body = find("table-body");
  body.addEventListener("scroll", drawTable, {passive: true});
  body.addEventListener("keydown", pressInTable);
  new ResizeObserver(drawTable).observe(body);
  listeners.push(changed => {
    if (["matching", "sort", "down"].some(key => changed.has(key))) sortTable();
    drawTable();
    if (changed.has("open")) table.toReveal = true;
    if (table.toReveal && !isWaiting()) revealRow(state.open);
  });
}

// A click sorts, the next one the other way round, and a third restores the source's order. How odd videos are begins
// with the oddest.
function sortBy(key) {
  const firstDown = key === "column outlier_score" || key === "column distance";
  if (state.sort !== key) update({sort: key, down: firstDown});
  else if (state.down === firstDown) update({down: !firstDown});
  else update({sort: "row", down: false});
}

function sortTable() {
  const column = table.columns.find(each => each.key === state.sort), sign = state.down ? -1 : 1;
  table.rows = [];
  for (let row = 0; row < data.n; row++) if (matching[row]) table.rows.push(row);
  const values = column && valuesOf(column);
  if (values) {
    const rank = row => Number.isFinite(values[row]) ? sign * values[row] : Infinity;
    table.rows.sort((a, b) => rank(a) - rank(b) || a - b);
  } else if (column) {
    const texts = new Map(table.rows.map(row => [row, column.textOf(row)]));
    table.rows.sort((a, b) => sign * collator.compare(texts.get(a), texts.get(b)) || a - b);
  }
  for (const {head, key} of table.columns) {
    head.setAttribute("aria-sort", key !== state.sort ? "none" : state.down ? "descending" : "ascending");
  }
  find("table-body").setAttribute("aria-rowcount", table.rows.length + 1);  // and the head
  find("count").textContent = isSearching() ? "searching …" : table.rows.length === data.n
    ? countVideos(data.n) : `${showNumber(table.rows.length)} of ${countVideos(data.n)}`;
}

const collator = new Intl.Collator("en", {numeric: true});

// What orders a column, if it is numbers: those that it shows, or the ranks of its texts.
function valuesOf({key, values, column}) {
  if (values || key === "name" && !data.byView) return values;
  if (!column || column.byRow) return ranksByServer(column?.name ?? "name");
  const order = ["", ...column.values].map((text, code) => [text, code]);
  order.sort(([a], [b]) => collator.compare(a, b));
  const ranks = new Uint32Array(order.length);
  order.forEach(([text, code], i) => {
    const isSame = i && !collator.compare(text, order[i - 1][0]);
    ranks[code] = isSame ? ranks[order[i - 1][1]] : i;
  });
  return column.codes.map(code => ranks[code]);
}

function drawTable() {
  const body = find("table-body"), first = Math.max(Math.floor(body.scrollTop / ROW) - 4, 0);
  const last = Math.min(first + Math.ceil(body.clientHeight / ROW) + 8, table.rows.length);
  const space = find("table-space");
  space.style.height = `${table.rows.length * ROW}px`;
  const shown = table.rows.slice(first, last).map((row, i) => drawTableRow(row, first + i));
  showTexts(table.rows.slice(Math.max(first - 40, 0), last + 40));  // A little scrolling finds them there.
  space.replaceChildren(...shown);
  const open = shown.find(each => each.classList.contains("open"));
  if (open) body.setAttribute("aria-activedescendant", open.id);
  else body.removeAttribute("aria-activedescendant");
  if (!table.rows.length) space.append(make("p", {role: "row", class: "muted nothing"},
    make("span", {role: "gridcell"}, "No video passes the filters.")));
}

function drawTableRow(row, place) {
  const isSelected = state.selected.has(row);
  const cells = table.columns.map(column => {
    const text = column.textOf(row) ?? "…", cell = {role: "gridcell", class: column.wide ? "wide" : "", title: text};
    return make("span", cell, column.key === "cluster" ? chipOf(data.cluster[row]) : column.wide ? nameCell(row) : text);
  });
  return make("div", {
    role: "row", "aria-selected": String(isSelected), "aria-rowindex": place + 2, "data-row": row,
    class: row === state.open ? "open" : "", style: `top:${place * ROW}px`, id: `row-${row}`,
    onclick: event => select([row], {add: event.ctrlKey || event.metaKey || event.target.closest(".pick"), open: row}),
  }, make("span", {role: "gridcell", class: "pick"}, isSelected ? "✓" : ""), ...cells);
}

function nameCell(row) {
  const tag = data.outlier[row] ? make("i", {class: "tag"}, "outlier") : null;
  return make("span", {}, make("bdi", {}, data.names[row] ?? "…"), tag);
}

function chipOf(number) {
  const rgb = toRgb(clusterOf(number)?.color ?? "#a7adb8");
  const style = `background:${toCss(rgb)};color:${inkOn(rgb)}`;
  return make("b", {class: "chip", style}, number < 0 ? "noise" : String(number));
}

function pressInTable(event) {
  const place = table.rows.indexOf(state.open), {rows} = table;
  const jump = {ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10}[event.key];
  if (jump && rows.length) {
    const next = rows[Math.min(Math.max(place + jump, 0), rows.length - 1)];
    update({open: next, ...(event.shiftKey ? {selected: new Set([...state.selected, next])} : {})});
  } else if (event.key === " " && state.open >= 0) select([state.open], {add: true});
  else if (event.key === "Enter" && state.open >= 0) find("details").focus();
  else return;
  event.preventDefault();
}

function revealRow(row) {
  table.toReveal = false;
  const body = find("table-body"), place = table.rows.indexOf(row);
  if (place < 0) return;
  if (place * ROW < body.scrollTop) body.scrollTop = place * ROW;
  if ((place + 1) * ROW > body.scrollTop + body.clientHeight) body.scrollTop = (place + 1) * ROW - body.clientHeight;
}
