// The pane of one video: its film strip, its path beside its cluster's, the alignment of the two, and its neighbours.

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function startDetails() {
  listeners.push(changed => {
    if (changed.has("open") || changed.has("theme")) showDetails(state.open);
    if (changed.has("time")) moveCursor();
  });
}

function showDetails(row) {
  const pane = find("details");
  if (row < 0) return pane.replaceChildren(make("p", {class: "muted"},
    "Choose a video on the map, in the table or in a cluster: here you see it over time, beside its cluster."));
  pane.replaceChildren(...[
    heading(row), factsOf(row), playerOf(row), oddPart(row), filmOf(row), pathFigure(row), alignmentFigure(row), neighboursOf(row),
  ].filter(Boolean));
  moveCursor();
}

function heading(row) {
  const link = data.links[row], name = make("bdi", {}, data.names[row]);
  return make("header", {}, make("h3", {}, chipOf(data.cluster[row]), " ", link ? make("a", {href: link}, name) : name),
    make("button", {type: "button", class: "close", "aria-label": "close this video", onclick: () => update({open: -1})}, "×"));
}

function factsOf(row) {
  const pairs = data.columns.map(column => [column.title, textOf(column, row)]).filter(([, text]) => text !== "");
  return make("div", {}, data.captions[row] ? make("p", {class: "caption"}, make("bdi", {}, data.captions[row])) : null,
    make("dl", {}, ...pairs.flatMap(([title, text]) => [make("dt", {}, title), make("dd", {}, make("bdi", {}, text))])));
}

// Only where a server plays the videos (raypipe explore); a page from disk has pictures alone.
function playerOf(row) {
  const videosAt = document.documentElement.dataset.videos;
  if (!videosAt) return null;
  const start = data.origin[row] || 0;
  const video = make("video", {controls: true, preload: "metadata", muted: true, src: `${videosAt}${encodeURIComponent(data.ids[row])}#t=${start}`});
  video.addEventListener("timeupdate", () => {
    if (data.span[row] > 0) update({time: Math.min(Math.max((video.currentTime - start) / data.span[row], 0), 1)});
  });
  return video;
}

function oddPart(row) {
  if (!data.outlier[row] || !data.reasons[row]) return null;
  const [from, to] = [data.oddStart[row], data.oddEnd[row]];
  return make("p", {class: "odd"}, make("b", {}, "Outlier: "), data.reasons[row],
    Number.isFinite(from) ? ` (${from.toFixed(1)} to ${to.toFixed(1)} s)` : "");
}

// Where a second of the file lies in the video, 0 its start and 1 its end.
const partOf = (row, second) => data.span[row] > 0 ? Math.min(Math.max((second - (data.origin[row] || 0)) / data.span[row], 0), 1) : NaN;

function stripOf(row) {
  const at = data.stripOf[row];
  if (at < 0) return null;
  const bytes = data.film.subarray(data.filmStarts[at], data.filmStarts[at + 1]);
  const times = [...data.filmTimes.subarray(data.filmTimeStarts[at], data.filmTimeStarts[at + 1])];
  return {source: `data:image/webp;base64,${encodeBase64(bytes)}`, times};
}

function filmOf(row) {
  const strip = stripOf(row);
  if (!strip) return make("p", {class: "muted small"}, "This page holds no pictures of this video: raypipe explore shows each.");
  const n = strip.times.length, [from, to] = [partOf(row, data.oddStart[row]), partOf(row, data.oddEnd[row])];
  const mark = Number.isFinite(from) && data.outlier[row]
    ? make("div", {class: "odd-mark", title: "the part that is odd", style: `left:${100 * from}%;width:${Math.max(100 * (to - from), 1)}%`}) : null;
  return make("figure", {class: "film"},
    make("div", {class: "reel"}, make("img", {src: strip.source, alt: `${n} pictures of the video, in order of time`, style: `aspect-ratio:${n}/1`}),
      mark, make("div", {class: "cursor"})),
    make("div", {class: "times", style: `grid-template-columns:repeat(${n},1fr)`}, ...strip.times.map(t => make("span", {}, `${t.toFixed(1)} s`))));
}

function pathFigure(row) {
  const cluster = clusterOf(data.cluster[row]), mine = pathOf(row), theirs = cluster?.path ?? [];
  if (mine.length < 4) return null;
  const all = [...mine, ...theirs], xs = all.filter((_, i) => i % 2 === 0), ys = all.filter((_, i) => i % 2);
  const [left, bottom] = [Math.min(...xs), Math.min(...ys)], size = Math.max(Math.max(...xs) - left, Math.max(...ys) - bottom) || 1;
  const wide = Math.max(...xs) - left, high = Math.max(...ys) - bottom;
  const place = (points, i) => [10 + (points[2 * i] - left + (size - wide) / 2) / size * 180, 110 - (points[2 * i + 1] - bottom + (size - high) / 2) / size * 100];
  const line = points => Array.from({length: points.length / 2}, (_, i) => place(points, i).map(v => v.toFixed(1)).join(",")).join(" ");
  const color = toCss(onGround(toRgb(cluster?.color ?? "#a7adb8")));
  const svg = draw("svg", {viewBox: "0 0 200 120", role: "img", "aria-label": "the video's path on the map, and its cluster's barycenter"},
    draw("polyline", {points: line(theirs), class: "center", stroke: color}), draw("polyline", {points: line(mine), class: "mine"}),
    ...Array.from({length: mine.length / 2}, (_, i) => {
      const [cx, cy] = place(mine, i);
      return draw("circle", {cx, cy, r: i ? 1.8 : 3.2, class: i ? "step" : "step first"});
    }), draw("circle", {r: 4, class: "now", fill: color}));
  svg.placeAt = time => {
    const [x, y] = placeOnPath(mine, 0, mine.length / 2 - 1, time);
    return place([x, y], 0);
  };
  return make("figure", {class: "path"}, svg, make("figcaption", {}, `Its path (thin, from the ring on) and ${nameOfCluster(data.cluster[row])}'s barycenter (thick).`));
}

// Which moment of the video meets which step of its center: links between the two, and the same as a heat map.
function alignmentFigure(row) {
  if (!canAlign(row)) return null;
  const {expected, nx, nz} = alignWithCenter(row), color = toCss(onGround(toRgb(clusterOf(data.cluster[row]).color)));
  const x = (i, n) => n > 1 ? 5 + 190 * i / (n - 1) : 100, links = [];
  for (let i = 0; i < nz; i++) for (let j = 0; j < nx; j++) {
    const p = expected[i * nx + j];
    if (p > 0.03) links.push(draw("line", {x1: x(j, nx), y1: 4, x2: x(i, nz), y2: 46, stroke: color, "stroke-opacity": p.toFixed(2)}));
  }
  const dots = (n, y) => Array.from({length: n}, (_, i) => draw("circle", {cx: x(i, n), cy: y, r: 1.6, class: "step"}));
  const svg = draw("svg", {viewBox: "0 0 200 50", role: "img", class: "links", "aria-label": "links between the video's moments and its center's steps"}, ...links, ...dots(nx, 4), ...dots(nz, 46));
  const near = clusterOf(data.cluster[row]).central[0], strip = near === undefined || near === row ? null : stripOf(near);
  return make("figure", {class: "alignment"}, make("h4", {}, "Which moment meets which step of its center"), svg,
    strip ? make("img", {src: strip.source, alt: "the video nearest to the center, in order of time", style: `aspect-ratio:${strip.times.length}/1`}) : null,
    strip ? make("figcaption", {}, "Above this video, below the center, shown by the video nearest to it.") : null,
    heatMap(expected, nx, nz),
    make("figcaption", {}, "The expected alignment of soft-DTW: the video's moments from left to right, the center's steps from bottom to top. A diagonal keeps the usual pace; a level stretch lingers at one step."));
}

function heatMap(expected, nx, nz) {
  const canvas = make("canvas", {width: nx, height: nz, class: "heat", role: "img", "aria-label": `expected alignment, ${nx} moments by ${nz} steps`});
  const pen = canvas.getContext("2d"), picture = pen.createImageData(nx, nz), ramp = RAMP.map(toRgb);
  for (let i = 0; i < nz; i++) for (let j = 0; j < nx; j++) {
    const at = Math.min(expected[i * nx + j], 1) * (ramp.length - 1), k = Math.min(Math.floor(at), ramp.length - 2);
    const color = ramp[k].map((value, c) => value + (ramp[k + 1][c] - value) * (at - k));
    picture.data.set([...color, 255], 4 * ((nz - 1 - i) * nx + j));
  }
  pen.putImageData(picture, 0, 0);
  return canvas;
}

function neighboursOf(row) {
  const near = nearestVideos(row, 6);
  if (!near.length) return null;
  const entry = other => make("li", {}, make("button", {type: "button", onclick: () => select([other], {open: other})},
    chipOf(data.cluster[other]), " ", make("bdi", {}, data.names[other])));
  return make("section", {}, make("h4", {}, "Nearest videos"), make("ol", {class: "near"}, ...near.map(entry)));
}

function moveCursor() {
  const pane = find("details");
  for (const cursor of pane.querySelectorAll(".cursor")) cursor.style.left = `${100 * state.time}%`;
  const svg = pane.querySelector(".path svg");
  if (!svg) return;
  const [x, y] = svg.placeAt(state.time), now = svg.querySelector(".now");
  now.setAttribute("cx", x);
  now.setAttribute("cy", y);
}
