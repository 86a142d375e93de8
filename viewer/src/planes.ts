/** The filter for slow lines (docs/api.md), undone: exactly the bits of the samples that were filtered. */

/**
 * `body` as the service filtered it -> samples of `size` bytes (1, 2 or 4) and (rows, columns[, channels]), C order.
 * `body` has as many bytes as that; it may be changed and returned.
 */
export function unplanes(body: ArrayBuffer, shape: number[], size: number): ArrayBuffer {
  const [rows, columns, channels = 1] = shape as [number, number, number?];
  const layout = { rows, width: columns * channels, channels };
  if (size === 1) return bytes(body, layout);
  return size === 2 ? words(body, layout) : longs(body, layout);
}

interface Layout {
  rows: number;
  /** Samples of a row, of all channels. */
  width: number;
  channels: number;
}

/** Differences to the sample before, in place: a Uint8Array computes modulo 256. */
function bytes(body: ArrayBuffer, { rows, width, channels }: Layout): ArrayBuffer {
  const out = new Uint8Array(body);
  for (let row = 0; row < rows; row++) {
    const end = (row + 1) * width;
    for (let i = row * width + channels; i < end; i++) out[i] = (out[i] as number) + (out[i - channels] as number);
  }
  return body;
}

/** A sample is the one above it and all differences of its row and channel so far. */
function words(body: ArrayBuffer, { rows, width, channels }: Layout): ArrayBuffer {
  const count = rows * width;
  const [low, high] = [new Uint8Array(body, 0, count), new Uint8Array(body, count, count)];
  const out = new Uint16Array(count);
  for (let row = 0; row < rows; row++) {
    for (let channel = 0; channel < channels; channel++) {
      const end = (row + 1) * width;
      for (let i = row * width + channel, sum = 0; i < end; i += channels) {
        const folded = (low[i] as number) | ((high[i] as number) << 8);
        sum = (sum + unfold(folded)) | 0;
        out[i] = row === 0 ? sum : (out[i - width] as number) + sum;
      }
    }
  }
  return out.buffer;
}

function longs(body: ArrayBuffer, { rows, width, channels }: Layout): ArrayBuffer {
  const count = rows * width;
  const [a, b, c, d] = [0, 1, 2, 3].map((plane) => new Uint8Array(body, plane * count, count)) as [
    Uint8Array,
    Uint8Array,
    Uint8Array,
    Uint8Array,
  ];
  const out = new Uint32Array(count);
  for (let row = 0; row < rows; row++) {
    for (let channel = 0; channel < channels; channel++) {
      const end = (row + 1) * width;
      for (let i = row * width + channel, sum = 0; i < end; i += channels) {
        const folded = (a[i] as number) | ((b[i] as number) << 8) | ((c[i] as number) << 16) | ((d[i] as number) << 24);
        sum = (sum + unfold(folded)) | 0;
        out[i] = row === 0 ? sum : (out[i - width] as number) + sum;
      }
    }
  }
  return out.buffer;
}

/** 0, 1, 2, 3, 4 ... to 0, -1, 1, -2, 2 ... */
function unfold(folded: number): number {
  return (folded >>> 1) ^ -(folded & 1);
}
