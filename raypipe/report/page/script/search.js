// Search on a served page: videos like the open one, like a part of it, or like words. The server finds them
// (docs/page_server.md); a page from disk has nobody to ask, and shows nothing of this. What is searched for stands in
// the page's address, and a page that is opened with it searches again.

// The video that is searched by, −1 where none is open; and what has been asked of the server.
const finder = {row: null, from: null, to: null, asked: "null", stop: null};
const QUERY_PICTURES = 14, FOUND_PICTURES = 6;

function startSearch() {
  const section = find("finder");
  if (!section || !window.raypipe) return;
  const option = (value, text) => make("option", {value}, text);
  const field = end => make("input", {type: "number", step: "0.1", min: "0", inputmode: "decimal",
    oninput: event => markPart({[end]: event.target.value === "" ? null : Number(event.target.value)})});
  Object.assign(finder, {
    name: make("p", {class: "query", "aria-live": "polite"}),
    strip: make("div", {class: "reel mark"}),
    mark: make("div", {class: "part"}),
    start: field("from"), end: field("to"),
    whole: make("button", {type: "button", onclick: () => markPart({from: null, to: null})}, "Whole video"),
    order: make("select", {"aria-label": "which videos"}, option("", "most alike"), option("least", "least alike")),
    count: make("select", {}, ...[9, 20, 50, 100].map(n => option(n, String(n)))),
    go: make("button", {type: "button", class: "main", onclick: () => searchLike()}),
    words: make("input", {type: "search", placeholder: "a hand opens a drawer", autocomplete: "off", maxlength: "300"}),
    status: make("p", {class: "status", role: "status"}),
    failure: make("p", {class: "failure", role: "alert"}),
    found: make("div", {class: "found"}),
  });
  section.append(
    make("p", {class: "lead"}, "Find videos like the open one, where a part of it happens in others, or what words say."),
    make("div", {class: "card"}, ...exampleForm(), wordsForm(section.dataset.noWords)),
    finder.status, finder.failure, finder.found);
  for (const each of document.querySelectorAll(".served")) each.hidden = false;
  listenToMark();
  listeners.push(changed => {
    if (changed.has("open") && state.open < 0) showQuery(-1);
    if (changed.has("query") && JSON.stringify(state.query) !== finder.asked) searchFor(state.query);
  });
  showQuery(-1);
}

function exampleForm() {
  return [
    make("h3", {}, "By example"), finder.name, finder.strip,
    make("div", {class: "bar"},
      make("label", {}, "from ", finder.start, " s"), make("label", {}, "to ", finder.end, " s"), finder.whole,
      make("span", {class: "muted small"}, "Drag over the pictures to mark a part, or type its seconds.")),
    make("div", {class: "bar"}, make("label", {}, "Show the ", finder.count), finder.order, finder.go),
  ];
}

function wordsForm(why) {
  const title = make("h3", {}, "By words");
  if (why) {
    return make("form", {}, title, make("p", {class: "muted small"}, `This run cannot be searched for words: ${why}.`));
  }
  const submit = event => {
    event.preventDefault();
    const words = finder.words.value.trim();
    if (words) askFor({words});
  };
  return make("form", {onsubmit: submit}, title, make("div", {class: "bar"},
    make("label", {class: "grow"}, make("span", {class: "unseen"}, "Words"), finder.words),
    make("button", {type: "submit", class: "main"}, "Find what these words say")));
}

// The buttons of the pane. It shows a video once all of it is known, so the search takes it from here.
function offerSearch(row) {
  if (!finder.strip) return;
  showQuery(row);
  const button = (text, act) => make("button", {type: "button", onclick: act}, text), section = find("finder");
  const look = order => {
    finder.order.value = order;
    markPart({from: null, to: null});
    searchLike();
    section.scrollIntoView({block: "start"});
  };
  const mark = () => {
    section.scrollIntoView({block: "start"});
    finder.start.focus({preventScroll: true});
  };
  find("details").querySelector(".play")?.append(button("Find most like this", () => look("")),
    button("Least like this", () => look("least")), button("Find a part of it …", mark));
}

function showQuery(row) {
  if (row === finder.row) return;
  const {from = null, to = null} = state.query?.like === row ? state.query : {};
  Object.assign(finder, {row, from, to});
  const span = row < 0 ? NaN : data.span[row], begin = row < 0 ? 0 : data.origin[row] || 0;
  finder.name.replaceChildren(...row < 0
    ? [make("span", {class: "muted"}, "Open a video first: on the map, in the table, or in a cluster.")]
    : [chipOf(data.cluster[row]), " ", make("bdi", {}, data.names[row])]);
  // Of a part of a file the seconds do not begin at 0, and the pictures above do not tell it.
  for (const [input, second] of [[finder.start, begin], [finder.end, begin + span]]) {
    input.disabled = row < 0;
    input.placeholder = span > 0 ? String(Number(second.toFixed(2))) : "";
    input.min = begin;
    input.max = span > 0 ? begin + span : "";
  }
  finder.strip.hidden = !(span > 0);
  finder.strip.replaceChildren();
  if (span > 0) {
    finder.strip.append(pictureOfServer(data.ids[row], QUERY_PICTURES, "the open video, in order of time"), finder.mark);
  }
  markPart({});
}

// A strip of pictures from the server; where the run has none, a plain bar stands for the video's time.
function pictureOfServer(id, n, alt) {
  const src = `filmstrip/${encodeURIComponent(id)}?n=${n}&height=64&parted=true`;
  const image = make("img", {src, alt, draggable: "false"});
  image.addEventListener("error", () => image.replaceWith(make("div", {class: "none"}, "No pictures")));
  return image;
}

function markPart(changes) {
  Object.assign(finder, changes);
  const {row, from, to} = finder, isPart = from !== null || to !== null;
  for (const [input, value] of [[finder.start, from], [finder.end, to]]) {
    const isTyped = document.activeElement === input && value !== null;  // What is being typed is left as it is.
    if (!isTyped) input.value = value === null ? "" : String(Number(value.toFixed(2)));
  }
  finder.whole.disabled = !isPart;
  finder.go.disabled = row < 0;
  finder.go.textContent = isPart ? "Find where this part happens" : "Find videos like this one";
  finder.mark.hidden = !isPart;
  if (isPart) placeMark(finder.mark, data.origin[row] || 0, data.span[row], ...partMarked());
}

// A part with one end goes from the video's start, or to its end.
function partMarked() {
  const begin = data.origin[finder.row] || 0;
  return [finder.from ?? begin, finder.to ?? begin + (data.span[finder.row] || 0)];
}

// Marks a part of a strip that shows so many seconds of a file from a second on.
function placeMark(mark, origin, span, from, to) {
  const [left, right] = [from, to].map(second => Math.min(Math.max((second - origin) / span, 0), 1));
  mark.style.left = `${100 * left}%`;
  mark.style.width = `${100 * Math.max(right - left, 0)}%`;
}

function listenToMark() {
  const {strip} = finder;
  let anchor = null;
  const secondAt = event => {
    const {left, width} = strip.getBoundingClientRect();
    const part = Math.min(Math.max((event.clientX - left) / width, 0), 1);
    return Number(((data.origin[finder.row] || 0) + part * data.span[finder.row]).toFixed(2));
  };
  strip.addEventListener("pointerdown", event => {
    if (event.button || finder.row < 0) return;
    anchor = {x: event.clientX, second: secondAt(event)};
    strip.setPointerCapture(event.pointerId);
  });
  strip.addEventListener("pointermove", event => {
    if (!anchor || Math.abs(event.clientX - anchor.x) < 4) return;
    const second = secondAt(event);
    markPart({from: Math.min(anchor.second, second), to: Math.max(anchor.second, second)});
  });
  for (const name of ["pointerup", "pointercancel"]) strip.addEventListener(name, () => { anchor = null; });
}

function searchLike() {
  const {row, from, to} = finder;
  if (row < 0) return;
  const [begin, end] = partMarked();
  askFor({like: row, ...(from !== null || to !== null ? {from: begin, to: end} : {})});
}

function askFor(query) {
  finder.asked = "";  // The same search may be wanted once more.
  update({query: {...query, ...(finder.order.value ? {least: 1} : {}), count: Number(finder.count.value)}});
}

// Asks the server, and says for how long it has been asked; a later search takes the place of an earlier one.
async function searchFor(query) {
  finder.asked = JSON.stringify(query);
  finder.stop?.abort();
  finder.failure.textContent = "";
  finder.found.replaceChildren();
  finder.status.replaceChildren();
  if (!query) return;
  const stop = finder.stop = new AbortController(), began = performance.now();
  const seconds = make("span", {"aria-hidden": "true"});
  const cancel = make("button", {type: "button", onclick: () => update({query: null})}, "Cancel");
  finder.order.value = query.least ? "least" : "";
  if ([...finder.count.options].some(({value}) => value === String(query.count))) finder.count.value = query.count;
  if (query.words && finder.words.isConnected) finder.words.value = query.words;
  finder.status.replaceChildren(make("progress", {"aria-label": "searching"}), " Searching … ", seconds, " ", cancel);
  const timer = setInterval(() => {
    seconds.textContent = `${Math.round((performance.now() - began) / 1000)} s`;
  }, 1000);
  try {
    if (!query.words) await fetchTexts([query.like]);
    const {videos} = await raypipe.ask(`search?${questionOf(query)}`, stop.signal);
    if (raypipe.isStale) for (const video of videos) video.row = null;  // It is another video's place here.
    if (!stop.signal.aborted) showFound(videos, `${query.least ? "least" : "most"} ${saidOf(query)}`);
  } catch (error) {
    if (!stop.signal.aborted) { finder.failure.textContent = error.message; finder.status.replaceChildren(); }
  } finally {
    clearInterval(timer);
  }
}

function questionOf({like, words, from, to, least, count}) {
  const all = {text: words, like: data.ids[like], from_s: from, to_s: to, least: least && "true", n: count};
  return new URLSearchParams(Object.entries(all).filter(([, value]) => value !== undefined));
}

function saidOf({like, words, from, to}) {
  if (words) return `like “${words}”`;
  const part = [["from", from], ["to", to]].filter(([, second]) => second !== undefined);
  return [`like ${data.names[like]}`, ...part.map(([end, second]) => `${end} ${showNumber(second)} s`)].join(" ");
}

function showFound(videos, said) {
  const rows = [...new Set(videos.map(video => video.row).filter(row => row !== null))];
  finder.status.textContent = videos.length ? `Found ${videos.length}, ${said}.` : "Nothing was found.";
  finder.found.replaceChildren(make("ol", {}, ...videos.map(foundItem)));
  const all = {type: "button", onclick: () => showOnMap(rows, -1)};
  if (rows.length) finder.found.prepend(make("button", all, "Select all found on the map"));
}

// A video that was found: its strip plays it from the moment that was found, its name opens it on the map. Of a
// trajectory alone there is a strip where it shows a part.
function foundItem({video_id: id, name, row, cluster, distance, start_s: from, end_s: to, origin_s: origin, span_s: span}) {
  const isPart = from !== null, when = isPart ? `${from.toFixed(1)} to ${to.toFixed(1)} s` : "";
  const strip = [pictureOfServer(id, FOUND_PICTURES, "")], title = make("bdi", {}, name);
  if (isPart && span > 0) {
    strip.push(make("span", {class: "part"}));
    placeMark(strip[1], origin, span, from, to);
  }
  const play = {type: "button", class: "reel", "aria-label": `play ${name} ${when}`.trim(),
    onclick: () => raypipe.play(id, isPart ? from : undefined)};
  const shown = data.hasVideos ? make("button", play, ...strip) : isPart ? make("div", {class: "reel"}, ...strip) : null;
  const open = {type: "button", class: "video", title: "open it on the map", onclick: () => showOnMap([row], row)};
  return make("li", {}, shown,
    make("div", {class: "told"}, cluster === null ? null : chipOf(cluster),
      row === null ? title : make("button", open, title),
      make("span", {class: "muted small"}, [when, `distance ${showNumber(distance)}`].filter(Boolean).join(" · "))));
}
