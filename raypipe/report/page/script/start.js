// Puts the views together.

let data;

// raypipe explore adds a script behind this one, which must have run before the views ask for it.
const parsed = new Promise(done => {
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", done, {once: true});
  else done();
});

async function start() {
  data = unpack(await inflate("explorer-data"));
  await parsed;
  startByView();
  startControls();
  startTable();
  startExports();
  startDetails();
  startClusters();
  startChecks();
  startSearch();
  startPoster();
  try {
    startMap();
  } catch (error) {
    say(`The map cannot be drawn: ${error.message}. The pictures below show the same.`);
    find("explorer").dataset.map = "no";
  }
  const from = readAddress();
  update({...from});
  showControls();
  addEventListener("hashchange", () => { if (location.hash.includes("=")) { update(readAddress()); showControls(); } });
  requestAnimationFrame(() => requestAnimationFrame(() => {
    performance.mark("first picture");
    find("explorer").dataset.ready = "yes";
  }));
}

function startControls() {
  find("color").append(...colorings().map(({key, title}) => make("option", {value: key}, title)));
  find("color").addEventListener("change", event => update({color: event.target.value, hidden: new Set()}));
  find("search").addEventListener("input", event => update({text: event.target.value}));
  find("outliers-only").addEventListener("change", event => update({outliersOnly: event.target.checked}));
  find("selected-only").addEventListener("change", event => update({selectedOnly: event.target.checked}));
  find("show-centers").addEventListener("change", () => redraw());
  find("lasso").addEventListener("click", event => {
    const pressed = event.currentTarget.getAttribute("aria-pressed") !== "true";
    event.currentTarget.setAttribute("aria-pressed", String(pressed));
  });
  find("whole").addEventListener("click", showWhole);
  find("clear").addEventListener("click", () => update({selected: new Set()}));
  find("time").addEventListener("input", event => { stopPlaying(); update({time: Number(event.target.value)}); });
  find("play").addEventListener("click", () => playing ? stopPlaying() : startPlaying());
  find("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    update({theme: isDark()});
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => update({theme: isDark()}));
  listeners.push(changed => {
    if (["color", "hidden", "theme"].some(key => changed.has(key))) { redrawColors(); showLegend(); }
    if (changed.has("time")) showTime();
    if (changed.has("selected")) showSelection();
  });
}

const redrawColors = () => map.painter && redraw("rows", "colors");

function showControls() {
  find("color").value = state.color;
  find("search").value = state.text;
  find("outliers-only").checked = state.outliersOnly;
  find("selected-only").checked = state.selectedOnly;
}

function showTime() {
  find("time").value = state.time;
  const said = `${Math.round(100 * state.time)} %`;
  find("time-said").textContent = said;
  find("time").setAttribute("aria-valuetext", said);
}

function showSelection() {
  const n = state.selected.size;
  find("selected-count").textContent = n ? `${showNumber(n)} selected` : "none selected";
  find("clear").disabled = !n;
  for (const button of document.querySelectorAll("[data-cluster]")) {
    const rows = data.members.get(Number(button.dataset.cluster)) ?? [];
    const isSelected = n > 0 && rows.length === n && rows.every(row => state.selected.has(row));
    button.setAttribute("aria-pressed", String(isSelected));
  }
}

function showLegend() {
  const legend = find("legend"), scale = coloring();
  if (scale.kind === "number") {
    const ramp = RAMP.map(hex => toCss(onGround(toRgb(hex)))).join(",");
    const bar = make("span", {class: "ramp", style: `background:linear-gradient(90deg,${ramp})`});
    return legend.replaceChildren(make("span", {}, showNumber(scale.low)), bar, make("span", {}, showNumber(scale.high)));
  }
  const shown = scale.entries.slice(0, 40), more = scale.entries.length - shown.length;
  legend.replaceChildren(...shown.map(entry => legendButton(entry, scale)));
  if (more) legend.append(make("span", {class: "muted"}, `and ${more} more`));
}

function legendButton({key, title, count}, scale) {
  const others = scale.entries.map(entry => entry.key).filter(each => each !== key);
  const button = {
    type: "button", "aria-pressed": String(!state.hidden.has(key)), title: "show or hide",
    onclick: () => toggle(key), ondblclick: () => update({hidden: new Set(others)}),
  };
  return make("button", button, make("i", {style: `background:${toCss(scale.colorOfKey(key))}`}),
    make("bdi", {}, title), make("span", {class: "muted"}, ` ${showNumber(count)}`));
}

function toggle(key) {
  const hidden = new Set(state.hidden);
  hidden.has(key) ? hidden.delete(key) : hidden.add(key);
  update({hidden});
}

// The cards of the clusters stand in the page already; here they are joined to the rest.
function startClusters() {
  data.members = new Map();
  for (let row = 0; row < data.n; row++) {
    if (!data.members.has(data.cluster[row])) data.members.set(data.cluster[row], []);
    data.members.get(data.cluster[row]).push(row);
  }
  for (const cluster of data.clusters) {
    const place = document.querySelector(`#cluster-${cluster.number < 0 ? "noise" : cluster.number} [data-slot]`);
    if (!place) continue;
    place.append(make("button", {type: "button", "data-cluster": cluster.number, "aria-pressed": "false",
      onclick: () => showOnMap(data.members.get(cluster.number), cluster.central[0] ?? -1)}, "Select on the map"));
    place.append(...buttonsOf("Most central", cluster.central), ...buttonsOf("Oddest", cluster.odd));
  }
}

function buttonsOf(title, rows) {
  const button = row => make("button", {type: "button", class: "video", onclick: () => showOnMap([row], row)},
    nameOf(row));
  return rows.length ? [make("p", {class: "small"}, `${title}: `, ...rows.map(button))] : [];
}

function showOnMap(rows, open) {
  select(rows, {open});
  find("explorer").scrollIntoView({block: "start"});
}

let playing = 0;
function startPlaying() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches, seconds = still ? 12 : 6;
  let last = performance.now(), time = state.time >= 1 ? 0 : state.time;
  find("play").textContent = "❚❚";
  find("play").setAttribute("aria-label", "pause");
  map.moving = true;
  const step = now => {
    time += (now - last) / 1000 / seconds;
    last = now;
    if (time >= 1) { update({time: 1}); return stopPlaying(); }
    update({time});
    playing = requestAnimationFrame(step);
  };
  playing = requestAnimationFrame(step);
}

function stopPlaying() {
  cancelAnimationFrame(playing);
  playing = 0;
  map.moving = false;
  find("play").textContent = "▶";
  find("play").setAttribute("aria-label", "play");
  redraw();
}

const say = text => { find("explorer-failure").textContent = text; };

// What fails is said where the map would be; the pictures below it need no script.
start().catch(error => {
  find("explorer").dataset.ready = "no";
  say(`The videos cannot be explored: ${error.message}. The pictures below show them.`);
});
