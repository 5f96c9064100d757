// The run's poster on a served page: drawn when it is asked for, by the viewer of deep_zoom.js; a click opens a video.

const MOST_PIXELS = 1e8;  // A browser holds a picture with four bytes a pixel; a pyramid's tiles are few at a time.

async function startPoster() {
  const section = find("poster");
  if (!section || !window.raypipe) return;
  const lead = section.querySelector(".lead");
  const facts = await raypipe.ask("poster").catch(error => { lead.textContent = error.message; });
  if (!facts) return;
  const address = `files/${encodeURIComponent(facts.file)}`, isPicture = !facts.levels;
  const tiles = `files/${encodeURIComponent(facts.name)}_files`;
  const n = Object.keys(facts.frames).length;
  const of = `${showNumber(n)} frames of ${countVideos(facts.rows.length)}`;
  lead.textContent = `${of}, each near its place on the map. A click on a frame opens its video.`;
  if (isPicture && facts.width * facts.height > MOST_PIXELS) {
    lead.append(" It is too large to be shown here: ", make("a", {href: address}, facts.file),
      "; raypipe poster RUN -o RUN/poster.dzi makes one that zooms.");
    return;
  }
  const open = make("button", {type: "button", "aria-expanded": "false"}, "Show the poster");
  open.addEventListener("click", () => {
    const shown = section.querySelector(".zoom");
    open.setAttribute("aria-expanded", String(!shown));
    open.textContent = shown ? "Show the poster" : "Hide the poster";
    if (shown) shown.remove();
    else section.append(showPoster(facts, tile => isPicture ? address : `${tiles}/${tile}.jpg`));
  });
  section.append(open);
}

function showPoster(facts, addressOf) {
  const zoom = (by, sign, title) => make("button", {type: "button", "data-zoom": by, "aria-label": title, title}, sign);
  const box = make("div", {class: "zoom"},
    make("canvas", {tabindex: "0", role: "application", "aria-label":
      "The poster. Drag or arrows move it, the wheel, plus and minus zoom, 0 shows all, a click or Enter opens a video."}),
    make("div", {class: "zoom-buttons"}, zoom(2, "+", "zoom in"), zoom(0.5, "−", "zoom out"), zoom(0, "⤢", "show all")),
    make("div", {class: "said", "aria-live": "polite"}));
  // The canvas has no size before it is in the page.
  requestAnimationFrame(() => showPyramid(box, facts, addressOf, frame => {
    const row = facts.rows[frame[0]];
    if (row !== null) showOnMap([row], row);
  }));
  return box;
}
