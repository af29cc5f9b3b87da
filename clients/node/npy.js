// Reading NumPy's .npy files: one array of numbers in rows, little-endian.

import { readFileSync } from "node:fs";

const DTYPES = {
  "<f4": "DATA_TYPE_FLOAT",
  "<f8": "DATA_TYPE_DOUBLE",
  "|u1": "DATA_TYPE_UINT8",
  "<i8": "DATA_TYPE_INT64",
};

/** The array in a .npy file as the wire's Tensor: { dtype, shape, data }. Throws an Error that says what is wrong. */
export function readNpy(path) {
  const file = readFileSync(path);
  if (file.subarray(0, 6).toString("latin1") !== "\x93NUMPY") {
    throw new Error(`${path}: not a .npy file; write it with numpy.save`);
  }
  const wide = file[6] > 1; // format 2 and 3 have a longer header
  const begin = wide ? 12 : 10;
  const end = begin + (wide ? file.readUInt32LE(8) : file.readUInt16LE(8));
  const header = file.subarray(begin, end).toString("utf8");
  const found = (pattern) => header.match(pattern)?.[1] ?? "";
  const descr = found(/'descr':\s*'([^']*)'/);
  const shape = found(/'shape':\s*\(([^)]*)\)/).split(",").map((part) => part.trim()).filter(Boolean).map(Number);
  if (!(descr in DTYPES)) {
    throw new Error(`${path}: holds numbers of type '${descr}'; use one of ${Object.keys(DTYPES).join(", ")}`);
  }
  if (/'fortran_order':\s*True/.test(header)) {
    throw new Error(`${path}: is stored in columns; save numpy.ascontiguousarray(x)`);
  }
  return { dtype: DTYPES[descr], shape, data: file.subarray(end) };
}
