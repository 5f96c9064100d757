// The pane of one video: its film strip, its path beside its cluster's, the alignment of the two, and its neighbours.

function startDetails() {
  listeners.push(changed => {
    if (changed.has("open") || changed.has("theme")) showDetails(state.open);
    else if (changed.has("selected")) find("details").querySelector(".play")?.replaceWith(playerOf(state.open));
    if (changed.has("time")) moveCursor();
  });
}

function showDetails(row) {
  const pane = find("details");
  if (row < 0) return pane.replaceChildren(make("p", {class: "muted"},
    "Choose a video on the map, in the table or in a cluster: here you see it over time, beside its cluster."));
  if (!isHere(row)) return showComing(row);
  pane.replaceChildren(...[
    heading(row), factsOf(row), playerOf(row), oddPart(row), filmOf(row), neighboursOf(row), pathFigure(row),
    alignmentFigure(row),
  ].filter(Boolean));
  moveCursor();
  offerSearch(row);
}

function heading(row) {
  const link = data.links[row], name = make("bdi", {}, data.names[row]);
  const close = {type: "button", class: "close", "aria-label": "close this video", onclick: () => update({open: -1})};
  return make("header", {},
    make("h3", {}, chipOf(data.cluster[row]), " ",
      link ? make("a", {href: link, "data-video": data.ids[row]}, name) : name),
    make("button", close, "×"));
}

function factsOf(row) {
  const pairs = data.columns.map(column => [column.title, textOf(column, row)]).filter(([, text]) => text !== "");
  const caption = data.captions[row] ? make("p", {class: "caption"}, make("bdi", {}, data.captions[row])) : null;
  const entry = ([title, text]) => [make("dt", {}, title), make("dd", {}, make("bdi", {}, text))];
  return make("div", {}, caption, make("dl", {}, ...pairs.flatMap(entry)));
}

// Only where raypipe explore serves the page, with a player; a page from disk has pictures alone.
function playerOf(row) {
  const player = window.raypipe;
  if (!player) return null;
  if (!data.hasVideos) return make("p", {class: "play"});  // Of trajectories alone there is the search.
  const begin = data.origin[row] || 0;
  const from = () => begin + (state.time < 1 ? state.time : 0) * (data.span[row] || 0);
  const others = [...state.selected].filter(other => other !== row);
  const hasOthers = others.length || data.byView || nearestVideos(row, 1).length;
  return make("p", {class: "play"},
    make("button", {
      type: "button", onclick: () => player.play(data.ids[row], from()),
    }, "▶ Play from the time of the map"),
    hasOthers ? make("button", {
      type: "button", onclick: () => playBeside(row, others, from()),
    }, others.length ? "▶ Play beside what is selected" : "▶ Play beside the nearest") : null);
}

function oddPart(row) {
  if (!data.outlier[row] || !data.reasons[row]) return null;
  const [from, to] = [data.oddStart[row], data.oddEnd[row]];
  const isSaid = !Number.isFinite(from) || data.reasons[row].includes(`${from.toFixed(1)} s`);
  return make("p", {class: "odd"}, make("b", {}, "Outlier: "), data.reasons[row],
    isSaid ? "" : ` (${from.toFixed(1)} to ${to.toFixed(1)} s)`);
}

// Where a second of the file lies in the video, 0 its start and 1 its end.
function partOf(row, second) {
  if (!(data.span[row] > 0)) return NaN;
  return Math.min(Math.max((second - (data.origin[row] || 0)) / data.span[row], 0), 1);
}

function stripOf(row) {
  const at = data.stripOf[row];
  if (at < 0) return null;
  const bytes = data.film.subarray(data.filmStarts[at], data.filmStarts[at + 1]);
  const times = [...data.filmTimes.subarray(data.filmTimeStarts[at], data.filmTimeStarts[at + 1])];
  return {source: `data:image/webp;base64,${encodeBase64(bytes)}`, times, aspect: data.filmAspect[at]};
}

function pictureOf(strip, alt) {
  return make("img", {src: strip.source, alt, style: `aspect-ratio:${strip.times.length * strip.aspect}`});
}

// Fewer pictures than others have take less room, and pictures that are tall are as high as wide ones are wide.
const widthOf = (n, aspect) => `width:${100 * n / STRIP_PICTURES * Math.min(aspect, 1)}%`;

function filmOf(row) {
  if (!data.hasVideos) return null;
  const strip = stripOf(row);
  if (strip) return make("figure", {class: "film"}, ...filmParts(row, strip));
  if (window.raypipe) return filmToCome(row);
  return make("p", {class: "muted small"}, "This page holds no pictures of this video: raypipe explore shows each.");
}

function filmParts(row, strip) {
  const n = strip.times.length, width = widthOf(n, strip.aspect);
  const columns = `grid-template-columns:repeat(${n},minmax(0,1fr))`;
  const every = Math.ceil(0.6 / Math.min(strip.aspect, 1));  // Below narrow pictures there is no room for each time.
  return [
    make("div", {class: "reel", style: width}, pictureOf(strip, `${n} pictures of the video, in order of time`),
      oddMark(row), make("div", {class: "cursor"})),
    make("div", {class: "times", style: `${width};${columns}`}, ...strip.times.map((time, i) =>
      make("span", i % every ? {style: "visibility:hidden"} : {}, `${time.toFixed(1)} s`)))];
}

function oddMark(row) {
  const from = partOf(row, data.oddStart[row]), to = partOf(row, data.oddEnd[row]);
  if (!data.outlier[row] || !Number.isFinite(from)) return null;
  const style = `left:${100 * from}%;width:${Math.max(100 * (to - from), 1)}%`;
  return make("div", {class: "odd-mark", title: "the part that is odd", style});
}

function neighboursOf(row) {
  const entry = other => make("li", {}, make("button", {type: "button", onclick: () => select([other], {open: other})},
    chipOf(data.cluster[other]), " ", nameOf(other)));
  const list = make("ol", {class: "near"}), section = make("section", {}, make("h4", {}, "Nearest videos"), list);
  if (data.byView) nearToCome(row, list, entry);
  else list.append(...nearestVideos(row, 6).map(entry));
  return data.byView || list.children.length ? section : null;
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
