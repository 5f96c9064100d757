// What the page lists of the data's checks, joined to the map: a button for each that selects the videos it is of.

function startChecks() {
  const rowOf = rowsOfIds();
  for (const place of document.querySelectorAll("[data-show]")) {
    const rows = place.dataset.show.split(" ").map(id => rowOf.get(id)).filter(row => row !== undefined);
    if (rows.length) place.append(make("button", {type: "button", onclick: () => showOnMap(rows, rows[0])}, "Select on the map"));
  }
}

const rowsOfIds = () => new Map(data.ids.map((id, row) => [id, row]));
