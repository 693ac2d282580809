"use strict";
// Asks for the newest frame, shows it, asks again: a slow browser skips frames and lags by none.

const $ = (id) => document.getElementById(id);
let about = null; // classes, words and colours, in class order
let view = "live";
let version = -1;
let latest = null; // what the server said last
let chosen = null; // id of the face the user chose
let over = false; // the user ended the program
const made = new Set(); // names of files in the list

// --- server -------------------------------------------------------------------------------------

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", body });
  const data = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.error || `The program answered ${answer.status}.`);
  return data;
}

async function act(path) {
  try {
    say("");
    return await post(path);
  } catch (error) {
    say(error.message);
    return null;
  }
}

async function ask() {
  const answer = await fetch(`api/next?view=${view}&after=${version}`);
  if (answer.status === 204) return null;
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || "");
  const bytes = await answer.arrayBuffer();
  const length = new DataView(bytes).getUint32(0);
  const data = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  data.picture = bytes.byteLength > 4 + length ? bytes.slice(4 + length) : null;
  return data;
}

async function learn() {
  const told = await (await fetch("api/about")).json();
  $("engine").textContent = [told.detector, told.runtime].filter(Boolean).join(", ");
  return told;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function watch() {
  let lost = false;
  while (!over) {
    if (document.hidden) {
      await pause(200);
      continue;
    }
    const asked = view;
    try {
      about = about || (await learn());
      const data = await ask();
      if (lost) say("");
      lost = false;
      if (data && asked === view) render(data);
    } catch (error) {
      if (over || asked !== view) continue;
      if (error.message && !(error instanceof TypeError) && view !== "live") {
        look("live"); // what was brought along is gone
        say(error.message);
      } else {
        lost = true;
        say("The program does not answer. It has ended, or the connection is lost.");
        await pause(1500);
      }
    }
  }
}

// --- what is shown ------------------------------------------------------------------------------

function say(text) {
  $("message").hidden = !text;
  if ($("message").textContent !== text) $("message").textContent = text;
}

function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function render(data) {
  version = data.version;
  if (data.message && data.message !== (latest && latest.message)) say(data.message);
  latest = data;
  if (data.picture) {
    const address = URL.createObjectURL(new Blob([data.picture], { type: "image/jpeg" }));
    $("frame").onload = () => URL.revokeObjectURL(address);
    $("frame").src = address;
  }
  $("frame").hidden = !data.row;
  $("empty").hidden = Boolean(data.row);
  const done = data.state === "ended" || data.state === "failed";
  $("paused").hidden = data.state !== "paused";
  $("over").hidden = !done || data.stills;
  put("over", data.state);
  $("rec").hidden = !data.recording;
  put("rec", data.recording ? `${data.recording.seconds.toFixed(0)} s` : "");
  put("pause", data.state === "paused" ? "Resume" : "Pause");
  $("pause").disabled = done;
  put("record", data.recording ? "Stop recording" : "Record");
  $("record").setAttribute("aria-pressed", String(Boolean(data.recording)));
  $("record").disabled = done;
  $("snapshot").disabled = !data.row;
  put("stop", view === "live" ? "Stop" : "Close");
  $("stop").title = view === "live" ? "End the program" : "Back to the live view";
  data.saved.forEach(keep);
  const faces = data.row ? data.row.faces : [];
  facts(data);
  remember(data);
  list(faces);
  bars(faces.find((face) => face.id === picked(faces)));
  $("time").hidden = data.stills;
  requestAnimationFrame(chart);
}

function facts(data) {
  const row = data.row;
  if (!row) return;
  const parts = [data.source.split(/[\\/]/).pop(), `${row.size[0]}×${row.size[1]}`];
  if (!data.stills) parts.push(`${row.time_s.toFixed(1)} s`);
  if (data.state === "running" && !data.stills) {
    parts.push(`${data.fps.toFixed(0)} frames/s`, `${row.latency_ms.toFixed(0)} ms`);
  }
  if (data.dropped) parts.push(`${data.dropped} skipped`);
  if (about.anonymize !== "none") parts.push("faces hidden");
  put("facts", parts.join(" · "));
  const count = row.faces.length;
  const alt = `Picture with ${count === 1 ? "1 face" : `${count} faces`}`;
  if ($("frame").alt !== alt) $("frame").alt = alt;
}

const index = (label) => (label === null ? -1 : about.classes.indexOf(label));
const colour = (k) => (k < 0 ? about.uncertain_colour : about.colours[k]);
const word = (k) => (k < 0 ? about.uncertain : about.words[k]);
const percent = (share) => `${Math.round(share * 100)}%`;

function picked(faces) {
  if (faces.some((face) => face.id === chosen)) return chosen;
  return faces.length ? faces[0].id : null;
}

function element(kind, name, parent) {
  const made = document.createElement(kind);
  made.className = name;
  parent.append(made);
  return made;
}

function list(faces) {
  put("nobody", faces.length || !about ? "" : about.no_face);
  $("nobody").hidden = faces.length > 0;
  const box = $("list");
  const known = new Map([...box.children].map((item) => [Number(item.dataset.id), item]));
  for (const [id, item] of known) if (!faces.some((face) => face.id === id)) item.remove();
  for (const [place, face] of faces.entries()) {
    let item = known.get(face.id);
    if (!item) {
      item = element("button", "", box);
      item.type = "button";
      item.dataset.id = face.id;
      for (const name of ["id", "word", "share"]) element("span", name, item);
      item.addEventListener("click", () => {
        chosen = face.id;
        if (latest && latest.row) {
          list(latest.row.faces);
          bars(latest.row.faces.find((one) => one.id === chosen));
          requestAnimationFrame(chart);
        }
      });
    }
    // Only what stands wrong is moved: moving takes the keyboard's focus away.
    if (box.children[place] !== item) box.insertBefore(item, box.children[place]);
    const [id, name, share] = item.children;
    const k = index(face.label);
    id.textContent = face.id;
    id.style.background = colour(k);
    id.style.color = k < 0 ? about.uncertain_ink : about.inks[k];
    name.textContent = word(k);
    share.textContent = k < 0 ? "" : percent(face.smoothed[face.label]);
    item.setAttribute("aria-pressed", String(face.id === picked(faces)));
    item.setAttribute("aria-label", `Face ${face.id}: ${word(k)} ${share.textContent}`);
  }
}

function bars(face) {
  const box = $("bars");
  box.hidden = !face;
  if (!face) return;
  if (!box.children.length) {
    about.classes.forEach((_, k) => {
      const line = element("div", "bar", box);
      line.setAttribute("role", "meter");
      line.setAttribute("aria-valuemin", "0");
      line.setAttribute("aria-valuemax", "100");
      line.setAttribute("aria-label", about.words[k]);
      element("span", "name", line).textContent = about.words[k];
      element("div", "fill", element("div", "track", line)).style.background = about.colours[k];
      element("span", "share", line);
    });
  }
  about.classes.forEach((name, k) => {
    const line = box.children[k];
    const share = face.smoothed[name];
    line.classList.toggle("shown", name === face.label);
    line.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    line.querySelector(".fill").style.transform = `scaleX(${share})`;
    line.querySelector(".share").textContent = percent(share);
  });
}

function keep(name) {
  if (made.has(name)) return;
  made.add(name);
  $("saved").hidden = false;
  const item = document.createElement("li");
  const link = element("a", "", item);
  link.href = `api/file/${encodeURIComponent(name)}`;
  link.download = name;
  link.textContent = name;
  $("files").prepend(item);
}

// --- buttons, keys, dropping --------------------------------------------------------------------

async function toggle(what, on) {
  await act(`api/${what}?view=${view}&on=${on ? 1 : 0}`);
}

$("pause").onclick = () => toggle("pause", latest?.state !== "paused");
$("record").onclick = () => toggle("record", !latest?.recording);
$("snapshot").onclick = async () => {
  const done = await act(`api/snapshot?view=${view}`);
  if (done) keep(done.file);
};
$("stop").onclick = async () => {
  if (view !== "live") look("live");
  else if (confirm("End the program? What was saved stays in its run folder.")) {
    over = Boolean(await act("api/stop"));
    if (over) say("The program has ended. Its run folder keeps what was saved.");
  }
};
$("show-live").onclick = () => look("live");
$("show-camera").onclick = useCamera;
$("show-file").onclick = () => $("file").click();
$("file").onchange = () => {
  useFile($("file").files[0]);
  $("file").value = "";
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = { " ": "pause", s: "snapshot", r: "record" }[event.key];
  if (!key || (event.key === " " && event.target.closest("button, a, input"))) return;
  event.preventDefault();
  $(key).click();
});
let inside = 0; // entering a child comes before leaving its parent
const dropping = (change) => {
  inside = Math.max(0, inside + change);
  $("drop").hidden = inside === 0;
};
document.addEventListener("dragenter", () => dropping(1));
document.addEventListener("dragleave", () => dropping(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dropping(-inside);
  useFile(event.dataTransfer.files[0]);
});
window.addEventListener("resize", () => requestAnimationFrame(chart));
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", (event) => event.persisted && look("live"));
if (location.search) history.replaceState(null, "", location.pathname); // the cookie has the token
watch();
