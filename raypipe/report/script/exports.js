// What is selected, or else what passes the filters, as a file.

const exportedRows = () => state.selected.size ? [...state.selected].sort((a, b) => a - b) : table.rows.slice().sort((a, b) => a - b);

const EXPORTS = {
  csv: {name: "selection.csv", type: "text/csv", write: rows => {
    const head = ["video_id", "video", "uri", "cluster", "outlier", ...data.columns.map(column => column.name)];
    return [head, ...rows.map(row => Object.values(recordOf(row)))].map(line => line.map(cell).join(",")).join("\n") + "\n";
  }},
  json: {name: "selection.json", type: "application/json", write: rows => JSON.stringify(rows.map(recordOf), null, 1) + "\n"},
  ids: {name: "selection.txt", type: "text/plain", write: rows => rows.map(row => data.ids[row]).join("\n") + "\n"},
  lerobot: {name: "delete_episodes.sh", type: "text/x-shellscript", write: rows => {
    const {values, flags} = data.lerobot;
    const episodes = [...new Set(rows.map(row => values[row]).filter(value => value >= 0))].sort((a, b) => a - b);
    return `${flags} --operation.type delete_episodes --operation.episode_indices '[${episodes.join(", ")}]'\n`;
  }},
};

function recordOf(row) {
  const record = {video_id: data.ids[row], video: data.names[row], uri: data.uris[row], cluster: data.cluster[row], outlier: Boolean(data.outlier[row])};
  for (const column of data.columns) {
    const value = column.kind === "number" ? data[column.array][row] : textOf(column, row);
    record[column.name] = Number.isNaN(value) || value === "" ? null : column.kind === "number" ? Number(value.toPrecision(7)) : value;
  }
  return record;
}

// A spreadsheet runs a text that begins like a formula: an apostrophe before it makes it text (OWASP, CSV injection).
function cell(value) {
  if (value === null) return "";
  if (typeof value !== "string") return String(value);
  const inert = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
}

function exportAs(kind) {
  const {name, type, write} = EXPORTS[kind], address = URL.createObjectURL(new Blob([write(exportedRows())], {type}));
  make("a", {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
