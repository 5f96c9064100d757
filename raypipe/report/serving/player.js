// The player of a page that is served by `raypipe explore`: docs/page_server.md says what it asks the server for.
// A click on a video's name or pictures plays it; `raypipe.play(id, atS)` and `raypipe.compare(ids)` do so too.
"use strict";

(() => {
  const MOST_VIDEOS = 4;
  const FAR_S = 0.4; // A video that is farther from where it should be jumps there; a nearer one hurries or waits.
  const RATES = [0.0625, 8]; // What browsers play.
  const WINDOW_S = 0.25; // The speed of a video is measured over so much of the clock on either side.

  const { version } = document.currentScript.dataset; // That of the run, of which this page shows the rows.
  const ask = async (path, signal) => (await fetchAnswer(path, signal)).json();

  // Bytes that speak of rows of this page; an answer of another version of the run speaks of others.
  async function askBytes(path) {
    const answer = await fetchAnswer(path);
    if (raypipe.isStale) throw new Error("this run has been clustered again");
    return new Uint8Array(await answer.arrayBuffer());
  }

  async function fetchAnswer(path, signal) {
    const answer = await fetch(path, { signal }).catch(() => {
      throw new Error("the server does not answer: raypipe explore may have ended");
    });
    noticeVersion(answer.headers.get("raypipe-version"));
    if (answer.ok) return answer;
    const { error } = await answer.json().catch(() => ({}));
    throw new Error(error || answer.statusText);
  }

  // Row numbers of this page may mean other videos in the run as it is now.
  function noticeVersion(present) {
    if (!present || present === version || raypipe.isStale) return;
    raypipe.isStale = true;
    const line = make("p", "rp-stale", "This run has been clustered again: reload the page.");
    line.role = "alert";
    document.body.append(line);
  }

  const make = (tag, className = "", text = "") =>
    Object.assign(document.createElement(tag), { className, textContent: text });
  const shownTime = (s) => `${s.toFixed(2)} s`;

  // Interpolates between knots whose places ascend.
  function interpolate(at, places, values) {
    let low = 0;
    let high = places.length - 1;
    if (at <= places[0]) return values[0];
    if (at >= places[high]) return values[high];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (places[middle] <= at) low = middle;
      else high = middle;
    }
    const width = places[high] - places[low];
    return values[low] + (width ? (at - places[low]) / width : 0) * (values[high] - values[low]);
  }

  // The kept pictures of a video, shown as a player shows a video.
  class Pictures {
    constructor(info) {
      this.element = make("div", "rp-pictures");
      this.strip = info.filmstrip;
      this.time = info.start_s;
      if (!this.strip) return;
      const image = new Image();
      image.onload = () => {
        this.ratio = image.naturalWidth / this.strip.n / image.naturalHeight;
        this.element.style.backgroundImage = `url("${this.strip.src}")`;
        this.show(this.time);
      };
      image.src = this.strip.src;
    }

    get isWaiting() {
      return false;
    }

    show(time) {
      this.time = time;
      if (!this.ratio) return;
      const box = this.element.getBoundingClientRect();
      const height = Math.min(box.height, box.width / this.ratio);
      const width = height * this.ratio;
      const later = this.strip.times_s.findIndex((each) => each > time + 1e-3);
      const number = Math.max((later < 0 ? this.strip.n : later) - 1, 0);
      const [left, top] = [(box.width - width) / 2, (box.height - height) / 2];
      Object.assign(this.element.style, {
        backgroundSize: `${width * this.strip.n}px ${height}px`,
        backgroundPosition: `${left - number * width}px ${top}px`,
        clipPath: `inset(0 ${left}px)`,
      });
    }

    follow(time) {
      this.show(time);
    }

    stop() {}
  }

  // A <video>, in the times of the file.
  class Film {
    constructor(info, source, fail) {
      this.source = source;
      this.element = Object.assign(make("video"), { muted: true, playsInline: true, preload: "auto", src: source.src });
      this.element.addEventListener("error", fail);
    }

    get time() {
      return this.element.currentTime - this.source.offset_s;
    }

    get isWaiting() {
      return this.element.readyState < HTMLMediaElement.HAVE_CURRENT_DATA || this.element.seeking;
    }

    show(time) {
      this.element.pause();
      this.jump(time);
    }

    jump(time) {
      const goal = Math.max(time + this.source.offset_s, 0);
      // The clock of a container is rounded, and a frame must not be missed by that.
      this.element.currentTime = goal + 1e-3;
    }

    // Goes at a rate, and is near a time.
    follow(time, rate) {
      const late = time - this.time;
      if (Math.abs(late) > FAR_S) this.jump(time);
      const wanted = rate + late;
      if (wanted < RATES[0] || this.element.ended) {
        this.element.pause();
        return;
      }
      const bounded = Math.min(wanted, RATES[1]);
      if (Math.abs(this.element.playbackRate - bounded) > 0.04 * bounded) this.element.playbackRate = bounded;
      if (this.element.paused) this.element.play().catch(() => {});
    }

    stop() {
      this.element.pause();
      this.element.removeAttribute("src");
      this.element.load();
    }
  }

  // A video's place on the stage: it takes the first source that the browser plays, and the pictures where none does.
  class Screen {
    constructor(info) {
      this.info = info;
      this.element = make("figure");
      this.box = make("div", "rp-screen");
      this.note = make("div", "rp-note");
      this.said = make("span");
      const caption = make("figcaption");
      caption.append(make("b", "", info.name), this.said);
      caption.firstChild.title = info.uri;
      this.element.append(this.box, caption);
      const probe = document.createElement("video");
      this.waiting = info.sources.filter((source) => probe.canPlayType(source.type));
      this.next();
    }

    next() {
      this.player?.stop();
      const source = this.waiting.shift();
      this.note.textContent = source?.state === "on demand" ? "is being converted for this browser …" : "";
      if (source) {
        this.player = new Film(this.info, source, () => this.next());
        this.player.element.addEventListener("loadeddata", () => (this.note.textContent = ""), { once: true });
      } else {
        this.player = new Pictures(this.info);
        this.tellWhy();
      }
      this.box.replaceChildren(this.player.element, this.note);
      if (this.goal !== undefined) this.show(this.goal);
    }

    // Says why there is no video; what a conversion failed of is known only after it.
    async tellWhy() {
      const { problem } = await ask(`video/${encodeURIComponent(this.info.video_id)}/info`).catch(() => this.info);
      const what = this.info.filmstrip ? "Pictures only" : "No picture";
      this.note.textContent = `${what}: ${problem || "this browser does not play it"}`;
    }

    show(time) {
      this.goal = time;
      this.player.show(time);
      this.said.textContent = shownTime(time);
    }

    follow(time, rate) {
      this.goal = time;
      this.player.follow(time, rate);
      this.said.textContent = shownTime(time);
    }
  }

  class Player {
    constructor() {
      this.dialog = make("dialog", "rp-player");
      this.title = make("h2");
      this.stage = make("div", "rp-stage");
      this.button = make("button", "", "Play");
      this.slider = Object.assign(make("input"), { type: "range", min: 0, step: 0.01, ariaLabel: "time" });
      this.output = make("output");
      this.like = make("div", "rp-like");
      const close = make("button", "", "Close");
      const head = make("header");
      const bar = make("div", "rp-bar");
      head.append(this.title, close);
      bar.append(this.button, this.slider, this.output);
      this.dialog.append(head, this.stage, bar, this.like);
      document.body.append(this.dialog);
      this.screens = [];
      close.onclick = () => this.dialog.close();
      this.button.onclick = () => (this.isPlaying ? this.pause() : this.start());
      this.slider.oninput = () => this.seek(Number(this.slider.value));
      this.dialog.onclose = () => this.clear();
      this.turn = 0;
    }

    // Shows videos; of several, all do the same at the same time.
    async open(ids, atS) {
      const turn = ++this.turn;
      this.clear();
      if (!this.dialog.open) this.dialog.showModal();
      this.title.textContent = "…";
      try {
        const infos = await Promise.all(ids.map((id) => ask(`video/${encodeURIComponent(id)}/info`)));
        const aligned = ids.length > 1 ? await ask(`align?ids=${ids.map(encodeURIComponent).join(",")}`) : null;
        if (turn !== this.turn || !this.dialog.open) return;
        this.clear();
        this.title.textContent = ids.length > 1 ? "Side by side, doing the same at the same time" : infos[0].name;
        this.lay(infos, aligned);
        this.seek(atS === undefined ? 0 : interpolate(atS, this.times[0], this.clock));
        this.start();
        if (infos[0].cluster !== null) this.suggest(ids);
      } catch (error) {
        if (turn === this.turn) this.title.textContent = error.message;
      }
    }

    lay(infos, aligned) {
      const [{ start_s: first, end_s: last, filmstrip }] = infos;
      const endS = last ?? filmstrip?.times_s.at(-1) ?? first + 1;
      this.clock = aligned ? aligned.clock_s : [0, endS - first];
      this.times = aligned ? aligned.videos.map((video) => video.times_s) : [[first, endS]];
      this.screens = infos.map((info) => new Screen(info));
      this.stage.style.setProperty("--n", infos.length);
      this.stage.replaceChildren(...this.screens.map((screen) => screen.element));
      this.slider.max = this.clock.at(-1);
    }

    // Offers the nearest videos to be played beside the first.
    async suggest(ids) {
      const turn = this.turn;
      const { videos } = await ask(`search?like=${encodeURIComponent(ids[0])}&n=6`).catch(() => ({ videos: [] }));
      if (turn !== this.turn || !videos.length) return;
      this.like.replaceChildren(make("span", "", "Play beside it:"));
      for (const video of videos) {
        const isOn = ids.includes(video.video_id);
        const button = make("button");
        const picture = Object.assign(make("img"), { alt: "", loading: "lazy" });
        picture.src = `filmstrip/${encodeURIComponent(video.video_id)}?n=1`;
        picture.onerror = () => picture.remove();
        button.append(picture, make("span", "", video.name));
        button.ariaPressed = isOn;
        button.title = `${video.name}\ndistance ${video.distance.toPrecision(3)}`;
        button.onclick = () => {
          const others = ids.filter((id) => id !== video.video_id);
          this.open(isOn ? others : [...others, video.video_id].slice(-MOST_VIDEOS), undefined);
        };
        this.like.append(button);
      }
    }

    seek(clock) {
      this.now = Math.min(Math.max(clock, 0), this.clock.at(-1));
      this.screens.forEach((screen, i) => screen.show(this.timeOf(i, this.now)));
      this.tell();
    }

    timeOf(i, clock) {
      return interpolate(clock, this.clock, this.times[i]);
    }

    start() {
      if (this.now >= this.clock.at(-1)) this.seek(0);
      this.isPlaying = true;
      this.button.textContent = "Pause";
      this.last = undefined;
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame((stamp) => this.advance(stamp));
    }

    pause() {
      this.isPlaying = false;
      this.button.textContent = "Play";
      cancelAnimationFrame(this.frame);
      if (this.screens.length) this.seek(this.now);
    }

    // Moves the clock on, unless a video waits for its bytes, and has each video follow.
    advance(stamp) {
      const stepS = this.last === undefined ? 0 : Math.min((stamp - this.last) / 1000, 0.25);
      this.last = stamp;
      if (!this.screens.some((screen) => screen.player.isWaiting)) {
        this.now = Math.min(this.now + stepS, this.clock.at(-1));
        this.screens.forEach((screen, i) => {
          const [from, to] = [this.now - WINDOW_S, this.now + WINDOW_S].map((clock) => this.timeOf(i, clock));
          screen.follow(this.timeOf(i, this.now), (to - from) / (2 * WINDOW_S));
        });
        this.tell();
        if (this.now >= this.clock.at(-1)) {
          this.pause();
          return;
        }
      }
      this.frame = requestAnimationFrame((next) => this.advance(next));
    }

    tell() {
      this.slider.value = this.now;
      this.output.textContent = `${this.now.toFixed(1)} / ${this.clock.at(-1).toFixed(1)} s`;
    }

    clear() {
      this.isPlaying = false;
      cancelAnimationFrame(this.frame);
      this.screens.forEach((screen) => {
        screen.waiting = [];
        screen.player.stop();
      });
      this.screens = [];
      this.stage.replaceChildren();
      this.like.replaceChildren();
    }
  }

  const player = new Player();
  const raypipe = {
    play: (id, atS) => player.open([id], atS),
    compare: (ids, atS) => player.open(ids.slice(0, MOST_VIDEOS), atS),
    ask,
    askBytes,
    isStale: false,
  };
  window.raypipe = raypipe;
  // Who comes back from the terminal may have clustered again there.
  window.addEventListener("focus", () => ask("version").catch(() => {}));

  // Where a film strip was clicked, by the times that stand below its pictures.
  function momentAt(event, row) {
    const strip = event.target.closest(".strip");
    const times = [...(strip?.querySelectorAll(".times span") ?? [])];
    if (!times.length || event.target.tagName !== "IMG") return row.dataset.at && Number(row.dataset.at);
    const box = event.target.getBoundingClientRect();
    const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.999);
    return parseFloat(times[Math.floor(part * times.length)].textContent);
  }

  document.addEventListener("click", (event) => {
    const row = event.target.closest("[data-video]");
    if (!row || event.ctrlKey || event.metaKey || !event.target.closest("a, b, img, .none")) return;
    event.preventDefault();
    const at = momentAt(event, row);
    player.open([row.dataset.video], at === "" ? undefined : at);
  });
})();
