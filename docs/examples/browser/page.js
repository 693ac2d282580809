// The page: a photo or the camera, a frame around the face, a bar for each class.
//
//   index.html?model=senet.fp32.onnx&detector=yunet.onnx&photo=face.png
//
// All three are optional and files of the same host; without them model.onnx and detector.onnx
// are opened. A page without a detector has a frame that the user places.

/** Largest side of a face in pixels; larger ones are scaled down, because the graph is slower. */
const LARGEST_FACE = 512;
/** Pixels of the longer side of the displayed image. */
const STAGE = 960;
/** Time constant of the bars for the camera. */
const TIME_CONSTANT_MS = 300;
/** Time between two detections on the camera. */
const DETECTION_MS = 250;

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const stage = $("stage");
const cut = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });

let loadModel; // from emotion.js
let loadDetector; // from yunet.js
let model = null;
let detect = null; // null without a detector
let detection = null; // boxes in the source and their time
let chosen = false; // the user or a detection has placed the frame in this source
let source = null; // an ImageBitmap, or the video
let centre = [0.5, 0.5]; // of the frame, as fractions of width and height
let pending = null; // the running classification
let smoothed = null; // mean probabilities of this source and their time

function showMessage(text, alarm = false) {
  $("message").textContent = text;
  $("message").classList.toggle("alarm", alarm);
  $("result").hidden = !text && !$("bars").children.length;
}

const mirrored = () => stage.classList.contains("mirrored");

function size() {
  return source === video
    ? [video.videoWidth, video.videoHeight]
    : [source.width, source.height];
}

/** Return [left, top, side] of the frame in integer pixels of the source. */
function frame() {
  const [width, height] = size();
  const side = Math.max(1, Math.round(Math.min(width, height) * Number($("side").value)));
  const within = (fraction, length) =>
    Math.min(Math.max(Math.floor(fraction * length - side / 2), 0), length - side);
  return [within(centre[0], width), within(centre[1], height), side];
}

/** Detect faces and place the frame: on the face nearest to it, at first on the largest. */
async function follow() {
  if (!detect || !$("follow").checked) return;
  const image = source;
  const [width, height] = size();
  if (!detection || (image === video && performance.now() - detection.at > DETECTION_MS)) {
    const boxes = await detect(image, width, height);
    if (image !== source) return;
    detection = { boxes, at: performance.now() };
  }
  if (!detection.boxes.length) return;
  const rank = chosen
    ? ([x, y, w, h]) => -Math.hypot(x + w / 2 - centre[0] * width, y + h / 2 - centre[1] * height)
    : ([, , w, h]) => w * h;
  const [x, y, w, h] = detection.boxes.reduce((a, b) => (rank(b) > rank(a) ? b : a));
  const side = Math.round(Math.max(w, h) * (1 + 2 * (model.metadata.crop_margin ?? 0)));
  $("side").value = side / Math.min(width, height);
  centre = [(x + w / 2) / width, (y + h / 2) / height];
  chosen = true;
}

function draw() {
  const [width, height] = size();
  const scale = STAGE / Math.max(width, height);
  const [left, top, side] = frame().map((value) => value * scale);
  stage.width = Math.max(1, Math.round(width * scale));
  stage.height = Math.max(1, Math.round(height * scale));
  const context = stage.getContext("2d");
  context.drawImage(source, 0, 0, stage.width, stage.height);
  const shade = new Path2D();
  shade.rect(0, 0, stage.width, stage.height);
  shade.rect(left, top, side, side);
  context.fillStyle = "rgb(0 0 0 / 45%)";
  context.fill(shade, "evenodd");
  context.strokeStyle = "white";
  context.lineWidth = Math.max(1, stage.width / 240);
  context.strokeRect(left, top, side, side);
  if (!$("follow").checked) return;
  context.setLineDash([6, 6]);
  for (const box of detection?.boxes ?? []) context.strokeRect(...box.map((value) => value * scale));
}

/** Return the pixels inside the frame. */
function face() {
  const [left, top, side] = frame();
  const out = Math.min(side, LARGEST_FACE);
  cut.canvas.width = cut.canvas.height = out;
  cut.imageSmoothingQuality = "high";
  cut.drawImage(source, left, top, side, side, 0, 0, out, out);
  return cut.getImageData(0, 0, out, out);
}

/** Smooth the probabilities of the camera with an exponential moving average. */
function smooth(probabilities) {
  const now = performance.now();
  const weight = smoothed && source === video ? 1 - Math.exp((smoothed.at - now) / TIME_CONSTANT_MS) : 1;
  const mean = Array.from(probabilities, (value, i) =>
    weight < 1 ? smoothed.mean[i] + weight * (value - smoothed.mean[i]) : value,
  );
  smoothed = { mean, at: now };
  return mean;
}

function show(probabilities, ms) {
  const found = detection && $("follow").checked ? detection.boxes.length : null;
  const faces = { null: "", 0: "no face detected, ", 1: "1 face detected, " }[found];
  stage.dataset.frame = frame();
  const first = probabilities.indexOf(Math.max(...probabilities));
  [...$("bars").children].forEach((row, i) => {
    row.classList.toggle("first", i === first);
    row.dataset.probability = probabilities[i];
    row.querySelector(".share").textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
    row.querySelector(".bar").style.width = `${100 * probabilities[i]}%`;
  });
  showMessage(model.metadata.classes[first]);
  $("speed").textContent = `${faces ?? `${found} faces detected, `}${ms.toFixed(0)} ms per face`;
}

/** Classify the face in the frame; a call during a classification repeats it at the end. */
async function classify() {
  if (source) draw();
  if (!model || !source) return;
  if (pending) {
    pending.again = true;
    return pending.end;
  }
  pending = { again: true };
  pending.end = (async () => {
    while (pending.again) {
      pending.again = false;
      const network = model;
      await follow();
      draw();
      const start = performance.now();
      const probabilities = await network.classify(face());
      if (network === model) show(smooth(probabilities), performance.now() - start);
    }
  })();
  try {
    await pending.end;
  } catch (error) {
    showMessage(`This face could not be classified: ${error.message}`, true);
  } finally {
    pending = null;
  }
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.blob();
}

async function openModel(blob, name) {
  try {
    model = await loadModel(new Uint8Array(await blob.arrayBuffer()));
    smoothed = null;
  } catch (error) {
    showMessage(`${name}: ${error.message}`, true);
    return;
  }
  const { classes, input, model: names, precision, licence } = model.metadata;
  const colour = input.channels === 1 ? "grey" : "RGB";
  $("model").textContent =
    `${names.join(" + ")}, ${precision}, ${input.image_size} × ${input.image_size} ${colour}, ` +
    `licence: ${licence}`;
  $("bars").replaceChildren(
    ...classes.map((name) => {
      const row = document.createElement("li");
      row.innerHTML =
        '<span class="name"></span><span class="share"></span>' +
        '<div class="track"><div class="bar"></div></div>';
      row.querySelector(".name").textContent = name;
      return row;
    }),
  );
  showMessage("");
  await classify();
}

async function openDetector(blob, name) {
  try {
    detect = await loadDetector(new Uint8Array(await blob.arrayBuffer()));
  } catch (error) {
    showMessage(`${name}: ${error.message}`, true);
    return;
  }
  detection = null;
  $("detection").hidden = true;
  $("following").hidden = false;
  await classify();
}

function stop() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  $("camera").setAttribute("aria-pressed", "false");
}

function setSource(next) {
  source = next;
  smoothed = detection = null;
  chosen = false;
  centre = [0.5, 0.5];
  stage.classList.toggle("mirrored", next === video);
  stage.hidden = $("size").hidden = false;
  $("empty").hidden = true;
}

async function openPhoto(blob) {
  stop();
  try {
    // As OpenCV reads it: EXIF orientation applied, colour profile ignored.
    setSource(await createImageBitmap(blob, { colorSpaceConversion: "none" }));
  } catch {
    showMessage("The browser cannot read this file as an image.", true);
    return;
  }
  $("side").value = 1;
  await classify();
}

async function camera() {
  if (source === video) {
    source = await createImageBitmap(video); // keep the last frame
    stop();
    await classify();
    return;
  }
  if (!navigator.mediaDevices) {
    showMessage("Browsers allow camera access only on https and localhost.", true);
    return;
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    await video.play();
  } catch (error) {
    stop();
    showMessage(`No camera: ${error.message}`, true);
    return;
  }
  $("camera").setAttribute("aria-pressed", "true");
  $("side").value = 0.7;
  setSource(video);
  while (source === video) {
    await classify();
    await new Promise(requestAnimationFrame);
  }
}

function move(x, y) {
  centre = [x, y].map((fraction) => Math.min(Math.max(fraction, 0), 1));
  chosen = true;
  classify();
}

function drag(event) {
  if (!event.buttons) return;
  const box = stage.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width;
  move(mirrored() ? 1 - x : x, (event.clientY - box.top) / box.height);
}

stage.addEventListener("pointerdown", (event) => {
  stage.setPointerCapture(event.pointerId);
  drag(event);
});
stage.addEventListener("pointermove", drag);
stage.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!step[event.key]) return;
  event.preventDefault();
  const [x, y] = step[event.key];
  move(centre[0] + 0.03 * (mirrored() ? -x : x), centre[1] + 0.03 * y);
});
$("side").addEventListener("input", () => {
  $("follow").checked = false;
  classify();
});
$("follow").addEventListener("change", classify);
$("camera").addEventListener("click", camera);
$("photo").addEventListener("change", ({ target }) => {
  if (target.files[0]) openPhoto(target.files[0]);
  target.value = "";
});
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) openModel(target.files[0], target.files[0].name);
  target.value = "";
});

$("detector").addEventListener("change", ({ target }) => {
  if (target.files[0]) openDetector(target.files[0], target.files[0].name);
  target.value = "";
});

async function main() {
  try {
    ({ load: loadModel } = await import("./emotion.js"));
    ({ load: loadDetector } = await import("./yunet.js"));
  } catch (error) {
    $("model").textContent = "";
    $("controls").hidden = true;
    showMessage(`onnxruntime-web is missing (${error.message}): assemble the folder with build.py.`, true);
    return;
  }
  const name = query.get("model") ?? "model.onnx";
  try {
    await openModel(await download(name), name);
  } catch (error) {
    $("model").textContent = `${error.message}. Open an exported .onnx with the button Model.`;
  }
  const detector = query.get("detector");
  const file = await fetch(detector ?? "detector.onnx");
  // Some hosts answer a missing file with a page instead of an error.
  if (file.ok && !file.headers.get("content-type")?.startsWith("text/html"))
    await openDetector(await file.blob(), detector ?? "detector.onnx");
  else if (detector) showMessage(`${detector}: ${file.status} ${file.statusText}`, true);
  const photo = query.get("photo");
  if (photo) {
    try {
      await openPhoto(await download(photo));
    } catch (error) {
      showMessage(error.message, true);
    }
  }
}

main();
