// State and events of the page.

const report = JSON.parse(byId("data").textContent);
const colours = bytesOf(report.colours);
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const state = { picture: 0, layer: 0, timer: null };

const currentPicture = () => report.pictures[state.picture];
const currentLayer = () => currentPicture().layers[state.layer];

function showLayer(position, spoken = true) {
  const layers = currentPicture().layers;
  if (layers.length === 0) return;
  state.layer = Math.min(Math.max(position, 0), layers.length - 1);
  const layer = currentLayer();
  const drawable = layer.map !== null;
  byId("layer-position").textContent = `${state.layer + 1} / ${layers.length}`;
  byId("layer-name").textContent = layer.tensor;
  byId("layer-facts").textContent = [layer.op || "input", shapeOf(layer)].filter(Boolean).join("  \u00b7  ");
  byId("badges").replaceChildren(...badgesOf(layer));
  byId("stage").classList.toggle("broken", !drawable);
  byId("map").hidden = !drawable;
  byId("no-map").hidden = drawable;
  byId("no-map-reason").textContent = layer.errors.join(" ");
  byId("legend").classList.toggle("off", !drawable);
  byId("map").setAttribute("aria-label", `Map of layer ${layer.tensor} over the picture`);
  if (drawable) {
    drawMap(byId("map"), layer.map, colours);
    byId("low").textContent = number(layer.map.low);
    byId("high").textContent = number(layer.map.high);
  }
  clearReadout();
  notices(byId("layer-notices"), layer.errors, layer.warnings);
  fillFacts(byId("diagnostics"), [
    ["tensor", layer.tensor, true], ["node", layer.node, true], ["operator", layer.op],
    ["shape", shapeOf(layer)], ["rule", layer.rule], ...layer.diagnostics,
  ]);
  const slider = byId("layer-slider");
  slider.value = state.layer;
  slider.setAttribute("aria-valuetext", `${state.layer + 1} of ${layers.length}, ${layer.tensor}`);
  byId("previous").disabled = state.layer === 0;
  byId("next").disabled = state.layer === layers.length - 1;
  markCurrent(byId("strip").querySelectorAll("button"));
  markCurrent(byId("all-layers").querySelectorAll("tbody tr"));
  revealThumbnail();
  if (spoken) {
    const flags = [...byId("badges").children].map((badge) => badge.textContent);
    byId("live").textContent = [`Layer ${state.layer + 1} of ${layers.length}`, layer.tensor, layer.op, ...flags].join(", ");
  }
}

function markCurrent(items) {
  items.forEach((item, place) => {
    if (place === state.layer) item.setAttribute("aria-current", "true");
    else item.removeAttribute("aria-current");
  });
}

function revealThumbnail() {
  const strip = byId("strip");
  const item = strip.children[state.layer];
  if (item) strip.scrollLeft = item.offsetLeft - strip.offsetLeft - (strip.clientWidth - item.clientWidth) / 2;
}

function showPicture(position) {
  pause();
  state.picture = position;
  const picture = currentPicture();
  const ratio = picture.width / picture.height;
  byId("picture").src = picture.source;
  byId("picture").alt = picture.name;
  byId("stage").style.setProperty("--ratio", ratio);
  byId("strip").style.setProperty("--ratio", ratio);
  const canvas = byId("map");
  const scale = 560 / Math.max(picture.width, picture.height);
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  byId("subtitle").textContent = report.pictures.length > 1
    ? `${picture.name} (picture ${position + 1} of ${report.pictures.length})` : picture.name;
  byId("target").textContent = picture.target;
  fillPrediction(byId("prediction"), picture.prediction, picture.comparison === null ? "Class" : "Compared with");
  byId("prediction").hidden = picture.prediction.length === 0;
  byId("comparison").hidden = picture.comparison === null;
  if (picture.comparison !== null) fillComparison(picture);
  byId("layer-slider").max = Math.max(picture.layers.length - 1, 0);
  byId("pictures").querySelectorAll("button").forEach((button, place) => {
    button.setAttribute("aria-pressed", String(place === position));
  });
  fillStrip(picture, ratio);
  fillTable(picture);
  const empty = picture.layers.length === 0;
  for (const id of ["previous", "play", "next", "layer-slider"]) byId(id).disabled = empty;
  byId("no-map").hidden = !empty;
  byId("no-map-reason").textContent = empty ? "There are no layers." : "";
  showLayer(Math.min(state.layer, picture.layers.length - 1), false);
}

function fillStrip(picture, ratio) {
  byId("strip").replaceChildren(...picture.layers.map((layer, place) => {
    const button = make("button", {
      type: "button", title: layer.tensor, onclick: () => { pause(); showLayer(place); },
      "aria-label": `Layer ${place + 1}, ${layer.tensor}`,
    });
    if (layer.map === null) {
      button.append(make("i", { className: "blank" }));
    } else {
      const canvas = make("canvas", { width: 96, height: Math.max(1, Math.round(96 / ratio)) });
      drawMap(canvas, layer.map, colours);
      button.append(canvas);
    }
    if (layer.errors.length > 0) button.append(make("i", { className: "dot error" }));
    else if (layer.warnings.length > 0) button.append(make("i", { className: "dot" }));
    button.append(make("span", { textContent: layer.index }));
    return make("li", {}, button);
  }));
}

function fillTable(picture) {
  const keys = [...new Set(picture.layers.flatMap((layer) => layer.diagnostics.map(([key]) => key)))]
    .filter((key) => key !== "converged");
  const body = make("tbody");
  picture.layers.forEach((layer, place) => {
    const values = new Map(layer.diagnostics);
    body.append(make("tr", { onclick: () => { pause(); showLayer(place); } },
      make("td", { className: "number quiet", textContent: layer.index }),
      make("td", { className: "mono" }, make("span", { textContent: layer.tensor, dir: "auto" }),
        make("div", { className: "badges" }, ...badgesOf(layer))),
      make("td", { textContent: layer.op || "input" }),
      make("td", { textContent: shapeOf(layer) }),
      make("td", { textContent: layer.rule }),
      ...keys.map((key) => make("td", { className: "number", textContent: values.has(key) ? words(values.get(key)) : "\u2013" }))));
  });
  byId("all-layers").replaceChildren(tableHead([["", "number"], ["Tensor"], ["Operator"], ["Shape"], ["Rule"],
    ...keys.map((key) => [caption(key), "number"])]), body);
}

function play() {
  const layers = currentPicture().layers;
  if (layers.length < 2) return;
  if (state.layer === layers.length - 1) showLayer(0, false);
  setPlaying(true);
  state.timer = setInterval(() => {
    if (state.layer >= layers.length - 1) pause();
    else showLayer(state.layer + 1, false);
  }, calm.matches ? 1600 : 650);
}

function pause() {
  if (state.timer === null) return;
  clearInterval(state.timer);
  state.timer = null;
  setPlaying(false);
}

function setPlaying(playing) {
  byId("play").classList.toggle("playing", playing);
  byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
}

const toggle = () => (state.timer === null ? play() : pause());

function step(position) {
  pause();
  showLayer(position);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const focused = document.activeElement;
  // The sliders, and regions that scroll, keep their own keys; a focused button keeps its space bar.
  if (focused.id === "opacity" || focused.classList.contains("scroll")) return;
  const last = currentPicture().layers.length - 1;
  const moves = { ArrowLeft: state.layer - 1, ArrowRight: state.layer + 1, Home: 0, End: last };
  if (event.key in moves) step(moves[event.key]);
  else if (event.key === " " && focused.tagName !== "BUTTON") toggle();
  else return;
  event.preventDefault();
}

function onPoint(event) {
  const layer = currentLayer();
  if (!layer || layer.map === null) return;
  const box = byId("map").getBoundingClientRect();
  const value = valueAt(layer.map, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  byId("marker").hidden = false;
  byId("marker").style.left = `${100 * value}%`;
  byId("readout").textContent = number(Number((layer.map.low + value * (layer.map.high - layer.map.low)).toPrecision(3)));
}

function clearReadout() {
  byId("marker").hidden = true;
  byId("readout").textContent = "";
}

function setOpacity() {
  byId("map").style.opacity = byId("opacity").value / 100;
  byId("opacity").setAttribute("aria-valuetext", `${byId("opacity").value} percent`);
}

function start() {
  byId("title").textContent = report.title;
  notices(byId("run-warnings"), [], report.warnings);
  for (const name of ["method", "model", "versions"]) {
    fillFacts(byId(name), report[name]);
    byId(name).parentElement.hidden = report[name].length === 0;
  }
  byId("pictures").hidden = report.pictures.length < 2;
  byId("pictures").append(...report.pictures.map((picture, place) => make("button",
    { type: "button", title: picture.name, onclick: () => showPicture(place) },
    make("img", { src: picture.source, alt: "" }), make("span", { textContent: picture.name, dir: "auto" }))));
  drawScale(byId("scale"), colours);
  document.querySelector("main").hidden = false;
  setOpacity();
  showPicture(0);
  byId("previous").onclick = () => step(state.layer - 1);
  byId("next").onclick = () => step(state.layer + 1);
  byId("play").onclick = toggle;
  byId("layer-slider").oninput = (event) => step(Number(event.target.value));
  byId("opacity").oninput = setOpacity;
  byId("stage").onpointermove = onPoint;
  byId("stage").onpointerleave = clearReadout;
  document.addEventListener("keydown", onKey);
}

start();
