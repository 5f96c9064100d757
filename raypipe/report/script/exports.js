// What is selected, or else what passes the filters, as a file.

const exportedRows = () => [...state.selected.size ? state.selected : table.rows].sort((a, b) => a - b);

const EXPORTS = {
  csv: {name: "selection.csv", type: "text/csv", write: rows => {
    const head = ["video_id", "video", "uri", "cluster", "outlier", ...data.columns.map(column => column.name)];
    const lines = [head, ...rows.map(row => Object.values(recordOf(row)))];
    return lines.map(line => line.map(cell).join(",") + "\n").join("");
  }},
  json: {name: "selection.json", type: "application/json", write: rows => {
    return JSON.stringify(rows.map(recordOf), null, 1) + "\n";
  }},
  ids: {name: "selection.txt", type: "text/plain", write: rows => rows.map(row => data.ids[row]).join("\n") + "\n"},
  lerobot: {name: "delete_episodes.sh", type: "text/x-shellscript", write: rows => {
    const {values, flags} = data.lerobot;
    const episodes = [...new Set(rows.map(row => values[row]).filter(value => value >= 0))].sort((a, b) => a - b);
    return `${flags} --operation.type delete_episodes --operation.episode_indices '[${episodes.join(", ")}]'\n`;
  }},
};

function recordOf(row) {
  const record = {video_id: data.ids[row], video: data.names[row], uri: data.uris[row]};
  Object.assign(record, {cluster: data.cluster[row], outlier: Boolean(data.outlier[row])});
  for (const column of data.columns) {
    const value = column.kind === "number" ? Number(data[column.array][row].toPrecision(7)) : textOf(column, row);
    record[column.name] = value === "" || Number.isNaN(value) ? null : value;
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

async function exportAs(kind) {
  const {name, type, write} = EXPORTS[kind], rows = exportedRows();
  await fetchTexts(rows);
  const address = URL.createObjectURL(new Blob([write(rows)], {type}));
  make("a", {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
