// An exported .onnx in a browser: from the pixels of a face to probabilities, by onnxruntime-web.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

// More than one thread needs SharedArrayBuffer, which a page gets only with COOP and COEP headers.
ort.env.wasm.numThreads = 1;

/** ModelProto.metadata_props, in ONNX's protobuf. */
const METADATA = 14;
const VERSION = 1;

/** Walk the fields of a protobuf message; yields [number, bytes], numbers themselves left out. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    // Not by shifts: a length above 2 ** 31 would turn negative.
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error("no ONNX file, or one that was cut off");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    if (tag % 8 === 0) {
      varint();
      continue;
    }
    const length = { 1: () => 8, 2: varint, 5: () => 4 }[tag % 8]?.();
    if (length === undefined || at + length > bytes.length) {
      throw new Error("no ONNX file, or one that was cut off");
    }
    yield [number, bytes.subarray(at, at + length)];
    at += length;
  }
}

/**
 * Return what an exported file says of itself. onnxruntime-web keeps that to itself, so it is read
 * from the file.
 */
export function metadata(bytes) {
  const text = new TextDecoder();
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    if (text.decode(key) !== "emotion_lab") continue;
    const about = JSON.parse(text.decode(value));
    if (about.version !== VERSION) {
      throw new Error(`the model has version ${about.version}, this page reads ${VERSION}`);
    }
    return about;
  }
  throw new Error("the model holds no metadata of emotion_lab");
}

/**
 * Open an exported file.
 *
 * @param {Uint8Array} bytes The file, exported with batch=dynamic or batch=1.
 * @returns {Promise<{about: object, classify: (face: ImageData) => Promise<Float32Array>}>}
 *   `about` holds the classes in the order of the probabilities. One call of `classify` at a time.
 */
export async function load(bytes) {
  const about = metadata(bytes);
  const session = await ort.InferenceSession.create(bytes);

  async function classify({ data, width, height }) {
    const rgb = new Uint8Array(width * height * 3);
    for (let from = 0, to = 0; from < data.length; from += 4) {
      rgb[to++] = data[from];
      rgb[to++] = data[from + 1];
      rgb[to++] = data[from + 2];
    }
    const faces = new ort.Tensor("uint8", rgb, [1, height, width, 3]);
    const { probabilities } = await session.run({ faces });
    return probabilities.data;
  }

  return { about, classify };
}
