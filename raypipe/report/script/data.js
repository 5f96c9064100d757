// The page's data: a header of JSON and typed arrays behind it, compressed; see raypipe/report/explorer.py.

const ARRAYS = {u1: Uint8Array, i2: Int16Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array};

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
  const compressed = decodeBase64(document.getElementById(id).textContent.trim());
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function unpack(bytes) {
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const begin = Math.ceil((4 + length) / 8) * 8;
  for (const [name, [kind, offset, size]] of Object.entries(data.arrays)) {
    data[name] = new ARRAYS[kind](bytes.buffer, begin + offset, size);
  }
  data.n = data.names.length;
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
  if (column.kind === "text") return column.codes[row] ? column.values[column.codes[row] - 1] : "";
  const value = data[column.array][row];
  return Number.isFinite(value) ? showNumber(value) : "";
}

function showNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const text = Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

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
