// The page: a photo or the camera, a frame round the face, a bar for each class.
//
//   index.html?model=senet.fp32.onnx&photo=face.png   both are optional; model.onnx is looked for

/** Faces above so many pixels a side are scaled down first: the graph would take longer over them. */
const LARGEST_FACE = 512;
/** Pixels of the longer side of what is shown, however large the picture is. */
const STAGE = 960;
/** How quickly the bars follow the camera, a time constant. */
const SETTLE_MS = 300;

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const stage = $("stage");
const cut = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });

let open; // of emotion.js
let model = null;
let source = null; // an ImageBitmap, or the video
let place = [0.5, 0.5]; // middle of the frame, as shares of width and height
let reading = null; // the answer under way
let before = null; // what the bars say of this source

function say(text, alarm = false) {
  $("said").textContent = text;
  $("said").classList.toggle("alarm", alarm);
  $("answer").hidden = !text && !$("bars").children.length;
}

const mirrored = () => stage.classList.contains("mirrored");

function size() {
  return source === video
    ? [video.videoWidth, video.videoHeight]
    : [source.width, source.height];
}

/** Return [left, top, side] of the frame in pixels of the source, whole and within it. */
function frame() {
  const [width, height] = size();
  const side = Math.max(1, Math.round(Math.min(width, height) * Number($("side").value)));
  const within = (share, length) =>
    Math.min(Math.max(Math.floor(share * length - side / 2), 0), length - side);
  return [within(place[0], width), within(place[1], height), side];
}

function draw() {
  const [width, height] = size();
  const scale = STAGE / Math.max(width, height);
  const [left, top, side] = frame().map((value) => value * scale);
  stage.width = Math.max(1, Math.round(width * scale));
  stage.height = Math.max(1, Math.round(height * scale));
  const pen = stage.getContext("2d");
  pen.drawImage(source, 0, 0, stage.width, stage.height);
  const shade = new Path2D();
  shade.rect(0, 0, stage.width, stage.height);
  shade.rect(left, top, side, side);
  pen.fillStyle = "rgb(0 0 0 / 45%)";
  pen.fill(shade, "evenodd");
  pen.strokeStyle = "white";
  pen.lineWidth = Math.max(1, stage.width / 240);
  pen.strokeRect(left, top, side, side);
}

/** Return the pixels in the frame. */
function face() {
  const [left, top, side] = frame();
  const out = Math.min(side, LARGEST_FACE);
  cut.canvas.width = cut.canvas.height = out;
  cut.imageSmoothingQuality = "high";
  cut.drawImage(source, left, top, side, side, 0, 0, out, out);
  return cut.getImageData(0, 0, out, out);
}

/** Of the camera: the mean of what was just seen, the more recent the more it weighs. */
function settle(shares) {
  const now = performance.now();
  const weight = before && source === video ? 1 - Math.exp((before.at - now) / SETTLE_MS) : 1;
  const mean = Array.from(shares, (share, i) =>
    weight < 1 ? before.mean[i] + weight * (share - before.mean[i]) : share,
  );
  before = { mean, at: now };
  return mean;
}

function show(shares, ms) {
  const first = shares.indexOf(Math.max(...shares));
  [...$("bars").children].forEach((row, i) => {
    row.classList.toggle("first", i === first);
    row.dataset.share = shares[i];
    row.querySelector(".share").textContent = `${(100 * shares[i]).toFixed(1)} %`;
    row.querySelector(".bar").style.width = `${100 * shares[i]}%`;
  });
  say(model.about.classes[first]);
  $("speed").textContent = `${ms.toFixed(0)} ms a face`;
}

/** Classify what is in the frame; a wish that comes meanwhile is heard at the end. */
async function read() {
  if (source) draw();
  if (!model || !source) return;
  if (reading) {
    reading.again = true;
    return reading.end;
  }
  reading = { again: true };
  reading.end = (async () => {
    while (reading.again) {
      reading.again = false;
      const asked = model;
      const begin = performance.now();
      const shares = await asked.classify(face());
      if (asked === model) show(settle(shares), performance.now() - begin);
    }
  })();
  try {
    await reading.end;
  } catch (error) {
    say(`This face could not be read: ${error.message}`, true);
  } finally {
    reading = null;
  }
}

async function bytes(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer.blob();
}

async function openModel(blob, name) {
  try {
    model = await open(new Uint8Array(await blob.arrayBuffer()));
    before = null;
  } catch (error) {
    say(`${name}: ${error.message}`, true);
    return;
  }
  const { classes, input, model: names, precision, licence } = model.about;
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
  say("");
  await read();
}

function stop() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  $("camera").setAttribute("aria-pressed", "false");
}

function begin(next) {
  source = next;
  before = null;
  place = [0.5, 0.5];
  stage.classList.toggle("mirrored", next === video);
  stage.hidden = $("size").hidden = false;
  $("empty").hidden = true;
}

async function openPhoto(blob) {
  stop();
  try {
    // As OpenCV reads it: turned as the camera was held, colour profiles left alone.
    begin(await createImageBitmap(blob, { colorSpaceConversion: "none" }));
  } catch {
    say("This file is no picture that the browser can read.", true);
    return;
  }
  $("side").value = 1;
  await read();
}

async function camera() {
  if (source === video) {
    source = await createImageBitmap(video); // the last picture stays
    stop();
    await read();
    return;
  }
  if (!navigator.mediaDevices) {
    say("A browser gives its camera only to https and localhost.", true);
    return;
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    await video.play();
  } catch (error) {
    stop();
    say(`No camera: ${error.message}`, true);
    return;
  }
  $("camera").setAttribute("aria-pressed", "true");
  $("side").value = 0.7;
  begin(video);
  while (source === video) {
    await read();
    await new Promise(requestAnimationFrame);
  }
}

function move(x, y) {
  place = [x, y].map((share) => Math.min(Math.max(share, 0), 1));
  read();
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
  move(place[0] + 0.03 * (mirrored() ? -x : x), place[1] + 0.03 * y);
});
$("side").addEventListener("input", read);
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
    ({ load: open } = await import("./emotion.js"));
  } catch (error) {
    $("model").textContent = "";
    $("controls").hidden = true;
    say(`onnxruntime-web is not here (${error.message}): npm install in this folder.`, true);
    return;
  }
  const name = query.get("model") ?? "model.onnx";
  try {
    await openModel(await bytes(name), name);
  } catch (error) {
    $("model").textContent = `${error.message}. Choose an exported .onnx with the button Model.`;
  }
  const photo = query.get("photo");
  if (photo) {
    try {
      await openPhoto(await bytes(photo));
    } catch (error) {
      say(error.message, true);
    }
  }
}

main();
