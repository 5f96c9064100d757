// The pane's drawings: a video's path beside its cluster's, and the alignment of the two.

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const colorOfCluster = row => toCss(onGround(toRgb(clusterOf(data.cluster[row])?.color ?? "#a7adb8")));

// Returns what maps a place of two paths into a box of 200 by 120.
function fitPaths(...paths) {
  const xs = paths.flatMap(path => [...path].filter((_, i) => i % 2 === 0));
  const ys = paths.flatMap(path => [...path].filter((_, i) => i % 2));
  const left = Math.min(...xs), bottom = Math.min(...ys), wide = Math.max(...xs) - left, high = Math.max(...ys) - bottom;
  const scale = Math.min(180 / (wide || 1e-9), 100 / (high || 1e-9));
  return ([x, y]) => [100 + (x - left - wide / 2) * scale, 60 - (y - bottom - high / 2) * scale];
}

function pathFigure(row) {
  const mine = pathOf(row), theirs = clusterOf(data.cluster[row])?.path ?? [];
  if (mine.length < 4) return null;
  const fit = fitPaths(mine, theirs), color = colorOfCluster(row);
  const places = path => Array.from({length: path.length / 2}, (_, i) => fit([path[2 * i], path[2 * i + 1]]));
  const line = path => places(path).map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  const label = "the video's path on the map, and its cluster's barycenter";
  const svg = draw("svg", {viewBox: "0 0 200 120", role: "img", "aria-label": label},
    draw("polyline", {points: line(theirs), class: "center", stroke: color}),
    draw("polyline", {points: line(mine), class: "mine"}),
    ...places(mine).map(([cx, cy], i) => draw("circle", {cx, cy, r: i ? 1.8 : 3.2, class: i ? "step" : "step first"})),
    draw("circle", {r: 4, class: "now", fill: color}));
  svg.placeAt = time => fit(placeOnPath(mine, 0, mine.length / 2 - 1, time));
  const said = `Its path (thin, from the ring on) and ${nameOfCluster(data.cluster[row])}'s barycenter (thick).`;
  return make("figure", {class: "path"}, svg, make("figcaption", {}, said));
}

// Which moment of the video meets which step of its center: links between the two, and the same as a heat map.
function alignmentFigure(row) {
  if (!canAlign(row)) return null;
  const {expected, nx, nz} = alignWithCenter(row);
  return make("figure", {class: "alignment"}, make("h4", {}, "Which moment meets which step of its center"),
    linksFigure(expected, nx, nz, colorOfCluster(row)), ...filmOfCenter(row), heatMap(expected, nx, nz),
    make("figcaption", {}, "The expected alignment of soft-DTW: the video's moments from left to right, the center's "
      + "steps from bottom to top. A diagonal keeps the usual pace; a level stretch lingers at one step."));
}

function linksFigure(expected, nx, nz, stroke) {
  const across = (i, n) => n > 1 ? 5 + 190 * i / (n - 1) : 100, lines = [];
  for (let i = 0; i < nz; i++) for (let j = 0; j < nx; j++) {
    const likely = expected[i * nx + j], ends = {x1: across(j, nx), y1: 4, x2: across(i, nz), y2: 46};
    if (likely > 0.03) lines.push(draw("line", {...ends, stroke, "stroke-opacity": likely.toFixed(2)}));
  }
  const dots = (n, cy) => Array.from({length: n}, (_, i) => draw("circle", {cx: across(i, n), cy, r: 1.6, class: "step"}));
  const label = "links between the video's moments and its center's steps";
  return draw("svg", {viewBox: "0 0 200 50", role: "img", class: "links", "aria-label": label},
    ...lines, ...dots(nx, 4), ...dots(nz, 46));
}

// A center has no pictures of its own: the video nearest to it stands for it.
function filmOfCenter(row) {
  const near = clusterOf(data.cluster[row]).central[0];
  const strip = near === undefined || near === row ? null : stripOf(near);
  if (!strip && (near === undefined || near === row || !window.raypipe)) return [];
  const alt = "the video nearest to the center, in order of time";
  return [!strip ? pictureToCome(near, alt)
    : make("div", {style: widthOf(strip.times.length, strip.aspect)}, pictureOf(strip, alt)),
    make("figcaption", {}, "Above this video, below the center, shown by the video nearest to it.")];
}

function heatMap(expected, nx, nz) {
  const label = `expected alignment, ${nx} moments by ${nz} steps`;
  const canvas = make("canvas", {width: nx, height: nz, class: "heat", role: "img", "aria-label": label});
  const pen = canvas.getContext("2d"), picture = pen.createImageData(nx, nz), ramp = RAMP.map(toRgb);
  for (let i = 0; i < nz; i++) for (let j = 0; j < nx; j++) {
    picture.data.set([...onRamp(ramp, expected[i * nx + j]), 255], 4 * ((nz - 1 - i) * nx + j));
  }
  pen.putImageData(picture, 0, 0);
  return canvas;
}
