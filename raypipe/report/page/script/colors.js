// Colours of the map, the table and the legend. Categories beyond the palette are gray, as is what has no value.

const GRAY = [150, 157, 170];
const RAMP = ["#00224e", "#2a3f6d", "#575c6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838"];  // cividis

const toRgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const toCss = rgb => `rgb(${rgb.map(Math.round).join(" ")})`;
const luminance = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, part, c) => sum + part * (rgb[c] / 255) ** 2.2, 0);
const inkOn = rgb => luminance(rgb) < 0.19 ? "#fff" : "#111";  // Whichever has the greater contrast, 4.5 or more.
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// A dark colour is made lighter on dark ground.
function onGround(rgb) {
  return isDark() && luminance(rgb) < 0.16 ? rgb.map(value => value + (255 - value) * 0.38) : rgb;
}

function colorings() {
  return [
    {key: "cluster", title: "cluster", kind: "text"},
    ...data.columns.filter(column => !column.byRow).map(column => ({key: column.name, title: column.title, kind: column.kind, column})),
  ];
}

// How the videos are coloured: by categories, each with a key, a colour and a count, or by a number's place in its
// range.
function coloring() {
  const chosen = colorings().find(each => each.key === state.color) ?? colorings()[0];
  if (!chosen.scale) chosen.scale = chosen.kind === "text" ? categories(chosen) : numbers(chosen);
  return chosen.scale;
}

function categories({key, column}) {
  const keyOf = column ? row => textOf(column, row) : row => String(data.cluster[row]);
  const counts = new Map();
  for (let i = 0; i < data.n; i++) counts.set(keyOf(i), (counts.get(keyOf(i)) ?? 0) + 1);
  const order = column
    ? [...counts.keys()].filter(Boolean).sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1))
    : data.clusters.map(cluster => String(cluster.number));
  const colors = new Map(order.map((each, i) => [
    each, column ? (i < data.palette.length ? toRgb(data.palette[i]) : GRAY) : toRgb(clusterOf(Number(each)).color),
  ]));
  const entries = [...order, ...(counts.has("") ? [""] : [])].map(each => ({
    key: each, count: counts.get(each) ?? 0, title: column ? each || "no value" : nameOfCluster(Number(each)),
  }));
  const colorOfKey = each => onGround(colors.get(each) ?? GRAY);
  return {kind: "text", keyOf, entries, colorOfKey, colorOf: row => colorOfKey(keyOf(row))};
}

// The colour at a part of a ramp, 0 its first and 1 its last.
function onRamp(ramp, part) {
  const at = Math.min(Math.max(part, 0), 1) * (ramp.length - 1), i = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[i].map((value, c) => value + (ramp[i + 1][c] - value) * (at - i));
}

function numbers({column}) {
  const values = data[column.array];
  const sorted = Float64Array.from(values).filter(Number.isFinite).sort();
  // A few extremes would leave all others in one colour.
  const low = sorted[Math.floor(0.02 * (sorted.length - 1))] ?? 0;
  const high = sorted[Math.ceil(0.98 * (sorted.length - 1))] ?? 1;
  const ramp = RAMP.map(toRgb);
  const colorOf = row => {
    return Number.isFinite(values[row]) ? onGround(onRamp(ramp, (values[row] - low) / (high - low || 1))) : GRAY;
  };
  return {kind: "number", low, high, colorOf};
}
