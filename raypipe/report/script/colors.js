// Colours of the map, the table and the legend. Categories beyond the palette are gray, as is what has no value.

const GRAY = [150, 157, 170];
const RAMP = ["#00224e", "#2a3f6d", "#575c6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838"];  // cividis

const toRgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const toCss = rgb => `rgb(${rgb.map(Math.round).join(" ")})`;
const luminance = rgb => 0.2126 * (rgb[0] / 255) ** 2.2 + 0.7152 * (rgb[1] / 255) ** 2.2 + 0.0722 * (rgb[2] / 255) ** 2.2;
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
    ...data.columns.map(column => ({key: column.name, title: column.title, kind: column.kind, column})),
  ];
}

// How the videos are coloured: by categories, each with a key, a colour and a count, or by a number's place in its range.
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
  return {kind: "text", keyOf, entries, colorOf: row => onGround(colors.get(keyOf(row)) ?? GRAY), colorOfKey: each => onGround(colors.get(each) ?? GRAY)};
}

function numbers({column}) {
  const values = data[column.array];
  const sorted = Float64Array.from(values).filter(Number.isFinite).sort();
  const low = sorted[Math.floor(0.02 * (sorted.length - 1))] ?? 0, high = sorted[Math.ceil(0.98 * (sorted.length - 1))] ?? 1;
  const ramp = RAMP.map(toRgb);
  const colorOf = row => {
    if (!Number.isFinite(values[row])) return GRAY;
    const part = Math.min(Math.max((values[row] - low) / (high - low || 1), 0), 1) * (ramp.length - 1);
    const i = Math.min(Math.floor(part), ramp.length - 2);
    return onGround(ramp[i].map((value, c) => value + (ramp[i + 1][c] - value) * (part - i)));
  };
  return {kind: "number", low, high, colorOf};
}
