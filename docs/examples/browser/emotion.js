// Run an exported .onnx file in a browser with onnxruntime-web.

import * as ort from "./ort/ort.wasm.min.mjs";

// More threads need SharedArrayBuffer, which requires COOP and COEP headers.
ort.env.wasm.numThreads = 1;

/** ModelProto.metadata_props, in ONNX's protobuf. */
const METADATA = 14;
const VERSION = 1;

/** Iterate over the fields of a protobuf message: yields [number, bytes], skips integers. */
function* fields(bytes) {
  let position = 0;
  const varint = () => {
    let value = 0;
    // Shifts would turn lengths above 2 ** 31 negative.
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[position++];
      if (byte === undefined) throw new Error("not an ONNX file, or truncated");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (position < bytes.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    if (tag % 8 === 0) {
      varint();
      continue;
    }
    const length = { 1: () => 8, 2: varint, 5: () => 4 }[tag % 8]?.();
    if (length === undefined || position + length > bytes.length) {
      throw new Error("not an ONNX file, or truncated");
    }
    yield [number, bytes.subarray(position, position + length)];
    position += length;
  }
}

/** Return the metadata of an exported file; onnxruntime-web gives no access to it. */
export function readMetadata(bytes) {
  const text = new TextDecoder();
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    if (text.decode(key) !== "emotion_lab") continue;
    const metadata = JSON.parse(text.decode(value));
    if (metadata.version !== VERSION) {
      throw new Error(`the model has version ${metadata.version}, this page reads ${VERSION}`);
    }
    return metadata;
  }
  throw new Error("the model holds no metadata of emotion_lab");
}

/**
 * Open an exported file.
 *
 * @param {Uint8Array} bytes The file, exported with batch=dynamic or batch=1.
 * @returns {Promise<{metadata: object, classify: (face: ImageData) => Promise<Float32Array>}>}
 *   `metadata` holds the classes in the order of the probabilities. Do not call `classify` again
 *   before its promise is settled.
 */
export async function load(bytes) {
  const metadata = readMetadata(bytes);
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

  return { metadata, classify };
}
