// Histograms over all rows of the run. A range that is brushed in one, or typed, filters the gallery.

const BARS = 56, WIDTH = 560, HEIGHT = 96;
const ranges = new Map(); // by name of the number: [least, greatest] that is selected

function drawDistributions() {
  const plots = report.run.distributions.filter((plot) => plot.num_values);
  if (!plots.length) {
    section("distributions").append(element("p", { class: "soft" }, "No item is committed yet."));
    return;
  }
  const others = new Map((report.compared ? report.compared.distributions : []).map((plot) => [plot.name, plot]));
  section("distributions").append(
    element("p", { class: "soft" }, "Over all rows of the run. Drag across a histogram, or type a range, to filter the gallery."),
    element("div", { class: "plots" }, ...plots.map((plot) => plotCard(plot, others.get(plot.name)))));
}

function plotCard(plot, other) {
  const unknown = plot.num_unknown ? `, ${number(plot.num_unknown)} unknown` : "";
  const card = element("div", { class: "card plot" },
    element("h3", {}, words(plot.name), " ", element("span", { class: "soft" }, plot.meaning)),
    element("p", { class: "soft" }, `mean ${valueText(plot, plot.mean)}, ${valueText(plot, plot.least)} to ${valueText(plot, plot.greatest)}${unknown}`));
  if (other && other.num_values) {
    card.append(element("p", { class: "soft" }, element("span", { class: "tag notable" }, "compared"), ` mean ${valueText(plot, other.mean)}, ${valueText(plot, other.least)} to ${valueText(plot, other.greatest)}`));
  }
  if (plot.least === plot.greatest && !(other && other.num_values)) {
    card.append(element("p", {}, `Every value is ${valueText(plot, plot.least)}.`));
    return card;
  }
  const view = viewOf(plot, other);
  const svg = histogram(plot, other, view);
  const inputs = ["least", "greatest"].map((end) => element("input", {
    type: "number", step: "any", placeholder: end, "aria-label": `${end} ${words(plot.name)}`,
    onchange: () => select(inputs.map((input, index) => (input.value === "" ? [-Infinity, Infinity][index] : Number(input.value)))),
  }));
  const reset = element("button", { type: "button", disabled: true, onclick: () => select(null) }, "All");
  const band = svgElement("rect", { y: 0, height: HEIGHT, fill: "currentColor", opacity: 0.12 });

  function select(range) {
    if (range && range[0] > range[1]) range = [range[1], range[0]];
    if (range && range[0] === -Infinity && range[1] === Infinity) range = null;
    if (range) ranges.set(plot.name, range);
    else ranges.delete(plot.name);
    card.classList.toggle("brushed", Boolean(range));
    reset.disabled = !range;
    inputs.forEach((input, index) => { input.value = range && Number.isFinite(range[index]) ? Number(range[index].toPrecision(6)) : ""; });
    if (range) {
      const [left, right] = range.map((value) => Math.max(0, Math.min(WIDTH, ((value - view.start) / (view.end - view.start)) * WIDTH)));
      band.setAttribute("x", left);
      band.setAttribute("width", Math.max(1, right - left));
      svg.append(band);
    } else band.remove();
    filterGallery();
  }

  brush(svg, view, select);
  card.append(svg,
    element("div", { class: "ends" }, element("span", {}, valueText(plot, view.start)),
      view.above ? element("span", {}, `${number(view.above)} above →`) : null, element("span", {}, valueText(plot, view.end))),
    element("div", { class: "range" }, inputs[0], "to", inputs[1], reset));
  return card;
}

/** Return start and end of the shown range, in whole bars of `plot`, and how many of its values are above. */
function viewOf(plot, other) {
  const plots = [plot, other].filter((one) => one && one.num_values);
  const start = Math.min(...plots.map((one) => one.start));
  const full = Math.max(...plots.map((one) => one.start + one.width * one.counts.length));
  const most = Math.max(...plots.map(withoutExtremes));
  let end = most - start < (full - start) / 3 ? most : full;
  const width = plot.width * binsPerBar(plot, { start, end });
  end = start + Math.ceil((end - start) / width) * width;
  const above = plot.counts.reduce((sum, count, index) => sum + (plot.start + index * plot.width >= end ? count : 0), 0);
  return { start, end, above };
}

/** Return where the bins of all values but the greatest 0.5 % end: a few extremes must not flatten the rest. */
function withoutExtremes(plot) {
  let rest = 0, index = plot.counts.length;
  while (index > 1 && rest + plot.counts[index - 1] <= plot.num_values / 200) rest += plot.counts[--index];
  return plot.start + plot.width * index;
}

function binsPerBar(plot, view) {
  return Math.ceil((view.end - view.start) / plot.width / BARS) || 1;
}

/**
 * Return bars of the shown range, each of the same whole number of the plot's bins, so that none is higher only because it
 * has more bins: `start` of the first bar, `width` of a bar, and `counts`.
 */
function binned(plot, view) {
  const first = Math.floor((view.start - plot.start) / plot.width);
  const size = binsPerBar(plot, view);
  const start = plot.start + first * plot.width, width = size * plot.width;
  const counts = new Array(Math.ceil((view.end - start) / width)).fill(0);
  plot.counts.forEach((count, index) => {
    const bar = Math.floor((index - first) / size);
    if (bar < counts.length) counts[bar] += count;
  });
  return { start, width, counts };
}

function histogram(plot, other, view) {
  const svg = svgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `Histogram of ${words(plot.name)}` });
  const main = binned(plot, view);
  const second = other && other.num_values ? binned(other, view) : null;
  const peak = (bars, of) => Math.max(...bars.counts) / of.num_values / bars.width;
  const top = Math.max(peak(main, plot), second ? peak(second, other) : 0);
  const x = (value) => ((value - view.start) / (view.end - view.start)) * WIDTH;
  const y = (count, bars, of) => HEIGHT - (HEIGHT - 2) * (count / of.num_values / bars.width / top);
  main.counts.forEach((count, index) => {
    if (!count) return;
    const from = main.start + index * main.width, left = x(from);
    const height = Math.max(1.5, HEIGHT - y(count, main, plot));
    const bar = svgElement("rect", { x: left, y: HEIGHT - height, width: Math.max(1, x(from + main.width) - left - 1), height, fill: "var(--accent)" });
    bar.append(svgElement("title", {}, `${valueText(plot, from)} to ${valueText(plot, from + main.width)}: ${number(count)}`));
    svg.append(bar);
  });
  if (second) {
    const points = second.counts.flatMap((count, index) => [index, index + 1].map((end) =>
      `${x(second.start + end * second.width)},${y(count, second, other)}`));
    svg.append(svgElement("polyline", { points: points.join(" "), fill: "none", stroke: "var(--compared)", "stroke-width": 2, "vector-effect": "non-scaling-stroke" }));
  }
  return svg;
}

function brush(svg, view, select) {
  let from = null;
  const at = (event) => {
    const { left, width } = svg.getBoundingClientRect();
    return view.start + Math.max(0, Math.min(1, (event.clientX - left) / width)) * (view.end - view.start);
  };
  svg.addEventListener("pointerdown", (event) => { from = at(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", (event) => { if (from !== null) select([from, at(event)]); });
  svg.addEventListener("pointerup", (event) => {
    if (from !== null && Math.abs(at(event) - from) < (view.end - view.start) / 200) select(null); // a click
    from = null;
  });
}

function svgElement(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
