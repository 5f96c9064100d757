// The map: paths, dots at the slider's time, the clusters' barycenters, the lasso, and what lies under the pointer.

const MAX_PATHS = 3000;  // More at once are a blot; which of them are drawn follows from what is in view.
const MAX_MOVING = 700;  // So many while the map moves, so that it moves smoothly in software too.
const MAX_DOTS = 20000;
const NUMBER_PX = 9;  // The radius of a barycenter's number.
const REACH = 9;  // Pixels from a path or a dot within which the pointer is on it.

const map = {
  center: [0, 0], scale: 1, rows: [], dotRows: [], hovered: -1, moving: false, lasso: null, dirty: new Set(),
};

function startMap() {
  map.painter = new Painter(find("map-paths"));
  map.box = find("map");
  map.over = find("map-over");
  map.order = shuffled(data.n);
  map.boxes = data.boxes ?? boundPaths();
  new ResizeObserver(resizeMap).observe(map.box);
  resizeMap();
  showWhole();
  listenToPointer();
  listeners.push(changed => {
    if (changed.has("matching") || changed.has("selected")) redraw("rows", "colors");
    if (changed.has("color")) redraw("colors");
    if (changed.has("time")) redraw("dots");
    redraw();
  });
}

// The least and the greatest x and y of each path.
function boundPaths() {
  const boxes = new Float32Array(4 * data.n);
  for (let row = 0; row < data.n; row++) {
    const box = [Infinity, Infinity, -Infinity, -Infinity], path = pathOf(row);
    for (let i = 0; i < path.length; i += 2) {
      box[0] = Math.min(box[0], path[i]); box[2] = Math.max(box[2], path[i]);
      box[1] = Math.min(box[1], path[i + 1]); box[3] = Math.max(box[3], path[i + 1]);
    }
    boxes.set(box, 4 * row);
  }
  return boxes;
}

// A fixed order that has nothing to do with the videos', so that a part of them looks like the whole.
function shuffled(n) {
  const order = Uint32Array.from({length: n}, (_, i) => i);
  let seed = 1;
  for (let i = n - 1; i > 0; i--) {
    seed = (seed * 48271) % 2147483647;
    const j = seed % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function resizeMap() {
  const ratio = Math.min(devicePixelRatio || 1, 2), {clientWidth, clientHeight} = map.box;
  if (!clientWidth) return;
  const grown = map.width ? Math.min(clientWidth / map.width, clientHeight / map.height) : 1;
  Object.assign(map, {width: clientWidth, height: clientHeight, ratio, scale: map.scale * grown});
  for (const canvas of [map.painter.canvas, map.over]) {
    canvas.width = clientWidth * ratio;
    canvas.height = clientHeight * ratio;
  }
  redraw("rows", "colors");
}

function showWhole() {
  let [left, bottom, right, top] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < map.boxes.length; i += 4) {
    left = Math.min(left, map.boxes[i]); right = Math.max(right, map.boxes[i + 2]);
    bottom = Math.min(bottom, map.boxes[i + 1]); top = Math.max(top, map.boxes[i + 3]);
  }
  if (!(left <= right)) return;
  map.center = [(left + right) / 2, (bottom + top) / 2];
  map.scale = 0.92 * Math.min(map.width / (right - left || 1), map.height / (top - bottom || 1));
  map.least = map.scale / 4;
  redraw("rows", "colors");
}

function toScreen([x, y]) {
  return [map.width / 2 + (x - map.center[0]) * map.scale, map.height / 2 - (y - map.center[1]) * map.scale];
}

function toPlace([x, y]) {
  return [map.center[0] + (x - map.width / 2) / map.scale, map.center[1] - (y - map.height / 2) / map.scale];
}

function redraw(...parts) {
  for (const part of parts) map.dirty.add(part);
  if (!map.frame) map.frame = requestAnimationFrame(drawMap);
}

function drawMap() {
  map.frame = 0;
  if (map.dirty.has("rows") && !map.moving) chooseRows();
  if (map.dirty.has("rows") || map.dirty.has("dots")) map.painter.setDots(map.dotRows, state.time);
  if (map.dirty.has("colors")) colorRows();
  map.dirty = new Set(map.moving && map.dirty.has("rows") ? ["rows"] : []);  // They are chosen when the map rests.
  const view = [...map.center, 2 * map.scale / map.width, 2 * map.scale / map.height];
  map.painter.draw(view, state.time, map.moving ? MAX_MOVING : MAX_PATHS + state.selected.size, dotSize() * map.ratio);
  drawOver();
}

const dotSize = () => data.n > 5000 ? 3 : data.n > 500 ? 5 : 7;

// Which paths are drawn: the selected, and of the others in view so many that the map stays readable and quick.
function chooseRows() {
  const [left, top] = toPlace([0, 0]), [right, bottom] = toPlace([map.width, map.height]);
  const rows = [...state.selected].filter(row => matching[row]).slice(0, MAX_PATHS), dots = [];
  let inView = rows.length;
  for (const row of map.order) {
    if (!matching[row]) continue;
    if (dots.length < MAX_DOTS && hasPath(row)) dots.push(row);
    const box = 4 * row, {boxes} = map;
    if (!(boxes[box + 2] >= left && boxes[box] <= right && boxes[box + 3] >= bottom && boxes[box + 1] <= top)) continue;
    if (state.selected.has(row)) continue;
    inView++;
    if (rows.length < MAX_PATHS) rows.push(row);
  }
  Object.assign(map, {rows: pathsHere(rows), dotRows: dots.sort((a, b) => state.selected.has(a) - state.selected.has(b))});
  map.painter.setPaths(map.rows);
  map.dirty.add("colors");
  find("map-note").textContent = rows.length < inView
    ? `${showNumber(rows.length)} of ${showNumber(inView)} paths in view are drawn; all count` : "";
}

function colorRows() {
  const scale = coloring(), some = state.selected.size > 0;
  const alpha = map.rows.length > 1000 ? 0.3 : map.rows.length > 150 ? 0.45 : 0.7;
  const strength = row => !some ? alpha : state.selected.has(row) ? 0.95 : 0.1;
  map.painter.setPathColors(map.rows, row => [...scale.colorOf(row), 255 * strength(row)]);
  map.painter.setDotColors(map.dotRows, row => [...scale.colorOf(row), !some || state.selected.has(row) ? 255 : 60]);
}

// Thick things are few, and a plain canvas draws them well: barycenters, the open video, the lasso.
function drawOver() {
  const pen = map.over.getContext("2d");
  pen.setTransform(map.ratio, 0, 0, map.ratio, 0, 0);
  pen.clearRect(0, 0, map.width, map.height);
  pen.lineJoin = pen.lineCap = "round";
  const ground = isDark() ? "#12151b" : "#ffffff", ink = isDark() ? "#ffffff" : "#1f2430";
  if (find("show-centers").checked) drawCenters(pen, ground);
  for (const row of new Set([map.hovered, state.open])) if (row >= 0) drawRow(pen, row, ground, ink);
  if (map.lasso) drawLasso(pen, ink);
}

function trace(pen, points, start, length, time) {
  pen.beginPath();
  const last = length - 1, whole = Math.floor(time * last);
  for (let step = 0; step <= whole; step++) {
    const [x, y] = toScreen([points[2 * (start + step)], points[2 * (start + step) + 1]]);
    step ? pen.lineTo(x, y) : pen.moveTo(x, y);
  }
  const end = toScreen(placeOnPath(points, start, last, time));
  pen.lineTo(...end);
  return end;
}

function strokeTwice(pen, ground, color, width) {
  Object.assign(pen, {strokeStyle: ground, lineWidth: width + 3});
  pen.stroke();
  Object.assign(pen, {strokeStyle: color, lineWidth: width});
  pen.stroke();
}

function drawCenters(pen, ground) {
  const shown = data.clusters.filter(({path, number}) =>
    path.length && !(state.color === "cluster" && state.hidden.has(String(number))));
  const width = data.clusters.length > 12 ? 2 : 4;  // Many thick ones would hide the paths.
  for (const {path, color} of shown) {
    const end = trace(pen, path, 0, path.length / 2, state.time), shade = toCss(onGround(toRgb(color)));
    strokeTwice(pen, ground, shade, width);
    drawDisc(pen, end, width + 1, shade, ground);
  }
  const places = [];
  for (const {path, color, number} of shown) {
    places.push(placeOfNumber(path, places));
    drawDisc(pen, places.at(-1), NUMBER_PX, toCss(onGround(toRgb(color))), ground);
    Object.assign(pen, {fillStyle: inkOn(onGround(toRgb(color))), font: "700 11px system-ui, sans-serif"});
    Object.assign(pen, {textAlign: "center", textBaseline: "middle"});
    pen.fillText(String(number), places.at(-1)[0], places.at(-1)[1] + 0.5);
  }
}

// A barycenter's number stands at its end, or as little behind as keeps it off the numbers that stand already.
function placeOfNumber(path, taken) {
  const back = time => toScreen(placeOnPath(path, 0, path.length / 2 - 1, time));
  const isFree = ([x, y]) => taken.every(other => Math.hypot(x - other[0], y - other[1]) > 2 * NUMBER_PX + 1);
  for (let part = 1; part > 0; part -= 0.01) {
    const place = back(part * state.time);
    if (isFree(place)) return place;
  }
  return back(state.time);
}

function drawDisc(pen, place, radius, color, ground) {
  pen.beginPath();
  pen.arc(...place, radius, 0, 7);
  Object.assign(pen, {fillStyle: color, strokeStyle: ground, lineWidth: 2});
  pen.fill();
  pen.stroke();
}

function drawRow(pen, row, ground, ink) {
  const start = data.starts[row], length = data.starts[row + 1] - start;
  if (!length || !hasPath(row)) return;
  const color = toCss(coloring().colorOf(row));
  trace(pen, data.points, start, length, 1);
  strokeTwice(pen, ground, color, 2.5);
  for (let step = 0; step < length; step++) {
    pen.beginPath();
    pen.arc(...toScreen([data.points[2 * (start + step)], data.points[2 * (start + step) + 1]]), step ? 2.5 : 4, 0, 7);
    Object.assign(pen, {fillStyle: step ? color : ground, strokeStyle: color, lineWidth: 1.5});
    pen.fill();
    pen.stroke();
  }
  pen.beginPath();
  pen.arc(...toScreen(placeAt(row, state.time)), 6, 0, 7);
  Object.assign(pen, {fillStyle: color, strokeStyle: ink, lineWidth: 2});
  pen.fill();
  pen.stroke();
}

function drawLasso(pen, ink) {
  pen.beginPath();
  map.lasso.forEach((point, i) => i ? pen.lineTo(...point) : pen.moveTo(...point));
  Object.assign(pen, {strokeStyle: ink, lineWidth: 1.5, fillStyle: "rgb(127 127 127 / .15)"});
  pen.setLineDash([5, 4]);
  pen.stroke();
  pen.setLineDash([]);
  pen.fill();
}

// One pointer drags the map, or draws the lasso; two zoom it.
function listenToPointer() {
  const {box} = map, fingers = new Map();
  let down = null;
  const at = event => {
    const {left, top} = box.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  box.addEventListener("pointerdown", event => {
    if (event.button) return;
    fingers.set(event.pointerId, at(event));
    down = {from: at(event), center: [...map.center], moved: fingers.size > 1};
    const wantsLasso = event.shiftKey || find("lasso").getAttribute("aria-pressed") === "true";
    map.lasso = wantsLasso && fingers.size === 1 ? [down.from.map(Math.round)] : null;
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", event => {
    const point = at(event);
    if (!down) return hover(point, event.pointerType);
    if (fingers.size === 2) return pinch(fingers, event.pointerId, point);
    fingers.set(event.pointerId, point);
    drag(down, point);
  });
  box.addEventListener("pointerup", event => {
    fingers.delete(event.pointerId);
    if (down && !fingers.size) letGo(down, at(event), event.ctrlKey || event.metaKey);
    down = null;
  });
  box.addEventListener("pointercancel", event => {
    fingers.delete(event.pointerId);
    down = map.lasso = null;
    redraw();
  });
  box.addEventListener("pointerleave", () => { hover(null); find("map-hint").hidden = true; });
  box.addEventListener("wheel", event => {
    // Who scrolls the page past the map does not want to zoom it: a click on the map, or Ctrl, says who does.
    const wantsZoom = event.ctrlKey || event.metaKey || document.activeElement === box;
    find("map-hint").hidden = wantsZoom;
    if (!wantsZoom) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), at(event));
  }, {passive: false});
  box.addEventListener("keydown", pressOnMap);
}

function drag(down, point) {
  down.moved ||= Math.hypot(point[0] - down.from[0], point[1] - down.from[1]) > 4;
  if (map.lasso) drawOn(map.lasso, point);
  else if (down.moved) {
    const [right, below] = [point[0] - down.from[0], point[1] - down.from[1]];
    map.center = [down.center[0] - right / map.scale, down.center[1] + below / map.scale];
    moved();
  }
  redraw();
}

// A lasso's corners are whole pixels, and no two are next to each other: it may be long, and travel to a server.
function drawOn(lasso, point) {
  const [x, y] = lasso.at(-1), next = point.map(Math.round);
  if (Math.hypot(next[0] - x, next[1] - y) > 1.5) lasso.push(next);
}

function pinch(fingers, moving, point) {
  const [other] = [...fingers].filter(([id]) => id !== moving).map(([, place]) => place);
  const apart = place => Math.hypot(place[0] - other[0], place[1] - other[1]) || 1;
  zoom(apart(point) / apart(fingers.get(moving)), [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2]);
  fingers.set(moving, point);
}

function letGo(down, point, add) {
  const {lasso} = map;
  map.lasso = null;
  if (lasso && down.moved) selectInside(lasso, add);
  else if (!down.moved) clickAt(point, add);
  redraw();
}

function pressOnMap(event) {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
  if (step) map.center = map.center.map((value, c) => value + step[c] * 40 / map.scale);
  else if (event.key === "+" || event.key === "=") zoom(1.25);
  else if (event.key === "-") zoom(0.8);
  else if (event.key === "0") showWhole();
  else if (event.key === "Escape") select([]);
  else return;
  event.preventDefault();
  moved();
}

function zoom(factor, [x, y] = [map.width / 2, map.height / 2]) {
  const place = toPlace([x, y]);
  map.scale = Math.min(Math.max(map.scale * factor, map.least), map.least * 4000);
  const now = toPlace([x, y]);
  map.center = map.center.map((value, c) => value + place[c] - now[c]);
  moved();
}

// While the map moves, fewer paths are drawn; when it rests, those that are in view then.
function moved() {
  map.moving = true;
  clearTimeout(map.rest);
  map.rest = setTimeout(() => { map.moving = false; redraw("rows", "colors"); }, 160);
  redraw();
}

function clickAt(point, add) {
  const row = rowAt(point);
  if (row >= 0) select([row], {add, open: row});
  else if (!add) update({selected: new Set()});
}

function hover(point, pointerType) {
  const row = point && pointerType !== "touch" ? rowAt(point) : -1;
  const tip = find("map-tip");
  tip.hidden = row < 0;
  if (row >= 0) {
    const said = data.columns.filter(column => column.kind === "text").slice(0, 2).map(column => textOf(column, row));
    if (data.names[row] === undefined) fetchTexts([row]).then(() => row === map.hovered && hover(point, pointerType));
    tip.replaceChildren(make("b", {}, data.names[row] ?? "…"), make("span", {},
      [nameOfCluster(data.cluster[row]), ...said].filter(Boolean).join(" · ")), make("span", {}, data.captions[row] ?? ""));
    const left = Math.min(point[0] + 14, map.width - 250), top = Math.min(point[1] + 14, map.height - 70);
    tip.style.transform = `translate(${left}px, ${top}px)`;
  }
  if (row !== map.hovered) { map.hovered = row; redraw(); }
}

// The video whose dot, or else whose path, is nearest to a place on the screen, within reach.
function rowAt([x, y]) {
  let best = -1, least = REACH ** 2;
  for (const row of map.dotRows) {
    const [a, b] = toScreen(placeAt(row, state.time)), away = (a - x) ** 2 + (b - y) ** 2;
    if (away < least) [best, least] = [row, away];
  }
  if (best >= 0) return best;
  least = (REACH - 3) ** 2;
  const [px, py] = toPlace([x, y]), unit = map.scale ** 2;
  for (const row of map.rows) {
    for (let at = 2 * data.starts[row]; at + 2 < 2 * data.starts[row + 1]; at += 2) {
      const away = distanceToSegment(px, py, data.points, at) * unit;
      if (away < least) [best, least] = [row, away];
    }
  }
  return best;
}

function distanceToSegment(x, y, points, at) {
  const dx = points[at + 2] - points[at], dy = points[at + 3] - points[at + 1];
  const part = Math.min(Math.max(((x - points[at]) * dx + (y - points[at + 1]) * dy) / (dx * dx + dy * dy || 1), 0), 1);
  return (points[at] + part * dx - x) ** 2 + (points[at + 1] + part * dy - y) ** 2;
}

// The videos whose dots lie inside a polygon on the screen.
function rowsInside(polygon) {
  const inside = ([x, y]) => {
    let is = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
      const [[xi, yi], [xj, yj]] = [polygon[i], polygon[j]];
      if (yi > y !== yj > y && x < (xj - xi) * (y - yi) / (yj - yi) + xi) is = !is;
    }
    return is;
  };
  const found = [];
  for (let row = 0; row < data.n; row++) {
    if (matching[row] && inside(toScreen(placeAt(row, state.time)))) found.push(row);
  }
  return found;
}
