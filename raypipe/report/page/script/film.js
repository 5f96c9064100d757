// Film strips that the page does not hold: where raypipe explore serves it, they come when a video is opened.

const STRIP_PICTURES = 8, REST_MS = 150;  // Who walks through the table by keys need not wait for each video's.
let usualAspect = 0;  // A picture's width over its height in the strip that came last.

// A place of the right height, so that nothing below it moves when the pictures are there: most videos of a run have
// pictures of one form.
function filmToCome(row) {
  const place = make("div", {class: "reel to-come", style: roomOfFilm()});
  const figure = make("figure", {class: "film"}, place, make("div", {class: "times"}, "\u00a0"));
  whenOpen(figure, async () => {
    const parts = await fetchFilm(row).catch(error => [make("span", {}, `No pictures: ${error.message}`)]);
    if (!figure.isConnected) return;  // Another video has been opened meanwhile.
    if (parts.length > 1) figure.replaceChildren(...parts);
    else place.replaceChildren(...parts);
    moveCursor();
  });
  return figure;
}

// Calls what asks the server for an element's content, unless the pane shows another video by then.
function whenOpen(element, call) {
  setTimeout(() => element.isConnected && call(), REST_MS);
}

async function fetchFilm(row) {
  const {filmstrip} = await window.raypipe.ask(`video/${encodeURIComponent(data.ids[row])}/info?n=${STRIP_PICTURES}`);
  if (!filmstrip) return [make("span", {}, "The run has kept no pictures of this video.")];
  usualAspect = filmstrip.aspect;
  return filmParts(row, {source: stripAddress(filmstrip.src), times: filmstrip.times_s, aspect: filmstrip.aspect});
}

// The strip of a video that stands for its cluster's center.
function pictureToCome(row, alt) {
  const picture = make("img", {alt, style: roomOfFilm(), onerror: () => picture.remove()});
  whenOpen(picture, async () => {
    await fetchTexts([row]);
    picture.src = stripAddress(`filmstrip/${encodeURIComponent(data.ids[row])}?n=${STRIP_PICTURES}`);
  });
  return picture;
}

function roomOfFilm() {
  const aspect = usualAspect || data.filmAspect?.[0] || 4 / 3;
  return `aspect-ratio:${STRIP_PICTURES * aspect};${widthOf(STRIP_PICTURES, aspect)}`;
}

const stripAddress = source => `${source}&height=64&parted=true`;
