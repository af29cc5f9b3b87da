#!/usr/bin/env node
// Prints the layer flows of one picture: node explain.js HOST:PORT MODEL FILE.npy [options]

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protos from "google-proto-files";

import { answers } from "./flows.js";
import { readNpy } from "./npy.js";

const PROTO = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "proto");
const USAGE =
  "usage: node explain.js HOST:PORT MODEL FILE.npy [--layers blocks|spine|nodes] [--target-class K]\n" +
  "       [--ca CA.pem] [--token-file FILE] [--deadline SECONDS]";
const OPTIONS = {
  layers: { type: "string", default: "blocks" },
  "target-class": { type: "string" },
  ca: { type: "string" },
  "token-file": { type: "string" },
  deadline: { type: "string", default: "600" },
};

function service() {
  const definition = loader.loadSync("naflow/v1/explanation.proto", {
    includeDirs: [PROTO, dirname(protos.getProtoPath())],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  return grpc.loadPackageDefinition(definition).naflow.v1.ExplanationService;
}

function credentials({ ca, "token-file": tokenFile }) {
  if (ca === undefined) {
    if (tokenFile !== undefined) throw new Error("a token needs an encrypted connection: give --ca");
    return grpc.credentials.createInsecure();
  }
  const channel = grpc.credentials.createSsl(readFileSync(ca));
  if (tokenFile === undefined) return channel;
  const token = grpc.credentials.createFromMetadataGenerator((_, give) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${readFileSync(tokenFile, "utf8").trim()}`);
    give(null, metadata);
  });
  return grpc.credentials.combineChannelCredentials(channel, token);
}

function request(model, file, options) {
  const message = {
    model_name: model,
    inputs: { "": readNpy(file) },
    layers: { set: `LAYER_SET_${options.layers.toUpperCase()}` },
  };
  if (options["target-class"] !== undefined) {
    message.target = { class_target: { class_index: Number(options["target-class"]) } };
  }
  return message;
}

function describe({ index, tensor, shape, map }) {
  let [least, most, sum] = [Infinity, -Infinity, 0];
  for (const value of map) [least, most, sum] = [Math.min(least, value), Math.max(most, value), sum + value];
  const numbers = [least, most, sum / map.length].map((value) => value.toPrecision(6));
  return [index, tensor, shape.join("x"), ...numbers].join("\t");
}

async function main() {
  const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
  if (positionals.length !== 3) throw new Error(USAGE);
  const [target, model, file] = positionals;
  const message = request(model, file, values);
  const client = new (service())(target, credentials(values));
  const call = client.Explain(message, { deadline: Date.now() + 1000 * Number(values.deadline) });
  try {
    for await (const { header, flow, failure } of answers(call)) {
      if (header) {
        const { target: explained, target_score: logit } = header.predictions[0];
        console.log(`class ${explained.class_index}, logit ${logit.toPrecision(6)}, ${header.total_layers} layers`);
        console.log("index\ttensor\tshape\tmin\tmax\tmean");
      }
      if (flow) console.log(describe(flow));
      if (failure) console.error(`layer ${failure.tensor} has no map: ${failure.status.message}`);
    }
  } finally {
    call.cancel(); // without effect on a call that has ended
    client.close();
  }
}

main().catch((error) => {
  console.error(`explain.js: ${error.details || error.message}`);
  process.exitCode = 1;
});
