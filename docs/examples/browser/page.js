// The page: a photo or the camera, a frame around the face, a bar for each class.
//
//   index.html?model=senet.fp32.onnx&photo=face.png   both are optional; the default model is model.onnx

/** Largest side of a face in pixels; larger ones are scaled down, because the graph is slower. */
const LARGEST_FACE = 512;
/** Pixels of the longer side of the displayed image. */
const STAGE = 960;
/** Time constant of the bars for the camera. */
const TIME_CONSTANT_MS = 300;

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const stage = $("stage");
const cut = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });

let loadModel; // from emotion.js
let model = null;
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
  const first = probabilities.indexOf(Math.max(...probabilities));
  [...$("bars").children].forEach((row, i) => {
    row.classList.toggle("first", i === first);
    row.dataset.probability = probabilities[i];
    row.querySelector(".share").textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
    row.querySelector(".bar").style.width = `${100 * probabilities[i]}%`;
  });
  showMessage(model.metadata.classes[first]);
  $("speed").textContent = `${ms.toFixed(0)} ms per face`;
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

function stop() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  $("camera").setAttribute("aria-pressed", "false");
}

function setSource(next) {
  source = next;
  smoothed = null;
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
$("side").addEventListener("input", classify);
$("camera").addEventListener("click", camera);
$("photo").addEventListener("change", ({ target }) => {
  if (target.files[0]) openPhoto(target.files[0]);
  target.value = "";
});
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) openModel(target.files[0], target.files[0].name);
  target.value = "";
});

async function main() {
  try {
    ({ load: loadModel } = await import("./emotion.js"));
  } catch (error) {
    $("model").textContent = "";
    $("controls").hidden = true;
    showMessage(`onnxruntime-web is missing (${error.message}): run npm install in this folder.`, true);
    return;
  }
  const name = query.get("model") ?? "model.onnx";
  try {
    await openModel(await download(name), name);
  } catch (error) {
    $("model").textContent = `${error.message}. Open an exported .onnx with the button Model.`;
  }
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
