"use strict";
// Sources from the browser: its camera, a photo, a video.

const CAMERA_INTERVAL_MS = 50;
let camera = null; // MediaStream while the camera is on

function switchView(name) {
  closeView();
  view = name;
  [version, latest, selected, points] = [-1, null, null, []];
  $("frame").hidden = true;
  $("empty").hidden = false;
  $("rows").href = `api/rows?view=${encodeURIComponent(name)}`;
  let shown = name.startsWith("upload") ? "file" : "camera";
  if (isMain(name)) shown = isSeveral() && name !== GRID ? "" : "live";
  for (const kind of ["live", "camera", "file"]) {
    $(`show-${kind}`).setAttribute("aria-pressed", String(kind === shown));
  }
  showMessage("");
  showGrid(name === GRID);
}

function closeView() {
  if (camera) camera.getTracks().forEach((track) => track.stop());
  camera = null;
  $("camera-preview").srcObject = null;
  if (!isMain(view)) navigator.sendBeacon(`api/stop?view=${encodeURIComponent(view)}`);
}

async function openCamera() {
  if (!navigator.mediaDevices) {
    showMessage("Browsers allow the camera on https and localhost pages only. Upload a photo instead.");
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" },
    });
  } catch (error) {
    showMessage(`No access to a camera (${error.name}). Connect one, or allow it for this page.`);
    return;
  }
  const session = await postOrShowError("api/camera");
  if (!session) {
    stream.getTracks().forEach((track) => track.stop());
    return;
  }
  switchView(session.view);
  camera = stream;
  $("camera-preview").srcObject = stream;
  await $("camera-preview").play();
  sendCameraFrames(session.view);
}

async function sendCameraFrames(name) {
  const canvas = document.createElement("canvas");
  while (view === name && camera) {
    const start = performance.now();
    const { videoWidth: width, videoHeight: height } = $("camera-preview");
    if (width && !document.hidden) {
      [canvas.width, canvas.height] = [width, height];
      canvas.getContext("2d").drawImage($("camera-preview"), 0, 0);
      const jpeg = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.85));
      try {
        await post(`api/camera/${name}`, jpeg);
      } catch (error) {
        if (view !== name) return;
        switchView(homeView());
        showMessage(error.message);
        return;
      }
    }
    await sleep(Math.max(0, CAMERA_INTERVAL_MS - (performance.now() - start)));
  }
}

async function uploadFile(file) {
  if (!file) return;
  showMessage(`Uploading ${file.name} …`);
  try {
    const session = await post(`api/upload?name=${encodeURIComponent(file.name)}`, file);
    switchView(session.view);
  } catch (error) {
    showMessage(error.message);
  }
}
