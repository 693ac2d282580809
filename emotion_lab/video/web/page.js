"use strict";
// Requests the latest frame, shows it and requests the next one: a slow browser skips frames.

const $ = (id) => document.getElementById(id);
let about = null; // classes, labels and colours, in class order
let view = "live"; // name of the displayed session, or GRID
let version = -1; // of the displayed frame
let latest = null; // last status from the server
let selected = null; // id of the face that the user selected
let stopped = false; // the user ended the program
const listedFiles = new Set(); // names in the list of saved files

// --- server -------------------------------------------------------------------------------------

async function post(path, body) {
  const response = await fetch(path, { method: "POST", body });
  const data = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(data.error || `The program answered ${response.status}.`);
  return data;
}

async function postOrShowError(path) {
  try {
    showMessage("");
    return await post(path);
  } catch (error) {
    showMessage(error.message);
    return null;
  }
}

async function fetchLatest() {
  const response = await fetch(`api/next?view=${encodeURIComponent(view)}&after=${version}`);
  if (response.status === 204) return null;
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || "");
  const bytes = await response.arrayBuffer();
  const length = new DataView(bytes).getUint32(0);
  const data = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  data.picture = bytes.byteLength > 4 + length ? bytes.slice(4 + length) : null;
  return data;
}

async function fetchAbout() {
  const data = await (await fetch("api/about")).json();
  $("engine").textContent = [data.detector, data.backend].filter(Boolean).join(", ");
  const several = data.views.length > 1;
  setText("show-live", several ? "All sources" : "Live");
  $("grid-key").hidden = !several;
  return data;
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function poll() {
  let disconnected = false;
  while (!stopped) {
    if (document.hidden) {
      await sleep(200);
      continue;
    }
    const requested = view;
    try {
      if (about === null) {
        about = await fetchAbout();
        if (isSeveral()) {
          view = GRID;
          switchView(GRID);
        }
        continue;
      }
      const data = requested === GRID ? await pollGrid() : await fetchLatest();
      if (disconnected) showMessage("");
      disconnected = false;
      if (data && requested === view) render(data);
    } catch (error) {
      if (stopped || requested !== view) continue;
      if (error.message && !(error instanceof TypeError) && !isMain(view)) {
        switchView(homeView()); // the session of the camera or upload has been closed
        showMessage(error.message);
      } else {
        disconnected = true;
        showMessage("The program does not answer. It has ended, or the connection is lost.");
        await sleep(1500);
      }
    }
  }
}

// --- rendering ----------------------------------------------------------------------------------

function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function showMessage(text) {
  $("message").hidden = !text;
  setText("message", text);
}

function render(data) {
  version = data.version;
  if (data.message && data.message !== (latest && latest.message)) showMessage(data.message);
  latest = data;
  if (data.picture) {
    const url = URL.createObjectURL(new Blob([data.picture], { type: "image/jpeg" }));
    $("frame").onload = () => URL.revokeObjectURL(url);
    $("frame").src = url;
  }
  $("frame").hidden = !data.row;
  $("empty").hidden = Boolean(data.row);
  const over = data.state === "ended" || data.state === "failed";
  $("paused").hidden = data.state !== "paused";
  $("over").hidden = !over || data.stills;
  setText("over", data.state);
  $("rec").hidden = !data.recording;
  setText("rec", data.recording ? `${data.recording.seconds.toFixed(0)} s` : "");
  setText("pause", data.state === "paused" ? "Resume" : "Pause");
  $("pause").disabled = over;
  setText("record", data.recording ? "Stop recording" : "Record");
  $("record").setAttribute("aria-pressed", String(Boolean(data.recording)));
  $("record").disabled = over;
  $("snapshot").disabled = !data.row;
  $("enrol").hidden = $("enrol-key").hidden = !about.can_enrol || data.stills;
  $("enrol").disabled = over;
  setText("stop", view === homeView() ? "Stop" : "Close");
  $("stop").title = view === homeView() ? "End the program" : "Back to the live view";
  data.saved.forEach(listFile);
  const faces = data.row ? data.row.faces : [];
  if (data.row) renderFacts(data);
  addToTimeline(data);
  renderFaces(faces);
  renderSelected(faces.find((face) => face.id === selectedId(faces)));
  $("time").hidden = data.stills;
  requestAnimationFrame(drawTimeline);
}

function renderFacts(data) {
  const row = data.row;
  const name = isSeveral() && isMain(view) ? view : data.source.split(/[\\/]/).pop();
  const parts = [name, `${row.size[0]}×${row.size[1]}`];
  if (!data.stills) parts.push(`${row.time_s.toFixed(1)} s`);
  if (data.state === "running" && !data.stills) {
    parts.push(`${data.fps.toFixed(0)} frames/s`);
    if (row.latency_ms !== null)  // null in a replay
      parts.push(`${data.live ? "delay" : "processing"} ${row.latency_ms.toFixed(0)} ms`);
  }
  if (data.dropped) parts.push(`${data.dropped} dropped`);
  if (about.anonymize !== "none") parts.push("faces hidden");
  setText("facts", parts.join(" · "));
  const count = row.faces.length;
  const alt = `Picture with ${count === 1 ? "1 face" : `${count} faces`}`;
  if ($("frame").alt !== alt) $("frame").alt = alt;
}

// A class index of -1 means "uncertain".
const classIndex = (name) => (name === null ? -1 : about.classes.indexOf(name));
const classColour = (k) => (k < 0 ? about.uncertain_colour : about.colours[k]);
const classLabel = (k) => (k < 0 ? about.uncertain : about.labels[k]);
const percent = (share) => `${Math.round(share * 100)}%`;

function selectedId(faces) {
  if (faces.some((face) => face.id === selected)) return selected;
  return faces.length ? faces[0].id : null;
}

function appendElement(tag, className, parent) {
  const element = document.createElement(tag);
  element.className = className;
  parent.append(element);
  return element;
}

function renderFaces(faces) {
  setText("nobody", faces.length || !about ? "" : about.no_face);
  $("nobody").hidden = faces.length > 0;
  const list = $("list");
  const items = new Map([...list.children].map((item) => [Number(item.dataset.id), item]));
  for (const [id, item] of items) if (!faces.some((face) => face.id === id)) item.remove();
  for (const [position, face] of faces.entries()) {
    const item = items.get(face.id) || createFaceItem(face.id, list);
    // Moving an element removes the keyboard focus, so only misplaced elements are moved.
    if (list.children[position] !== item) list.insertBefore(item, list.children[position]);
    const [id, name, share] = item.children;
    const k = classIndex(face.label);
    id.textContent = face.id;
    id.style.background = classColour(k);
    id.style.color = k < 0 ? about.uncertain_text_colour : about.text_colours[k];
    name.textContent = face.turned_away ? about.turned_away : classLabel(k);
    share.textContent = k < 0 ? "" : percent(face.smoothed[face.label]);
    item.setAttribute("aria-pressed", String(face.id === selectedId(faces)));
    item.setAttribute("aria-label", `Face ${face.id}: ${name.textContent} ${share.textContent}`);
  }
}

function createFaceItem(id, list) {
  const item = appendElement("button", "", list);
  item.type = "button";
  item.dataset.id = id;
  for (const name of ["id", "word", "share"]) appendElement("span", name, item);
  item.addEventListener("click", () => {
    selected = id;
    if (latest && latest.row) {
      renderFaces(latest.row.faces);
      renderSelected(latest.row.faces.find((face) => face.id === id));
      requestAnimationFrame(drawTimeline);
    }
  });
  return item;
}

function renderSelected(face) {
  renderBars(face);
  renderOutputs(face);
}

function renderBars(face) {
  const bars = $("bars");
  bars.hidden = !face;
  if (!face) return;
  if (!bars.children.length) about.classes.forEach((_, k) => createBar(k, bars));
  about.classes.forEach((name, k) => {
    const bar = bars.children[k];
    const share = face.smoothed[name];
    bar.classList.toggle("shown", name === face.label);
    bar.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    bar.querySelector(".fill").style.transform = `scaleX(${share})`;
    bar.querySelector(".share").textContent = percent(share);
  });
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const degrees = (value) => `${value < -0.5 ? "−" : ""}${Math.abs(value).toFixed(0)}°`;

// Rows [name, value] of the values besides the probabilities; missing ones are left out.
function outputRows(face) {
  const rows = [];
  const { quantities, quantity_source: source } = face;
  for (const name of ["valence", "arousal"]) {
    const [value, std] = [quantities[name], quantities[`${name}_std`]];
    if (typeof value !== "number") continue;
    const error = typeof std === "number" ? ` ± ${std.toFixed(2)}` : "";
    rows.push([`${name} (${source[name]})`, `${signed(value)}${error}`]);
  }
  const { intensity } = quantities;
  if (typeof intensity === "number") {
    rows.push([`intensity (${source.intensity})`, percent(intensity)]);
  }
  if (face.pose) {
    const { yaw, pitch, roll } = face.pose;
    rows.push(["head", `yaw ${degrees(yaw)}, pitch ${degrees(pitch)}, roll ${degrees(roll)}`]);
  }
  return rows;
}

function renderOutputs(face) {
  const rows = face ? outputRows(face) : [];
  $("outputs").hidden = rows.length === 0;
  $("outputs").replaceChildren();
  for (const [name, value] of rows) {
    appendElement("dt", "", $("outputs")).textContent = name;
    appendElement("dd", "", $("outputs")).textContent = value;
  }
}

function createBar(k, bars) {
  const bar = appendElement("div", "bar", bars);
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  bar.setAttribute("aria-label", about.labels[k]);
  appendElement("span", "name", bar).textContent = about.labels[k];
  const track = appendElement("div", "track", bar);
  appendElement("div", "fill", track).style.background = about.colours[k];
  appendElement("span", "share", bar);
}

function listFile(name) {
  if (listedFiles.has(name)) return;
  listedFiles.add(name);
  $("saved").hidden = false;
  const item = document.createElement("li");
  const link = appendElement("a", "", item);
  link.href = `api/file/${encodeURIComponent(name)}`;
  link.download = name;
  link.textContent = name;
  $("files").prepend(item);
}

// --- buttons, keys, drag and drop ---------------------------------------------------------------

async function setSwitch(name, on) {
  await postOrShowError(`api/${name}?view=${encodeURIComponent(view)}&on=${on ? 1 : 0}`);
}

$("pause").onclick = () => setSwitch("pause", latest?.state !== "paused");
$("record").onclick = () => setSwitch("record", !latest?.recording);
$("snapshot").onclick = async () => {
  const response = await postOrShowError(`api/snapshot?view=${encodeURIComponent(view)}`);
  if (response) listFile(response.file);
};
$("enrol").onclick = async () => {
  const response = await postOrShowError(`api/enrol?view=${encodeURIComponent(view)}`);
  if (!response) return;
  showMessage(`Look neutral for ${response.seconds} seconds …`);
  await sleep(1000 * response.seconds);
  showMessage("");
};
async function endProgram() {
  if (!confirm("End the program? Saved files stay in the run directory.")) return;
  stopped = Boolean(await postOrShowError(`api/stop?view=${encodeURIComponent(about.views[0])}`));
  if (stopped) showMessage("The program has ended. Saved files are in its run directory.");
}
$("stop").onclick = () => (view === homeView() ? endProgram() : switchView(homeView()));
$("grid-stop").onclick = endProgram;
$("show-live").onclick = () => switchView(homeView());
$("show-camera").onclick = openCamera;
$("show-file").onclick = () => $("file").click();
$("file").onchange = () => {
  uploadFile($("file").files[0]);
  $("file").value = "";
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || view === GRID) return;
  if (event.key === "Escape" && isSeveral()) switchView(GRID);
  const button = { " ": "pause", s: "snapshot", r: "record", n: "enrol" }[event.key];
  if (!button || $(button).hidden || (event.key === " " && event.target.closest("button, a, input"))) return;
  event.preventDefault();
  $(button).click();
});
let dragDepth = 0; // a child is entered before its parent is left
const changeDragDepth = (change) => {
  dragDepth = Math.max(0, dragDepth + change);
  $("drop").hidden = dragDepth === 0;
};
document.addEventListener("dragenter", () => changeDragDepth(1));
document.addEventListener("dragleave", () => changeDragDepth(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  changeDragDepth(-dragDepth);
  uploadFile(event.dataTransfer.files[0]);
});
window.addEventListener("resize", () => requestAnimationFrame(drawTimeline));
window.addEventListener("pagehide", closeView);
window.addEventListener("pageshow", (event) => event.persisted && switchView(homeView()));
// Removes the token from the address bar; the cookie contains it.
if (location.search) history.replaceState(null, "", location.pathname);
poll();
