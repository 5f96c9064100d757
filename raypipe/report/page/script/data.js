// The page's data: a header of JSON, and typed arrays and texts behind it; see raypipe/report/packing.py.

const ARRAYS = {
  u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array,
  f8: Float64Array,
};

function decodeBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

function encodeBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

async function inflate(id) {
  const {textContent, dataset} = document.getElementById(id);
  if (dataset.src) return fetchNumbers(dataset.src);
  const compressed = decodeBase64(textContent.trim());
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function readArrays(bytes) {
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const decoder = new TextDecoder();
  const found = JSON.parse(decoder.decode(bytes.subarray(4, 4 + length)));
  const begin = Math.ceil((4 + length) / 8) * 8;
  for (const [name, [kind, offset, size]] of Object.entries(found.arrays)) {
    found[name] = kind === "s"  // Each text ends in a zero.
      ? decoder.decode(bytes.subarray(begin + offset, begin + offset + size)).split("\0").slice(0, -1)
      : new ARRAYS[kind](bytes.buffer, begin + offset, size);
  }
  return found;
}

function unpack(bytes) {
  const data = readArrays(bytes);
  data.n = data.cluster.length;
  for (const column of data.columns) if (column.kind === "text") column.codes = data[column.array];
  if (data.episodes) data.lerobot.values = data.episodes;
  if (data.byView) return awaitRows(data);
  data.points = restore(data.points, data.pointBox);
  if (data.reduced) data.reduced = restore(data.reduced, data.reducedBox);
  return data;
}

// Coordinates travel as 16 bits a number, in units of their box; a box has an origin for each dimension and one scale.
function restore(whole, {origin, scale}) {
  const values = new Float32Array(whole.length), dim = origin.length;
  for (let i = 0; i < whole.length; i++) values[i] = origin[i % dim] + whole[i] * scale;
  return values;
}

const clusterOf = number => data.clusters.find(cluster => cluster.number === number);
const nameOfCluster = number => number < 0 ? "noise" : `cluster ${number}`;

function textOf(column, row) {
  if (column.byRow) return column.byRow[row] ?? "";
  if (column.kind === "text") return column.codes[row] ? column.values[column.codes[row] - 1] : "";
  const value = data[column.array][row];
  return Number.isFinite(value) ? showNumber(value) : "";
}

function showNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const text = Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

const countVideos = n => `${showNumber(n)} video${n === 1 ? "" : "s"}`;

// Makes an element. Texts become text nodes, so that nothing in a name or a caption is ever read as HTML.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

const find = id => document.getElementById(id);
