// Detect faces with YuNet (face_detection_yunet_2023mar.onnx of opencv_zoo) and onnxruntime-web.

import * as ort from "./ort/ort.wasm.min.mjs";

/** Width and height of the network's input in pixels. */
const SIZE = 640;
const STRIDES = [8, 16, 32];
const MIN_SCORE = 0.7;
const MAX_OVERLAP = 0.3;

const unit = (value) => Math.min(Math.max(value, 0), 1);

function overlap(a, b) {
  const side = (i) => Math.min(a[i] + a[i + 2], b[i] + b[i + 2]) - Math.max(a[i], b[i]);
  const common = Math.max(side(0), 0) * Math.max(side(1), 0);
  return common / (a[2] * a[3] + b[2] * b[3] - common);
}

/** Return boxes [x, y, width, height] in pixels of the input, the best score first. */
function decode(outputs) {
  const found = [];
  for (const stride of STRIDES) {
    const [cls, obj, bbox] = ["cls", "obj", "bbox"].map((name) => outputs[`${name}_${stride}`].data);
    const columns = SIZE / stride;
    for (let i = 0; i < cls.length; i++) {
      const score = Math.sqrt(unit(cls[i]) * unit(obj[i]));
      if (score < MIN_SCORE) continue;
      const [dx, dy, w, h] = bbox.subarray(4 * i, 4 * i + 4);
      const [width, height] = [Math.exp(w) * stride, Math.exp(h) * stride];
      const x = ((i % columns) + dx) * stride - width / 2;
      const y = (Math.floor(i / columns) + dy) * stride - height / 2;
      found.push({ score, box: [x, y, width, height] });
    }
  }
  const kept = [];
  for (const { box } of found.sort((a, b) => b.score - a.score)) {
    if (kept.every((other) => overlap(box, other) <= MAX_OVERLAP)) kept.push(box);
  }
  return kept;
}

/**
 * Open the detector.
 *
 * @param {Uint8Array} bytes The file.
 * @returns {Promise<(source: CanvasImageSource, width: number, height: number) =>
 *   Promise<number[][]>>} Boxes [x, y, width, height] in pixels of the source; they may exceed it.
 */
export async function load(bytes) {
  const session = await ort.InferenceSession.create(bytes);
  if (!session.outputNames.includes("bbox_32")) {
    throw new Error("not face_detection_yunet_2023mar.onnx");
  }
  const canvas = new OffscreenCanvas(SIZE, SIZE).getContext("2d", { willReadFrequently: true });

  return async function detect(source, width, height) {
    const scale = Math.min(1, SIZE / Math.max(width, height));
    canvas.imageSmoothingQuality = "high";
    canvas.clearRect(0, 0, SIZE, SIZE);
    canvas.drawImage(source, 0, 0, width * scale, height * scale);
    const { data } = canvas.getImageData(0, 0, SIZE, SIZE);
    const area = SIZE * SIZE;
    const planes = new Float32Array(3 * area); // blue, green, red; 0..255
    for (let i = 0; i < area; i++) {
      for (let channel = 0; channel < 3; channel++) {
        planes[channel * area + i] = data[4 * i + 2 - channel];
      }
    }
    const input = new ort.Tensor("float32", planes, [1, 3, SIZE, SIZE]);
    const boxes = decode(await session.run({ [session.inputNames[0]]: input }));
    return boxes.map((box) => box.map((value) => value / scale));
  };
}
