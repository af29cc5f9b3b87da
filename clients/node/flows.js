// From the events of a stream to whole maps.

const TABLE = Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value >>> 0;
});

/** CRC-32C (Castagnoli) of a buffer. */
export function crc32c(data) {
  let value = 0xffffffff;
  for (const byte of data) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/**
 * Reads a call of Explain. Yields { header }, { flow } (with `map`, a Float32Array in rows), { failure } and
 * { progress }. Throws when the call fails, when a piece is damaged, and when the stream ends without its summary.
 */
export async function* answers(call) {
  let announced = null;
  let pieces = [];
  let complete = false;
  for await (const message of call) {
    if (message.event === "header") {
      yield { header: message.header };
    } else if (message.event === "layer_flow") {
      const flow = message.layer_flow;
      if (flow.data.length === flow.byte_size) {
        yield { flow: { ...flow, map: floats(flow.data) } };
      } else {
        [announced, pieces] = [flow, []];
      }
    } else if (message.event === "chunk") {
      const { index, data, last, crc32c: expected } = message.chunk;
      if (announced?.index !== index) throw new Error(`a piece of layer ${index} that was not announced`);
      if (crc32c(data) !== expected) throw new Error(`layer ${announced.tensor} is damaged`);
      pieces.push(data);
      if (last) {
        const whole = Buffer.concat(pieces);
        if (whole.length !== announced.byte_size) throw new Error(`layer ${announced.tensor} is not complete`);
        yield { flow: { ...announced, map: floats(whole) } };
        announced = null;
      }
    } else if (message.event === "layer_error") {
      yield { failure: message.layer_error };
    } else if (message.event === "progress") {
      yield { progress: message.progress };
    } else if (message.event === "summary") {
      complete = true;
    }
  }
  if (!complete) throw new Error("the stream ended without a summary: it was cut");
}

/** Little-endian 32-bit floats, whatever the machine's own order and the buffer's alignment. */
function floats(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return Float32Array.from({ length: data.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
