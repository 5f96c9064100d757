// What the page lists of the data's checks, joined to the map: a button for each that selects the videos it is of.

function startChecks() {
  for (const place of document.querySelectorAll("[data-show]")) {
    const rows = [...readRanges(place.dataset.show)], select = {type: "button", onclick: () => showOnMap(rows, rows[0])};
    place.append(make("button", select, "Select on the map"));
  }
}
