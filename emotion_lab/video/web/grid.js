"use strict";
// The grid of several sources: the latest picture of each; a click enlarges one.

const GRID = ""; // name of this view
const GRID_INTERVAL_MS = 100;
const EMPTY = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
let gridVersions = []; // of the displayed pictures, in the order of about.views
let enlarged = null; // the view that was opened last, which gets the keyboard focus on return

// The view to which "Live" and "Close" lead.
const homeView = () => (isSeveral() ? GRID : about ? about.views[0] : "live");
const isSeveral = () => about !== null && about.views.length > 1;
// Whether a view is one of the program, which goes on when the page leaves it.
const isMain = (name) => about === null || name === GRID || about.views.includes(name);

async function pollGrid() {
  const start = performance.now();
  const response = await fetch(`api/grid?after=${gridVersions.join(",")}`);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || "");
  if (response.status === 200) {
    const bytes = await response.arrayBuffer();
    const length = new DataView(bytes).getUint32(0);
    const { views } = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
    let offset = 4 + length;
    for (const data of views) {
      data.picture = data.bytes ? bytes.slice(offset, offset + data.bytes) : null;
      offset += data.bytes;
    }
    if (view === GRID) renderGrid(views);
  }
  await sleep(Math.max(0, GRID_INTERVAL_MS - (performance.now() - start)));
}

// Shows the grid or the view of one source.
function showGrid(on) {
  $("grid").hidden = !on;
  $("single").hidden = on;
  if (on) {
    gridVersions = [];
    const tile = [...$("tiles").children].find((item) => item.dataset.view === enlarged);
    if (tile) tile.focus();
  }
}

function createTile(name) {
  const tile = appendElement("button", "tile", $("tiles"));
  tile.type = "button";
  tile.dataset.view = name;
  const image = appendElement("img", "", tile);
  image.alt = "";
  image.src = EMPTY; // without one, browsers draw a frame
  appendElement("span", "state", tile).hidden = true;
  const caption = appendElement("span", "caption", tile);
  appendElement("span", "name", caption).textContent = name;
  appendElement("span", "rate", caption);
  appendElement("span", "labels", caption);
  tile.addEventListener("click", () => {
    enlarged = name;
    switchView(name);
    $("show-live").focus();
  });
  return tile;
}

function setPart(tile, name, text) {
  const part = tile.querySelector(`.${name}`);
  if (part.textContent !== text) part.textContent = text;
  part.hidden = !text;
}

function renderGrid(views) {
  gridVersions = views.map((data) => data.version);
  const tiles = $("tiles").children;
  views.forEach((data, position) => {
    const tile = tiles[position] || createTile(data.view);
    if (data.picture) {
      const image = tile.querySelector("img");
      const url = URL.createObjectURL(new Blob([data.picture], { type: "image/jpeg" }));
      image.onload = () => URL.revokeObjectURL(url);
      image.src = url;
    }
    const faces = data.row ? data.row.faces : [];
    const labels = faces.map((face) => (face.turned_away ? about.turned_away : classLabel(classIndex(face.label))));
    const running = data.state === "running";
    tile.classList.toggle("message", Boolean(data.message));
    setPart(tile, "state", running ? "" : data.state);
    setPart(tile, "rate", running && data.row ? `${data.fps.toFixed(0)} frames/s` : "");
    const words = faces.length ? labels.join(", ") : about.no_face;
    setPart(tile, "labels", data.message || (data.row ? words : "waiting for the first picture …"));
    tile.setAttribute("aria-label", `Enlarge ${data.view}: ${tile.querySelector(".labels").textContent}`);
  });
  const running = views.filter((data) => data.state === "running").length;
  const hidden = about.anonymize === "none" ? "" : " · faces hidden";
  setText("grid-facts", `${running} of ${views.length} sources running${hidden}`);
}
