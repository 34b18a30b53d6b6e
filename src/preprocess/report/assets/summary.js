// Counts, rates, where the time went, and the commands that go on from here.

const RANK_PHASES = ["wait", "compute", "write"];
const WORKER_PHASES = ["read", "transform"];

function drawSummary() {
  const { run, compared } = report;
  const cards = element("div", { class: "cards" }, splitsCard(run), timeCard(run), ...nextCards());
  section("summary").append(
    element("div", { class: "stack" },
      compared ? comparison(compared) : null,
      tiles(run, compared),
      element("div", { class: "card" }, ...shares([
        ["committed", run.committed, "ok"], ["failed", run.failed, "failed"], ["missing", run.missing, "missing"],
      ], run.planned, number)),
      cards,
      settings(),
    ),
  );
}

function comparison(compared) {
  return element("p", { class: "soft" }, "Compared with ",
    element("span", { class: "mono" }, compared.location), ": its figures and curves are in ",
    element("span", { class: "tag notable" }, "orange"), ".");
}

function tiles(run, compared) {
  const shown = [
    ["items", (of) => number(of.planned)],
    ["committed", (of) => number(of.committed)],
    ["failed", (of) => number(of.failed)],
    ["missing", (of) => number(of.missing)],
    ["frames", (of) => number(of.frames)],
    ["in tars", (of) => bytes(of.bytes)],
    ["at work", (of) => (of.seconds ? duration(of.seconds) : "–")],
    ["ranks", (of) => number(of.ranks)],
    ["items/s", (of) => number(of.items_per_second)],
    ["frames/s", (of) => number(of.frames_per_second)],
  ];
  return element("div", { class: "tiles" }, ...shown.map(([name, text]) =>
    element("div", { class: "tile" }, element("b", {}, text(run)), element("small", {}, name),
      compared ? element("span", { class: "other" }, text(compared)) : null)));
}

/** A bar whose parts are [name, value, colour], and their legend. */
function shares(parts, total, text) {
  const bar = element("div", { class: "share", role: "img", "aria-label": parts.map(([name, value]) => `${name} ${text(value)}`).join(", ") });
  const legend = element("div", { class: "legend" });
  for (const [name, value, fill] of parts) {
    if (!value) continue;
    const part = element("i");
    part.style.width = `${(100 * value) / total}%`;
    part.style.background = `var(--${fill})`;
    bar.append(part);
    const label = element("span", {}, `${name} ${text(value)} (${number((100 * value) / total)} %)`);
    label.style.setProperty("--swatch", `var(--${fill})`);
    legend.append(label);
  }
  return [bar, legend];
}

function splitsCard(run) {
  const counts = ["planned", "committed", "failed", "frames"];
  const head = element("tr", {}, element("th", {}, "split"), ...counts.map((name) => element("th", { class: "number" }, name)));
  const rows = run.splits.map((split) => element("tr", {}, element("td", {}, split.name),
    ...counts.map((name) => element("td", { class: "number" }, number(split[name])))));
  const devices = Object.entries(run.devices).map(([name, count]) => `${name} (${number(count)} samples)`).join(", ");
  const statuses = Object.entries(run.statuses).map(([name, count]) => `${name} ${number(count)}`).join(", ");
  return element("div", { class: "card" }, element("h3", {}, "What was made"),
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))),
    statuses ? element("p", { class: "soft" }, `Samples: ${statuses}`) : null,
    devices ? element("p", { class: "soft" }, `Computed on ${devices}`) : null);
}

function timeCard(run) {
  const card = element("div", { class: "card" }, element("h3", {}, "Where the time went"));
  const total = RANK_PHASES.reduce((sum, phase) => sum + (run.phases[phase] || 0), 0);
  if (!total) {
    card.append(element("p", { class: "soft" }, "The records of this run do not say."));
    return card;
  }
  card.append(...shares(RANK_PHASES.map((phase) => [phase, run.phases[phase] || 0, phase]), total, duration));
  const workers = WORKER_PHASES.map((phase) => [phase, run.phases[phase] || 0, phase]).filter(([, seconds]) => seconds);
  if (workers.length) {
    const sum = workers.reduce((all, [, seconds]) => all + seconds, 0);
    card.append(element("p", { class: "soft" }, "In the workers, at the same time:"), ...shares(workers, sum, duration));
  }
  const advice = {
    read: "Ranks wait for files to be read: more workers, or faster storage.",
    transform: "Ranks wait for the workers' transform: more workers.",
    compute: "The model takes most of the time.",
    write: "Writing the shards takes most of the time.",
  };
  if (run.bottleneck) card.append(element("p", {}, element("b", {}, `Bottleneck: ${run.bottleneck}. `), advice[run.bottleneck] || ""));
  if (run.began) card.append(element("p", { class: "soft" }, `From ${clock(run.began)} to ${clock(run.ended)}`));
  return card;
}

function nextCards() {
  if (!report.commands.length) return [];
  return [element("div", { class: "card" }, element("h3", {}, "Go on from here"), ...report.commands.map(command))];
}

function settings() {
  const blocks = [["Configuration", report.config], ["Fingerprint", JSON.stringify(report.fingerprint, null, 2)]];
  return element("div", { class: "card stack" },
    ...blocks.filter(([, text]) => text).map(([name, text]) =>
      element("details", {}, element("summary", {}, name), element("pre", {}, text))),
    element("span", { class: "soft" }, `Report made ${clock(report.made)}`));
}
