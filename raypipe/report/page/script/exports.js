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
    const {flags, notes} = data.lerobot, episodes = [...episodesOf(rows)].sort((a, b) => a - b);
    const line = `${flags} --operation.type delete_episodes --operation.episode_indices '[${episodes.join(", ")}]'`;
    const said = `# deletes ${episodes.length} of the ${data.lerobot.n} episodes of this run, in a copy of the dataset:`;
    return [...notes, said, line, ""].join("\n");
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

const episodesOf = rows => new Set(rows.map(row => data.lerobot.values[row]).filter(value => value >= 0));

function startExports() {
  if (data.episodes) data.lerobot.n = episodesOf(data.lerobot.values.map((_, row) => row)).size;
  else if (!data.lerobot) find("export-as").querySelector("[value=lerobot]").remove();
  find("export").addEventListener("click", async ({currentTarget: button}) => {
    button.disabled = true;
    await exportAs(find("export-as").value).catch(error => say(`Nothing was exported: ${error.message}.`));
    button.disabled = false;
  });
  find("export-as").addEventListener("change", sayExport);
  listeners.push(changed => { if (changed.has("selected") || changed.has("matching")) sayExport(); });
}

// What a click on Save would save. Without a choice the delete line would name every episode, so there is none.
function sayExport() {
  const n = state.selected.size || table.rows.length, videos = countVideos(n);
  let said = state.selected.size ? `what is selected: ${videos}`
    : n < data.n ? `what passes the filters: ${videos}` : `all: ${videos}, as nothing is selected or filtered`;
  let isPossible = true;
  if (find("export-as").value === "lerobot") {
    const {problem, n: of} = data.lerobot, size = problem ? 0 : episodesOf(exportedRows()).size;
    isPossible = size > 0 && size < of;
    said = problem ? `there is no such line: ${problem}`
      : isPossible ? `a command that deletes ${showNumber(size)} of ${showNumber(of)} episodes, in a copy`
      : `select the episodes to delete, or filter for them: now ${size ? "all are" : "none is"} chosen`;
  }
  find("export-said").textContent = said;
  find("export").disabled = !isPossible;
}

async function exportAs(kind) {
  const {name, type, write} = EXPORTS[kind], rows = exportedRows();
  await fetchTexts(rows);
  const address = URL.createObjectURL(new Blob([write(rows)], {type}));
  make("a", {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
