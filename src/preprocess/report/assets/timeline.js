// A lane for each rank, a bar for each shard; and the figures of the ranks' machines over time.

const NAME = 168, AXIS = 22, CHART = 150;
const MANY_RANKS = 200; // from here on, lanes are lower

function drawTimeline() {
  const { bars, ranks } = report.timeline;
  if (!bars.length) {
    section("timeline").append(element("p", { class: "soft" }, "No shard with known times is committed."));
    return;
  }
  const canvas = element("canvas", { role: "img", "aria-label": `${bars.length} bars of ${ranks.length} ranks` });
  const lanes = element("div", { class: "lanes" }, canvas);
  const legend = element("div", { class: "legend" }, ...[...RANK_PHASES, "other"].map((phase) => {
    const label = element("span", {}, phase === "other" ? "nothing of these" : phase);
    label.style.setProperty("--swatch", `var(--${phase})`);
    return label;
  }));
  const card = element("div", { class: "card" }, lanes, legend, ranksNote(ranks));
  section("timeline").append(element("div", { class: "stack" }, card, machineCard(bars, ranks)));

  const rows = placed(bars, ranks);
  let regions = [];
  redraws.push(() => { regions = paintLanes(canvas, rows, ranks, lanes.clientWidth); });
  canvas.addEventListener("pointermove", (event) => {
    const hit = regions.find((region) => inside(region, event.offsetX, event.offsetY));
    if (hit) showTip(event, hit.text);
    else hideTip();
  });
  canvas.addEventListener("pointerleave", hideTip);
}

function ranksNote(ranks) {
  const silent = ranks.filter((rank) => rank.state === "silent").length;
  const replaced = ranks.filter((rank) => rank.replaced).length;
  const parts = [];
  if (silent) parts.push(`${silent} silent: lost, or cut off from the run`);
  if (replaced) parts.push(`${replaced} lost or slow, so that another rank made a shard of theirs`);
  return parts.length ? element("p", { class: "soft" }, `Ranks: ${parts.join("; ")}.`) : null;
}

/** Return the bars with `rank` and `lane`: bars of one rank that overlap, as the next shard is read ahead, get lanes of their own. */
function placed(bars, ranks) {
  const ends = ranks.map(() => []);
  return bars.map((bar) => {
    const lanes = ends[bar.rank];
    let lane = lanes.findIndex((end) => end <= bar.began);
    if (lane < 0) lane = lanes.length;
    lanes[lane] = bar.ended;
    return { ...bar, lane };
  });
}

function span() {
  const { bars } = report.timeline;
  const began = bars.reduce((least, bar) => Math.min(least, bar.began), Infinity);
  return [began, bars.reduce((most, bar) => Math.max(most, bar.ended), began + 1)];
}

function paintLanes(canvas, bars, ranks, width) {
  const [laneHeight, barHeight] = ranks.length < MANY_RANKS ? [30, 20] : [16, 12];
  const numLanes = ranks.map(() => 1);
  for (const bar of bars) numLanes[bar.rank] = Math.max(numLanes[bar.rank], bar.lane + 1);
  const tops = [];
  let height = AXIS;
  for (const lanes of numLanes) {
    tops.push(height);
    height += laneHeight + (Math.min(lanes, 3) - 1) * (barHeight / 2);
  }
  const context = sized(canvas, width, height + 4);
  const [began, ended] = span();
  const x = (time) => NAME + ((time - began) / (ended - began)) * (width - NAME - 8);
  context.font = "12px system-ui, sans-serif";
  paintAxis(context, began, ended, x, height);
  const regions = [];
  ranks.forEach((rank, index) => {
    const isLost = rank.state === "silent" || rank.replaced;
    context.fillStyle = colour(isLost ? "failed" : "ink");
    context.fillText(fitted(context, rank.name, NAME - 14), 0, tops[index] + 15);
    const seen = rank.seen ? `, last seen ${clock(rank.seen)}` : "";
    const text = `${rank.name}\n${rank.state}${seen}${rank.replaced ? "\nlost or slow: another rank made a shard that it had claimed" : ""}`;
    regions.push({ left: 0, top: tops[index], right: NAME - 14, bottom: tops[index] + barHeight, text });
    context.fillStyle = colour("line");
    context.fillRect(NAME, tops[index] + barHeight + 3, width - NAME - 8, 1);
  });
  for (const bar of bars) {
    const half = numLanes[bar.rank] > 1;
    const top = tops[bar.rank] + (half ? (bar.lane % 3) * (barHeight / 2 + 1) : 0);
    const left = x(bar.began), right = Math.max(left + 1, x(bar.ended) - 0.5);
    paintBar(context, bar, left, right, top, half ? barHeight / 2 : barHeight);
    regions.push({ left, right: Math.max(right, left + 3), top, bottom: top + (half ? barHeight / 2 : barHeight), text: barText(bar, ranks) });
  }
  return regions.reverse(); // the last painted is on top
}

function paintAxis(context, began, ended, x, height) {
  const steps = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800, 2592000];
  const step = steps.find((seconds) => (ended - began) / seconds <= 8) || (ended - began) / 8;
  context.fillStyle = colour("soft");
  for (let time = 0; time <= ended - began; time += step) {
    context.globalAlpha = 1;
    context.fillText(time ? duration(time) : "0", x(began + time), 12);
    context.globalAlpha = 0.25;
    context.fillRect(x(began + time), AXIS - 5, 1, height - AXIS + 5);
  }
  context.globalAlpha = 1;
}

/** The time of a bar is divided as its rank spent it; the rest, in which the rank worked on other shards, is grey. */
function paintBar(context, bar, left, right, top, height) {
  context.fillStyle = colour("other");
  context.fillRect(left, top, right - left, height);
  const total = Math.max(bar.ended - bar.began, RANK_PHASES.reduce((sum, phase) => sum + (bar.phases[phase] || 0), 0));
  let from = left;
  for (const phase of RANK_PHASES) {
    const width = ((bar.phases[phase] || 0) / (total || 1)) * (right - left);
    context.fillStyle = colour(phase);
    context.fillRect(from, top, width, height);
    from += width;
  }
  if (bar.num_failed) {
    context.fillStyle = colour("failed");
    context.fillRect(left, top + height - 3, right - left, 3);
  }
}

function barText(bar, ranks) {
  const [first, last] = bar.shards;
  const phases = [...RANK_PHASES, ...WORKER_PHASES].filter((phase) => bar.phases[phase]).map((phase) => `${phase} ${duration(bar.phases[phase])}`);
  const lines = [
    first === last ? first : `${first} … ${last} (${number(bar.num_shards)} shards)`,
    `${number(bar.num_items)} items, ${number(bar.num_failed)} failed, ${number(bar.num_frames)} frames`,
    `${duration(bar.ended - bar.began)} from ${clock(bar.began)}, ${bar.workers} workers`,
    phases.join(", ") || "where the time went is not known",
    ...report.timeline.figures.filter(({ name }) => name in bar.figures).map(({ name, unit }) => `${words(name)} ${number(bar.figures[name])} ${unit}`),
  ];
  if (bar.holders.length) lines.push(`claimed before by ${bar.holders.map((rank) => ranks[rank].name).join(", ")}`);
  return lines.join("\n");
}

function inside(region, x, y) {
  return x >= region.left && x <= region.right && y >= region.top && y <= region.bottom;
}

function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > width) end--;
  return `${text.slice(0, end)}…`;
}

function machineCard(bars, ranks) {
  const { figures } = report.timeline;
  if (!figures.length) return null;
  const choice = element("select", { "aria-label": "Figure of the machines", onchange: redraw },
    ...figures.map(({ name, unit }) => element("option", { value: name }, `${words(name)} (${unit})`)));
  const canvas = element("canvas", { role: "img", "aria-label": "Figures of the machines over time" });
  let regions = [];
  redraws.push(() => {
    regions = paintFigure(canvas, bars, ranks, figures.find(({ name }) => name === choice.value), canvas.parentElement.clientWidth);
  });
  canvas.addEventListener("pointermove", (event) => {
    const hit = regions.find((region) => inside(region, event.offsetX, event.offsetY));
    if (hit) showTip(event, hit.text);
    else hideTip();
  });
  canvas.addEventListener("pointerleave", hideTip);
  return element("div", { class: "card" },
    element("div", { class: "row" }, element("h3", {}, "Machines"), choice, element("span", { class: "soft" }, "mean while each shard was made")),
    element("div", { class: "lanes" }, canvas));
}

function paintFigure(canvas, bars, ranks, { name, unit }, width) {
  const context = sized(canvas, width, CHART);
  const [began, ended] = span();
  const shown = bars.filter((bar) => name in bar.figures);
  const most = unit === "%" ? 100 : shown.reduce((peak, bar) => Math.max(peak, bar.figures[name]), 1) * 1.1;
  const x = (time) => NAME + ((time - began) / (ended - began)) * (width - NAME - 8);
  const y = (value) => AXIS + (1 - value / most) * (CHART - AXIS - 8);
  context.font = "12px system-ui, sans-serif";
  paintAxis(context, began, ended, x, CHART);
  context.fillStyle = colour("soft");
  for (const value of [0, most / 2, most]) context.fillText(`${number(Math.round(value))} ${unit}`, NAME - 52, y(value) + 4);
  const regions = [];
  for (const bar of shown) {
    const hue = (bar.rank * 137.5) % 360; // successive ranks differ
    context.fillStyle = `hsl(${hue} 60% 50%)`;
    const left = x(bar.began), right = Math.max(left + 2, x(bar.ended)), top = y(bar.figures[name]);
    context.fillRect(left, top - 1, right - left, 2.5);
    regions.push({ left, right, top: top - 5, bottom: top + 5, text: `${ranks[bar.rank].name}\n${words(name)} ${number(bar.figures[name])} ${unit}` });
  }
  return regions;
}
