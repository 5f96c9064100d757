// Draws many paths and dots by WebGL 2. A line is two points of one call: an instance a line takes four times as long
// where WebGL is drawn in software (docs/page.md).

const VERTEX = `#version 300 es
  uniform vec4 view; uniform float now, size;
  in vec2 place, before; in float time, spell; in vec4 shade; out vec4 tint;
  void main() {
    float part = spell > 0. ? clamp((now - time) / spell + 1., 0., 1.) : 1.;
    gl_Position = vec4((mix(before, place, part) - view.xy) * view.zw, 0., 1.);
    gl_PointSize = size;
    tint = shade;
  }`;
const FRAGMENT = `#version 300 es
  precision mediump float;
  uniform bool dots; in vec4 tint; out vec4 color;
  void main() {
    vec2 corner = gl_PointCoord * 2. - 1.;
    if (dots && dot(corner, corner) > 1.) discard;
    color = vec4(tint.rgb * tint.a, tint.a);
  }`;

class Painter {
  constructor(canvas) {
    const gl = this.gl = canvas.getContext("webgl2", {antialias: true, premultipliedAlpha: true});
    if (!gl) throw new Error("this browser offers no WebGL 2");
    this.canvas = canvas;
    this.program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(this.program));
    this.paths = this.makeSet(["place", "before", "time", "spell", "shade"]);
    this.dots = this.makeSet(["place", "shade"]);
  }

  makeSet(names) {
    const gl = this.gl, set = {state: gl.createVertexArray(), buffers: {}, ends: new Uint32Array(1)};
    gl.bindVertexArray(set.state);
    for (const name of names) {
      const at = gl.getAttribLocation(this.program, name), isColor = name === "shade";
      set.buffers[name] = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, set.buffers[name]);
      gl.enableVertexAttribArray(at);
      const size = isColor ? 4 : name === "time" || name === "spell" ? 1 : 2;
      gl.vertexAttribPointer(at, size, isColor ? gl.UNSIGNED_BYTE : gl.FLOAT, isColor, 0, 0);
    }
    return set;
  }

  fill(set, arrays) {
    const gl = this.gl;
    for (const [name, values] of Object.entries(arrays)) {
      gl.bindBuffer(gl.ARRAY_BUFFER, set.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
    }
  }

  // Take the paths of some rows, the first of which are drawn while the map moves.
  setPaths(rows) {
    const count = rows.reduce((sum, row) => sum + Math.max(data.starts[row + 1] - data.starts[row] - 1, 0), 0) * 2;
    const place = new Float32Array(2 * count), before = new Float32Array(2 * count);
    const time = new Float32Array(count), spell = new Float32Array(count);
    this.paths.ends = new Uint32Array(rows.length + 1);
    let at = 0;
    rows.forEach((row, i) => {
      const start = data.starts[row], last = data.starts[row + 1] - start - 1;
      for (let step = 0; step < last; step++) for (const end of [0, 1]) {
        const from = 2 * (start + step);
        before.set(data.points.subarray(from, from + 2), 2 * at);
        place.set(data.points.subarray(from + 2 * end, from + 2 * end + 2), 2 * at);
        time[at] = (step + 1) / last;
        spell[at++] = 1 / last;
      }
      this.paths.ends[i + 1] = at;
    });
    this.fill(this.paths, {place, before, time, spell});
  }

  setPathColors(rows, colorOf) {
    const shade = new Uint8Array(4 * this.paths.ends[rows.length]);
    rows.forEach((row, i) => {
      const color = colorOf(row);
      for (let at = this.paths.ends[i]; at < this.paths.ends[i + 1]; at++) shade.set(color, 4 * at);
    });
    this.fill(this.paths, {shade});
  }

  setDots(rows, time) {
    const place = new Float32Array(2 * rows.length);
    rows.forEach((row, i) => place.set(placeAt(row, time), 2 * i));
    this.fill(this.dots, {place});
    this.dots.ends = Uint32Array.of(rows.length);
  }

  setDotColors(rows, colorOf) {
    const shade = new Uint8Array(4 * rows.length);
    rows.forEach((row, i) => shade.set(colorOf(row), 4 * i));
    this.fill(this.dots, {shade});
  }

  // View is the place in the middle and what a unit is, in halves of the canvas.
  draw(view, time, nPaths, dotSize) {
    const gl = this.gl, uniform = name => gl.getUniformLocation(this.program, name);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(this.program);
    gl.uniform4f(uniform("view"), ...view);
    gl.uniform1f(uniform("now"), time);
    gl.uniform1f(uniform("size"), dotSize);
    gl.uniform1i(uniform("dots"), 0);
    gl.bindVertexArray(this.paths.state);
    gl.drawArrays(gl.LINES, 0, this.paths.ends[Math.min(nPaths, this.paths.ends.length - 1)]);
    gl.uniform1i(uniform("dots"), 1);
    gl.uniform1f(uniform("now"), 1);
    gl.bindVertexArray(this.dots.state);
    gl.drawArrays(gl.POINTS, 0, this.dots.ends[0]);
  }
}

// Where a video is on the map at a time, 0 its start and 1 its end.
function placeAt(row, time) {
  const start = data.starts[row], last = data.starts[row + 1] - start - 1;
  if (last < 0) return [NaN, NaN];
  return placeOnPath(data.points, start, last, time);
}

function placeOnPath(points, start, last, time) {
  const step = Math.min(Math.floor(time * last), Math.max(last - 1, 0)), part = last ? time * last - step : 0;
  const at = 2 * (start + step), next = last ? at + 2 : at;
  return [points[at] + (points[next] - points[at]) * part, points[at + 1] + (points[next + 1] - points[at + 1]) * part];
}
