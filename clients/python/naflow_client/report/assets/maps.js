// Layer maps: decoding, bilinear resize with half-pixel centres, colouring.

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** Decode once; the levels stay with the map. */
function levelsOf(map) {
  map.bytes ??= bytesOf(map.levels);
  return map.bytes;
}

/** Where output cell i of `count` falls among `length` cells: [before, after, share of after]. */
function samples(length, count) {
  const result = [];
  for (let i = 0; i < count; i += 1) {
    const centre = Math.min(Math.max(((i + 0.5) * length) / count - 0.5, 0), length - 1);
    const before = Math.floor(centre);
    result.push([before, Math.min(before + 1, length - 1), centre - before]);
  }
  return result;
}

/** Draw the coloured map over the whole canvas at the canvas's own resolution. */
function drawMap(canvas, map, colours) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const levels = levelsOf(map);
  const columns = samples(map.width, canvas.width);
  const rows = samples(map.height, canvas.height);
  const line = new Float32Array(map.width);
  let target = 0;
  for (const [above, below, rowShare] of rows) {
    for (let x = 0; x < map.width; x += 1) {
      line[x] = levels[above * map.width + x] * (1 - rowShare) + levels[below * map.width + x] * rowShare;
    }
    for (const [left, right, share] of columns) {
      const level = Math.round(line[left] * (1 - share) + line[right] * share) * 3;
      image.data[target] = colours[level];
      image.data[target + 1] = colours[level + 1];
      image.data[target + 2] = colours[level + 2];
      image.data[target + 3] = 255;
      target += 4;
    }
  }
  context.putImageData(image, 0, 0);
}

/** The map's place in 0..1 at a point given as shares of width and height. */
function valueAt(map, across, down) {
  const place = (share, length) => {
    const centre = Math.min(Math.max(share * length - 0.5, 0), length - 1);
    const before = Math.floor(centre);
    return [before, Math.min(before + 1, length - 1), centre - before];
  };
  const levels = levelsOf(map);
  const [left, right, x] = place(across, map.width);
  const [above, below, y] = place(down, map.height);
  const at = (row, column) => levels[row * map.width + column];
  const upper = at(above, left) * (1 - x) + at(above, right) * x;
  const lower = at(below, left) * (1 - x) + at(below, right) * x;
  return (upper * (1 - y) + lower * y) / 255;
}

function drawScale(canvas, colours) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let i = 0; i < 256; i += 1) {
    image.data.set([colours[3 * i], colours[3 * i + 1], colours[3 * i + 2], 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
