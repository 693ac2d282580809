"use strict";
// What the user brings along: the camera of the browser, a photo, a clip.

const CAMERA_MS = 50; // between two pictures
let camera = null; // MediaStream while the camera is on

function look(name) {
  leave();
  view = name;
  [version, latest, chosen, points] = [-1, null, null, []];
  $("frame").hidden = true;
  $("empty").hidden = false;
  $("rows").href = `api/rows?view=${name}`;
  for (const kind of ["live", "camera", "file"]) {
    const on = name.startsWith(kind === "file" ? "upload" : kind);
    $(`show-${kind}`).setAttribute("aria-pressed", String(on));
  }
  say("");
}

function leave() {
  if (camera) camera.getTracks().forEach((track) => track.stop());
  camera = null;
  $("own").srcObject = null;
  if (view !== "live") navigator.sendBeacon(`api/stop?view=${view}`);
}

async function useCamera() {
  if (!navigator.mediaDevices) {
    say("Browsers give their camera to https and localhost pages only. Send a photo instead.");
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" },
    });
  } catch (error) {
    say(`The browser gives no camera (${error.name}). Plug one in, or allow it for this page.`);
    return;
  }
  const opened = await act("api/camera");
  if (!opened) {
    stream.getTracks().forEach((track) => track.stop());
    return;
  }
  look(opened.view);
  camera = stream;
  $("own").srcObject = stream;
  await $("own").play();
  send(opened.view);
}

async function send(name) {
  const canvas = document.createElement("canvas");
  while (view === name && camera) {
    const begin = performance.now();
    const { videoWidth: width, videoHeight: height } = $("own");
    if (width && !document.hidden) {
      [canvas.width, canvas.height] = [width, height];
      canvas.getContext("2d").drawImage($("own"), 0, 0);
      const picture = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
      try {
        await post(`api/camera/${name}`, picture);
      } catch (error) {
        if (view !== name) return;
        look("live");
        say(error.message);
        return;
      }
    }
    await pause(Math.max(0, CAMERA_MS - (performance.now() - begin)));
  }
}

async function useFile(file) {
  if (!file) return;
  say(`Sending ${file.name} …`);
  try {
    const opened = await post(`api/upload?name=${encodeURIComponent(file.name)}`, file);
    look(opened.view);
  } catch (error) {
    say(error.message);
  }
}
