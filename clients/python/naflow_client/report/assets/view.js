// Building blocks of the page. Text from the report only ever becomes a text node.

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

function number(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "\u2013" : String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function words(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(words).join(", ");
  if (value !== null && typeof value === "object") {
    return Object.entries(value).map(([key, item]) => `${caption(key)} ${words(item)}`).join(", ");
  }
  return number(value);
}

const caption = (key) => key.replaceAll("_", " ");

function fillFacts(list, rows) {
  list.replaceChildren();
  for (const [key, value, mono] of rows) {
    const text = words(value);
    list.append(
      make("dt", { textContent: caption(key) }),
      make("dd", { textContent: text === "" ? "\u2013" : text, dir: "auto", className: mono || text.length > 32 ? "mono" : "" }),
    );
  }
}

function tableHead(titles) {
  return make("thead", {}, make("tr", {}, ...titles.map(([title, kind]) =>
    make("th", { scope: "col", textContent: title, className: kind ?? "" }))));
}

function fillPrediction(table, rows, title) {
  const both = rows.some((row) => row[3] !== null);
  const scores = rows.map((row) => (typeof row[2] === "number" ? row[2] : 0));
  const largest = Math.max(...scores, 0);
  const bars = largest > 0 && Math.min(...scores) >= 0;
  const heads = [["", ""], [title, ""], ["Score", "number"]];
  if (both) heads.push(["onnxruntime", "number"]);
  const body = make("tbody");
  rows.forEach((row, place) => {
    const label = make("td", { dir: "auto" }, row[1]);
    if (bars) {
      const bar = make("i", { className: "bar" });
      bar.style.width = `${(100 * scores[place]) / largest}%`;
      label.append(bar);
    }
    const cells = [make("td", { className: "quiet", textContent: row[0] }), label,
      make("td", { className: "number", textContent: number(row[2]) })];
    if (both) cells.push(make("td", { className: "number quiet", textContent: number(row[3]) }));
    body.append(make("tr", {}, ...cells));
  });
  table.replaceChildren(tableHead(heads), body);
}

/** The picture and what it was compared with, side by side; then the channels that count most. */
function fillComparison(picture) {
  const { metric, score, channels, references, more } = picture.comparison;
  byId("similarity").textContent = `${number(score)} (${metric})`;
  const figures = references.map((item) => compared(item.source, item.label,
    [number(item.similarity), item.name].filter((text) => text !== "").join(" \u00b7 "), item.used));
  byId("references").replaceChildren(compared(picture.source, picture.name, "this picture", true), ...figures);
  byId("references-more").textContent = more > 0 ? `and ${more} more` : "";
  byId("references-more").hidden = more === 0;
  const largest = Math.max(...channels.map((row) => Math.abs(row[1])), 0) || 1;
  const body = make("tbody");
  for (const [channel, value] of channels) {
    const label = make("td", {}, `${channel}`);
    const bar = make("i", { className: "bar" });
    bar.style.width = `${(100 * Math.abs(value)) / largest}%`;
    label.append(bar);
    body.append(make("tr", {}, label, make("td", { className: "number", textContent: number(value) })));
  }
  byId("channels").replaceChildren(tableHead([["Channel"], ["Contribution", "number"]]), body);
}

function compared(source, label, text, used) {
  const shown = source === null ? make("i", { className: "blank" }) : make("img", { src: source, alt: "" });
  return make("li", { className: used ? "" : "unused" }, shown,
    make("span", { textContent: label, dir: "auto", title: label }),
    make("small", { className: "quiet number", textContent: used ? text : `${text} \u00b7 not explained`, dir: "auto" }));
}

function notices(container, errors, warnings) {
  container.replaceChildren(
    ...errors.map((text) => make("p", { className: "notice error", textContent: text, dir: "auto" })),
    ...warnings.map((text) => make("p", { className: "notice", textContent: text, dir: "auto" })),
  );
}

/** Short labels for the stage and the table: [text, is an error]. */
function badgesOf(layer) {
  const flags = [];
  if (layer.state === "missing") flags.push(["no map", true]);
  if (layer.state === "invalid") flags.push(["not finite", true]);
  if (layer.state === "constant") flags.push(["constant map", false]);
  if (layer.diagnostics.some(([key, value]) => key === "converged" && value === false)) {
    flags.push(["not converged", false]);
  }
  if (flags.length === 0 && layer.warnings.length > 0) flags.push(["warning", false]);
  return flags.map(([text, error]) => make("span", { className: error ? "badge error" : "badge", textContent: text }));
}

const shapeOf = (layer) => layer.shape.join(" \u00d7 ");
