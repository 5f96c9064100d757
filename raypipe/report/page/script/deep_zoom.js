// Shows a poster that zooms: the tiles of a deep-zoom pyramid, or one picture, which is a pyramid of one level and one
// tile. The viewer page beside a pyramid and the served page of a run are both drawn by it. `box` holds a canvas, an
// element of the class "said" and buttons with data-zoom; `facts` are those of raypipe/report/posters/viewer.py; `addressOf`
// makes the address of a tile of its "level/column_row"; `open` takes the frame that was clicked.

function showPyramid(box, facts, addressOf, open = null) {
  const canvas = box.querySelector("canvas"), pen = canvas.getContext("2d"), said = box.querySelector(".said");
  const kept = new Map(), MOST_KEPT = 800;
  const view = {x: 0, y: 0, scale: 1};  // Where the poster's corner lies on the canvas, and how large its pixels are.
  let due = false, fits = true;

  // A tile of a level, once it is there; those that were not drawn for the longest time are dropped.
  function take(level, column, row) {
    const key = `${level}/${column}_${row}`;
    let tile = kept.get(key);
    if (tile) kept.delete(key);
    else {
      tile = new Image();
      tile.onload = redraw;
      tile.src = addressOf(key);
    }
    kept.set(key, tile);
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    return tile.complete && tile.naturalWidth ? tile : null;
  }

  function drawLevel(level, ratio) {
    const shrunk = 2 ** (facts.levels - level), scale = view.scale * shrunk;
    const columns = Math.ceil(Math.ceil(facts.width / shrunk) / facts.tile);
    const rows = Math.ceil(Math.ceil(facts.height / shrunk) / facts.tile);
    const side = facts.tile * scale;
    const first = at => Math.max(0, Math.floor(-at / side));
    const after = (at, extent, n) => Math.min(n, Math.ceil((extent - at) / side));
    for (let row = first(view.y); row < after(view.y, canvas.height / ratio, rows); row++) {
      for (let column = first(view.x); column < after(view.x, canvas.width / ratio, columns); column++) {
        const tile = take(level, column, row);
        if (!tile) continue;
        const x = view.x + (column * facts.tile - (column ? facts.overlap : 0)) * scale;
        const y = view.y + (row * facts.tile - (row ? facts.overlap : 0)) * scale;
        pen.drawImage(tile, x, y, tile.naturalWidth * scale, tile.naturalHeight * scale);
      }
    }
  }

  function drawView() {
    due = false;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const sharp = Math.ceil(facts.levels + Math.log2(view.scale * ratio));
    const level = Math.min(facts.levels, Math.max(0, sharp));
    const whole = Math.min(level, 8);  // A level of one tile is soon there, and shows while the others are on their way.
    drawLevel(whole, ratio);
    if (level > whole + 2) drawLevel(level - 2, ratio);
    if (level > whole) drawLevel(level, ratio);
  }

  function redraw() {
    if (!due) requestAnimationFrame(drawView);
    due = true;
  }

  const leastScale = () => Math.min(canvas.clientWidth / facts.width, canvas.clientHeight / facts.height);

  function showAll() {
    view.scale = leastScale();
    view.x = (canvas.clientWidth - facts.width * view.scale) / 2;
    view.y = (canvas.clientHeight - facts.height * view.scale) / 2;
    fits = true;
    redraw();
  }

  function zoomBy(by, x, y) {
    const scale = Math.min(Math.max(view.scale * by, leastScale() / 2), 16);
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    fits = false;
    redraw();
  }

  function moveBy(x, y) {
    // Some of the poster stays in sight.
    view.x = Math.min(Math.max(view.x + x, 60 - facts.width * view.scale), canvas.clientWidth - 60);
    view.y = Math.min(Math.max(view.y + y, 60 - facts.height * view.scale), canvas.clientHeight - 60);
    fits = false;
    redraw();
  }

  // The frame at a place of the canvas: its video's number, and its time.
  function frameAt(x, y) {
    const grid = facts.grid;
    const column = Math.floor(((x - view.x) / view.scale - grid.margin) / grid.tile[0]);
    const row = Math.floor(((y - view.y) / view.scale - grid.margin) / grid.tile[1]);
    return column >= 0 && column < grid.columns && row >= 0 ? facts.frames[row * grid.columns + column] : undefined;
  }

  function tell(frame) {
    said.textContent = frame ? `${frame[1].toFixed(2)} s · ${facts.videos[frame[0]]}` : "";
  }

  const middle = () => [canvas.clientWidth / 2, canvas.clientHeight / 2];
  const fingers = new Map();
  let dragged = false;
  const placeOf = event => {
    const {left, top} = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  canvas.addEventListener("pointerdown", event => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    dragged = fingers.size > 0;
    fingers.set(event.pointerId, {from: placeOf(event), at: placeOf(event)});
  });
  canvas.addEventListener("pointermove", event => {
    const [x, y] = placeOf(event), finger = fingers.get(event.pointerId);
    tell(frameAt(x, y));
    if (!finger) return;
    const {from, at: before} = finger, other = [...fingers].find(([id]) => id !== event.pointerId)?.[1].at;
    dragged ||= Math.hypot(x - from[0], y - from[1]) > 4;
    if (other) {
      const away = at => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
      zoomBy(away([x, y]) / away(before), (x + other[0]) / 2, (y + other[1]) / 2);
      moveBy((x - before[0]) / 2, (y - before[1]) / 2);
    } else if (dragged) moveBy(x - before[0], y - before[1]);
    finger.at = [x, y];
  });
  canvas.addEventListener("pointerup", event => {
    if (!fingers.delete(event.pointerId) || fingers.size || dragged) return;
    const frame = frameAt(...placeOf(event));
    if (open && frame) open(frame);
  });
  canvas.addEventListener("pointercancel", event => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => tell());
  if (!open) canvas.addEventListener("dblclick", event => zoomBy(2, ...placeOf(event)));
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    zoomBy(2 ** (-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...placeOf(event));
  }, {passive: false});

  const act = by => by ? zoomBy(by, ...middle()) : showAll();
  for (const button of box.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => act(Number(button.dataset.zoom)));
  }
  const moves = {ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80]};
  const zooms = {"+": 2, "=": 2, "-": 0.5, 0: 0};
  box.addEventListener("keydown", event => {
    const frame = event.key === "Enter" && event.target === canvas && open ? frameAt(...middle()) : undefined;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) moveBy(...moves[event.key]);
    else if (event.key in zooms) act(zooms[event.key]);
    else if (frame) open(frame);
    else return;
    event.preventDefault();
    tell(frameAt(...middle()));
  });
  new ResizeObserver(() => fits ? showAll() : redraw()).observe(canvas);
  showAll();
}
