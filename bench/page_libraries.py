"""Plotting libraries for the report's page, measured on its own work: paths on a map that is panned and played.

    pip download --no-deps -d wheels plotly==7.1.0 bokeh==3.9.2 pydeck==0.9.3
    python -m bench.page_libraries --wheels wheels [--sizes 1000,10000,100000]

Each library's JavaScript is taken out of its wheel and written into a page of its own, together with random paths of 16
points as base64. Debian's Chromium opens the page from disk, without a network, and draws by WebGL in software
(SwiftShader). Measured are the size of the file, the time from the beginning of loading until the first picture, the
time from frame to frame while the map is panned and while a time slider moves all videos, and the memory of the tab
(the renderer's and the GPU process's share, PSS). CPU times, of both processes, hold on a busy machine too. The figures
are of the bare library: none draws fewer paths than it is given. Beside the libraries stands what a page draws by WebGL
itself, without any, which says how much of a figure is the library's.
"""

import argparse
import base64
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep

N_STEPS, N_CLUSTERS, N_FRAMES = 16, 8, 20
ENOUGH_MS, LIMIT_MS = 15_000, 120_000
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7A1F5C", "#5B4A00"]
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader"]
SCRIPTS = {
    "plotly": ["plotly/package_data/plotly.min.js"],
    "bokeh": [f"bokeh/server/static/js/bokeh{part}.min.js" for part in ("", "-gl", "-api")],
    "pydeck": ["pydeck/nbextension/static/index.js"],
}

# Every page offers `begin()`, which draws, `pan(part)` and `play(time)`, which return at once; a frame then shows them.
COMMON = """
const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), c => c.charCodeAt(0));
const points = new Float32Array(bytes.buffer), T = N_STEPS, n = points.length / 2 / T, K = COLORS.length;
const head = new Float32Array(2 * n);
function place(time) {
  const step = Math.min(Math.floor(time), T - 2), part = time - step;
  for (let i = 0; i < n; i++) for (let c = 0; c < 2; c++) {
    const at = 2 * (i * T + step) + c;
    head[2 * i + c] = points[at] * (1 - part) + points[at + 2] * part;
  }
  return head;
}
function lines(k) {
  const x = [], y = [];
  for (let i = k; i < n; i += K) {
    for (let t = 0; t < T; t++) { x.push(points[2 * (i * T + t)]); y.push(points[2 * (i * T + t) + 1]); }
    x.push(NaN); y.push(NaN);
  }
  return [x, y];
}
const frame = () => new Promise(requestAnimationFrame);
async function shown() { await frame(); await frame(); return performance.now(); }
async function time_frames(change) {
  const found = [];
  let sum = 0;
  for (let i = 0; i < 2; i++) { await change(0); await frame(); }
  for (let i = 1, from = await frame(), now; i <= N_FRAMES && sum < ENOUGH_MS; i++, from = now) {
    await change(i / N_FRAMES);
    now = await frame();
    found.push(now - from);
    sum += now - from;
  }
  return found;
}
"""
PLOTLY = """
const box = document.getElementById("map");
async function begin() {
  const traces = COLORS.map((color, k) => {
    const [x, y] = lines(k);
    return {type: "scattergl", mode: "lines", x, y, line: {color, width: 1}, opacity: .4, hoverinfo: "skip"};
  });
  place(0);
  const x = Float32Array.from({length: n}, (_, i) => head[2 * i]);
  const y = Float32Array.from({length: n}, (_, i) => head[2 * i + 1]);
  traces.push({type: "scattergl", mode: "markers", x, y, marker: {size: 5}});
  await Plotly.newPlot(box, traces, {width: 900, height: 600, xaxis: {range: [-4, 4]}, yaxis: {range: [-4, 4]}});
}
const pan = part => Plotly.relayout(box, {"xaxis.range": [-4 + part, 4 + part]});
function play(time) {
  place(time);
  const x = Float32Array.from({length: n}, (_, i) => head[2 * i]);
  const y = Float32Array.from({length: n}, (_, i) => head[2 * i + 1]);
  return Plotly.restyle(box, {x: [x], y: [y]}, [K]);
}
"""
BOKEH = """
let figure, source;
async function begin() {
  const {Range1d, ColumnDataSource} = Bokeh;
  figure = Bokeh.Plotting.figure({width: 900, height: 600, output_backend: "webgl",
    tools: "pan,wheel_zoom,lasso_select", x_range: new Range1d({start: -4, end: 4}),
    y_range: new Range1d({start: -4, end: 4})});
  COLORS.forEach((line_color, k) => {
    const [x, y] = lines(k);
    figure.line({field: "x"}, {field: "y"}, {source: new ColumnDataSource({data: {x, y}}), line_color, line_alpha: .4});
  });
  place(0);
  source = new ColumnDataSource({data: {x: head.filter((_, i) => !(i % 2)), y: head.filter((_, i) => i % 2)}});
  figure.scatter({field: "x"}, {field: "y"}, {source, size: 5});
  await Bokeh.Plotting.show(figure, document.getElementById("map"));
}
const pan = part => { figure.x_range.setv({start: -4 + part, end: 4 + part}); };
function play(time) {
  place(time);
  source.data = {x: head.filter((_, i) => !(i % 2)), y: head.filter((_, i) => i % 2)};
}
"""
DECK = """
let map, drawn;
const rgb = COLORS.map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
const starts = Uint32Array.from({length: n + 1}, (_, i) => i * T);
const colors = new Uint8Array(4 * n * T), times = new Float32Array(n * T), dots = new Uint8Array(4 * n);
for (let i = 0; i < n; i++) {
  dots.set([...rgb[i % K], 255], 4 * i);
  for (let t = 0; t < T; t++) { colors.set([...rgb[i % K], 100], 4 * (i * T + t)); times[i * T + t] = t; }
}
const paths = {length: n, startIndices: starts, attributes: {getPath: {value: points, size: 2},
  getColor: {value: colors, size: 4}, getTimestamps: {value: times, size: 1}}};
function layers(time) {
  const data = {length: n, attributes: {getPosition: {value: place(time).slice(), size: 2},
    getFillColor: {value: dots, size: 4}}};
  return [
    new deck.TripsLayer({id: "paths", data: paths, _pathType: "open", positionFormat: "XY", widthUnits: "pixels",
      getWidth: 1, currentTime: time || 1e6, trailLength: time ? 4 : 1e7, fadeTrail: !!time}),
    new deck.ScatterplotLayer({id: "heads", data, positionFormat: "XY", radiusUnits: "pixels", getRadius: 2.5}),
  ];
}
const view = part => ({target: [part, 0, 0], zoom: 6.2});
function begin() {
  return new Promise(resolve => {
    map = new deck.Deck({parent: document.getElementById("map"), width: 900, height: 600, layers: layers(0),
      views: new deck.OrthographicView({id: "v"}), viewState: view(0), controller: true, useDevicePixels: false,
      onAfterRender: () => { drawn && drawn(); drawn = null; }});
    drawn = resolve;
  });
}
const pan = part => map.setProps({viewState: view(part)});
const play = time => map.setProps({layers: layers(time || .01)});
"""
WEBGL = """
const canvas = document.getElementById("map").appendChild(document.createElement("canvas"));
canvas.width = 900; canvas.height = 600;
const gl = canvas.getContext("webgl2", {antialias: true});
const rgb = COLORS.map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
const FRAGMENT = `#version 300 es
  precision mediump float; in vec4 tint; uniform bool round_dots; out vec4 color;
  void main() {
    vec2 corner = gl_PointCoord * 2. - 1.;
    if (round_dots && dot(corner, corner) > 1.) discard;
    color = vec4(tint.rgb * tint.a, tint.a);
  }`;
const VERTEX = `#version 300 es
  uniform vec4 view; uniform float now;
  in vec2 place, before; in float time; in vec4 shade; out vec4 tint;
  void main() {
    vec2 at = mix(before, place, clamp(now - time + 1., 0., 1.));
    gl_Position = vec4((at - view.xy) * view.zw, 0., 1.); gl_PointSize = 5.; tint = shade;
  }`;
const program = gl.createProgram();
for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
  const shader = gl.createShader(kind);
  gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(program, shader);
}
gl.linkProgram(program);
if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw Error(gl.getProgramInfoLog(program));
function feed(name, values, size, normal = false) {
  const buffer = gl.createBuffer(), at = gl.getAttribLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer); gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(at);
  gl.vertexAttribPointer(at, size, normal ? gl.UNSIGNED_BYTE : gl.FLOAT, normal, 0, 0);
  return buffer;
}
// Two points a line. An instance a line would be a call of its own in SwiftShader, and take ten times as long.
const m = 2 * n * (T - 1), ends = new Float32Array(2 * m), before = ends.slice(), time = new Float32Array(m);
const shade = new Uint8Array(4 * m), dots = new Uint8Array(4 * n);
for (let i = 0, v = 0; i < n; i++) {
  dots.set([...rgb[i % K], 255], 4 * i);
  for (let t = 0; t < T - 1; t++) for (const end of [0, 1]) {
    const at = 2 * (i * T + t);
    before.set(points.subarray(at, at + 2), 2 * v);
    ends.set(points.subarray(at + 2 * end, at + 2 * end + 2), 2 * v);
    time[v] = t + 1; shade.set([...rgb[i % K], 100], 4 * v++);
  }
}
const path_state = gl.createVertexArray(), mark_state = gl.createVertexArray();
gl.bindVertexArray(path_state);
feed("place", ends, 2); feed("before", before, 2); feed("time", time, 1); feed("shade", shade, 4, true);
gl.bindVertexArray(mark_state);
const places = feed("place", place(0), 2); feed("shade", dots, 4, true);
gl.vertexAttrib1f(gl.getAttribLocation(program, "time"), 0);
let left = 0, now = T - 1;
function draw() {
  gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  gl.clearColor(1, 1, 1, 1); gl.clear(gl.COLOR_BUFFER_BIT);
  gl.useProgram(program);
  gl.uniform4f(gl.getUniformLocation(program, "view"), left, 0, .25, .25);
  gl.uniform1f(gl.getUniformLocation(program, "now"), now);
  for (const [state, kind, count] of [[path_state, gl.LINES, m], [mark_state, gl.POINTS, n]]) {
    gl.bindVertexArray(state);
    gl.uniform1i(gl.getUniformLocation(program, "round_dots"), kind === gl.POINTS);
    gl.drawArrays(kind, 0, count);
  }
}
const begin = async () => draw();
function pan(part) { left = part; draw(); }
function play(time) {
  now = time;
  gl.bindBuffer(gl.ARRAY_BUFFER, places); gl.bufferData(gl.ARRAY_BUFFER, place(time), gl.DYNAMIC_DRAW);
  draw();
}
"""
PAGES = {"plotly": PLOTLY, "bokeh": BOKEH, "pydeck": DECK, "webgl": WEBGL}


def make_paths(n: int) -> np.ndarray:
    """Return random walks on the map, (n, N_STEPS, 2) float32, whose clusters start at places of their own."""
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * (np.arange(n) % N_CLUSTERS) / N_CLUSTERS
    start = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(scale=0.3, size=(n, 2))
    return (start[:, None] + rng.normal(scale=0.12, size=(n, N_STEPS, 2)).cumsum(axis=1)).astype(np.float32)


def write_page(path: Path, library: str, scripts: list[str], n: int) -> None:
    """Write a page that draws n paths by a library."""
    data = base64.b64encode(make_paths(n).tobytes()).decode()
    constants = (
        f"const N_STEPS = {N_STEPS}, N_FRAMES = {N_FRAMES}, ENOUGH_MS = {ENOUGH_MS}, COLORS = {json.dumps(COLORS)};"
    )
    escaped = [text.replace("</script", r"<\/script") for text in scripts]
    libraries = "\n".join(f"<script>{text}</script>" for text in escaped)
    path.write_text(
        '<!doctype html><meta charset="utf-8"><div id="map" style="width:900px;height:600px;position:relative"></div>'
        f'<script type="text/plain" id="data">{data}</script>\n{libraries}\n'
        f"<script>{constants}{COMMON}{PAGES[library]}begin().then(shown).then(t => {{ window.first = t; }});</script>"
    )


def read_scripts(wheels: Path, library: str) -> tuple[str, list[str]]:
    """Return a library's version and its JavaScript, out of its wheel; WebGL is the browser's own."""
    if library == "webgl":
        return "2", []
    wheel = next(iter(sorted(wheels.glob(f"{library}-*.whl"))))
    with zipfile.ZipFile(wheel) as archive:
        return wheel.name.split("-")[1], [archive.read(name).decode() for name in SCRIPTS[library]]


@contextmanager
def open_browser() -> Iterator[tuple[Any, Any]]:
    """Yield a fresh Chromium and a page of it that has no network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        context = browser.new_context(viewport={"width": 920, "height": 640}, offline=True)
        page = context.new_page()
        page.set_default_timeout(LIMIT_MS)
        yield browser, page
        browser.close()


def processes(browser: Any) -> list[Path]:
    """Return the tab's renderer and the GPU process, as their folders in /proc."""
    found = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return [Path("/proc") / str(process["id"]) for process in found if process["type"] in ("renderer", "GPU")]


def pss_mb(processes: list[Path]) -> float:
    """Return the memory of processes, PSS in MB, by their folders in /proc."""
    lines = [line for folder in processes for line in (folder / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def used_s(processes: list[Path]) -> float:
    """Return the seconds of CPU time that processes have taken, by their folders in /proc."""
    fields = [(folder / "stat").read_text().rpartition(")")[2].split() for folder in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def memory_mb(browser: Any) -> float:
    """Return the memory of both, PSS in MB."""
    return pss_mb(processes(browser))


def cpu_s(browser: Any) -> float:
    """Return the seconds of CPU time that both have taken."""
    return used_s(processes(browser))


def time_frames(browser: Any, page: Any, change: str) -> dict[str, float]:
    """Return the time from frame to frame, median and 95 %, and the CPU time a frame, under a change of each frame."""
    from_s = cpu_s(browser)
    times = page.evaluate(f"time_frames({change})")
    used_ms = 1000 * (cpu_s(browser) - from_s) / (len(times) + 2)  # Two frames come before those that are timed.
    return {"ms": float(np.median(times)), "p95_ms": float(np.quantile(times, 0.95)), "cpu_ms": used_ms}


def measure(path: Path, shot: Path | None) -> dict[str, Any]:
    """Open a page and measure it."""
    with open_browser() as (browser, page):
        page.goto("about:blank")
        from_s = cpu_s(browser)
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_function("window.first")
        figures = {
            "page_mb": path.stat().st_size / 1e6,
            "first_picture_s": page.evaluate("window.first") / 1000,
            "first_picture_cpu_s": cpu_s(browser) - from_s,
        }
        if shot:
            page.screenshot(path=str(shot))
        frames = {
            "pan": time_frames(browser, page, "part => pan(part)"),
            "play": time_frames(browser, page, f"part => play(part * {N_STEPS - 1})"),
        }
        figures["memory_mb"] = memory_mb(browser)
    figures.update({f"{name}_{key}": value for name, times in frames.items() for key, value in times.items()})
    return {key: round(value, 3) for key, value in figures.items()}


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--libraries", default="webgl,pydeck,bokeh,plotly")
    parser.add_argument("--shots", type=Path, help="a folder for a picture of each page")
    chosen = parser.parse_args()
    results: dict[str, Any] = {}
    for library in chosen.libraries.split(","):
        version, scripts = read_scripts(chosen.wheels, library)
        figures: dict[str, Any] = {"version": version, "javascript_mb": round(sum(map(len, scripts)) / 1e6, 3)}
        for n in map(int, chosen.sizes.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "page.html"
                write_page(path, library, scripts, n)
                try:
                    figures[str(n)] = measure(path, chosen.shots and chosen.shots / f"{library}_{n}.png")
                except Exception as error:  # A library that cannot show so many is a result.
                    figures[str(n)] = {"failed": str(error).splitlines()[0]}
            print(library, n, figures[str(n)], flush=True)
        results[library] = figures
        keep("page_libraries", results)


if __name__ == "__main__":
    main()
