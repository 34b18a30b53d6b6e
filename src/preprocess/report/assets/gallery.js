// Samples to look at: filters, flags, and a viewer with the keyboard.

const CARDS_AT_ONCE = 120;
const WHY = { failure: "failed", status: "has a status", random: "chosen at random" };
const filter = { text: "", split: "", status: "", why: "" };
const flagged = new Set(storedFlags());
let visible = [], cardsShown = CARDS_AT_ONCE, current = -1, gallery = null;

function drawGallery() {
  const samples = report.gallery;
  if (!samples.length) {
    section("gallery").append(element("p", { class: "soft" }, "No sample is shown."));
    return;
  }
  const choice = (field, name, values) => element("select", {
    "aria-label": name, onchange: (event) => { filter[field] = event.currentTarget.value; filterGallery(); },
  }, element("option", { value: "" }, `every ${name}`), ...values.map((value) => element("option", { value }, words(whyText(value)))));
  const unique = (values) => [...new Set(values)].sort();
  const search = element("input", {
    type: "search", class: "grow", placeholder: "Search names, captions and corpus fields", "aria-label": "Search samples",
    oninput: () => { filter.text = search.value.toLowerCase(); filterGallery(); },
  });
  gallery = {
    grid: element("div", { class: "grid" }),
    count: element("span", { class: "soft", role: "status", id: "count" }),
    more: element("button", { type: "button", class: "more", onclick: () => { cardsShown += CARDS_AT_ONCE; showCards(); } }, "Show more"),
    flags: element("span", { class: "soft" }),
    save: element("button", { type: "button", class: "main", onclick: () => download("flagged.txt", [...flagged]) }, "Save flagged.txt"),
    clear: element("button", { type: "button", onclick: clearFlags }, "Clear flags"),
    commands: element("div"),
  };
  section("gallery").append(element("div", { class: "stack" },
    element("div", { class: "card stack" },
      element("div", { class: "row" }, search,
        choice("split", "split", unique(samples.map((sample) => sample.split))),
        choice("status", "status", unique(samples.map(statusOf))),
        choice("why", "reason to show", unique(samples.map((sample) => sample.why))),
        gallery.count),
      element("div", { class: "row" }, gallery.flags, gallery.save, gallery.clear), gallery.commands),
    gallery.grid, gallery.more));
  document.addEventListener("keydown", onKey);
  viewer.addEventListener("close", () => { current = -1; viewer.replaceChildren(); });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  showFlags();
  filterGallery();
}

function statusOf(sample) {
  return sample.reason_class || sample.status;
}

function whyText(why) {
  return WHY[why] || (report.run.distributions.some((plot) => plot.name === why) ? `among the worst by ${why}` : why);
}

function filterGallery() {
  if (!gallery) return;
  visible = report.gallery.filter((sample) =>
    (!filter.split || sample.split === filter.split)
    && (!filter.status || statusOf(sample) === filter.status)
    && (!filter.why || sample.why === filter.why)
    && [...ranges].every(([name, [least, greatest]]) => sample.numbers[name] >= least && sample.numbers[name] <= greatest)
    && (!filter.text || searched(sample).includes(filter.text)));
  cardsShown = CARDS_AT_ONCE;
  showCards();
}

function searched(sample) {
  return [sample.name, sample.text, sample.reason, sample.source, ...Object.values(sample.corpus)].filter(Boolean).join("\n").toLowerCase();
}

function showCards() {
  gallery.grid.replaceChildren(...visible.slice(0, cardsShown).map(sampleCard));
  gallery.more.hidden = visible.length <= cardsShown;
  gallery.count.textContent = `${number(visible.length)} of ${number(report.gallery.length)} shown here, of ${number(report.run.planned)} items`;
}

function sampleCard(sample, index) {
  const thumb = sample.image
    ? element("img", { class: "thumb", src: `media/${sample.image}`, alt: "", loading: "lazy", decoding: "async" })
    : element("span", { class: "thumb" }, sample.reason || sample.problem || "no image");
  const open = element("button", { type: "button", class: "open", "aria-label": `Open ${sample.name}`, onclick: () => view(index) },
    thumb,
    element("span", { class: "about" },
      element("span", { class: "name mono", title: sample.name }, sample.name),
      element("span", { class: "row" }, statusTag(sample)),
      sample.text ? element("span", { class: "text" }, sample.text) : null));
  const flag = element("button", {
    type: "button", class: "flag", title: "Flag (F)", "aria-label": `Flag ${sample.name}`, "aria-pressed": String(flagged.has(sample.key)),
    onclick: () => toggleFlag(sample),
  }, "⚑");
  return element("article", { class: `card sample${flagged.has(sample.key) ? " flagged" : ""}` },
    open, sample.video ? element("span", { class: "play" }, "▶") : null, flag);
}

function toggleFlag(sample) {
  if (!flagged.delete(sample.key)) flagged.add(sample.key);
  storeFlags();
  showFlags();
  showCards();
  if (current >= 0) view(current);
}

function clearFlags() {
  flagged.clear();
  storeFlags();
  showFlags();
  showCards();
}

function showFlags() {
  const location = quoted(report.location);
  gallery.flags.textContent = flagged.size ? `${number(flagged.size)} flagged` : "Flag samples with ⚑, or F in the viewer.";
  gallery.save.hidden = gallery.clear.hidden = !flagged.size;
  gallery.commands.replaceChildren(...(flagged.size
    ? [command(`preprocess retry ${location} --keys flagged.txt`), command(`preprocess export ${location} --format parquet --exclude flagged.txt --dest D`)]
    : []));
}

// Flags survive a reload where the browser lets pages store something.
function storageKey() {
  return `framemill flags ${report.location} ${JSON.stringify(report.fingerprint)}`; // another run may be in this folder later
}

function storedFlags() {
  try {
    return JSON.parse(localStorage.getItem(storageKey()) || "[]");
  } catch {
    return [];
  }
}

function storeFlags() {
  try {
    localStorage.setItem(storageKey(), JSON.stringify([...flagged]));
  } catch { /* the flags last as long as the page */ }
}

const viewer = document.getElementById("viewer");

function view(index) {
  const sample = visible[index];
  const same = index === current && viewer.open;
  current = index;
  const side = sideOf(sample, index);
  if (same) viewer.querySelector(".side").replaceWith(side);
  else viewer.replaceChildren(element("div", { class: "viewer" }, stageOf(sample), side));
  if (!viewer.open) viewer.showModal();
}

function stageOf(sample) {
  if (sample.video) {
    return element("div", { class: "stage" }, element("video", {
      src: `media/${sample.video}`, poster: `media/${sample.image}`, controls: true, autoplay: true, loop: true, ".muted": true, playsinline: true,
    }));
  }
  if (sample.image) return element("div", { class: "stage" }, element("img", { src: `media/${sample.image}`, alt: "" }));
  return element("div", { class: "stage" }, element("p", {}, sample.reason || sample.problem || "There is no image."));
}

function sideOf(sample, index) {
  const plots = new Map(report.run.distributions.map((plot) => [plot.name, plot]));
  const facts = [
    ["split", sample.split], ["file", sample.source], ["shard", sample.shard], ["shown as", whyText(sample.why)],
    ...Object.entries(sample.numbers).map(([name, value]) => [words(name), plots.has(name) ? valueText(plots.get(name), value) : number(value)]),
    ...Object.entries(sample.corpus).map(([name, value]) => [words(name), value]),
  ];
  const legend = element("div", { class: "legend" }, ...(sample.legend || []).map(({ text, colour: fill }) => {
    const entry = element("span", {}, text);
    entry.style.setProperty("--swatch", fill);
    return entry;
  }));
  return element("div", { class: "side" },
    element("div", { class: "row" },
      element("button", { type: "button", "aria-label": "Previous", disabled: index === 0, onclick: () => view(index - 1) }, "←"),
      element("button", { type: "button", "aria-label": "Next", disabled: index === visible.length - 1, onclick: () => view(index + 1) }, "→"),
      element("span", { class: "soft" }, `${number(index + 1)} of ${number(visible.length)}`),
      element("button", { type: "button", "aria-pressed": String(flagged.has(sample.key)), onclick: () => toggleFlag(sample) }, "⚑ Flag"),
      element("button", { type: "button", "aria-label": "Close", onclick: () => viewer.close() }, "✕")),
    element("h3", { class: "mono" }, sample.name),
    element("div", { class: "row" }, statusTag(sample), sample.cut ? element("span", { class: "tag" }, sample.cut) : null),
    sample.problem || sample.reason ? element("p", { class: "problem" }, sample.problem || sample.reason) : null,
    sample.text ? element("p", { class: "caption" }, sample.text) : null,
    sample.facts && sample.facts.length ? element("p", { class: "soft" }, sample.facts.join(" · ")) : null,
    legend.childNodes.length ? legend : null,
    sample.note ? element("details", {}, element("summary", {}, "Prompt"), element("p", { class: "caption" }, sample.note)) : null,
    element("table", {}, element("tbody", {}, ...facts.map(([name, value]) =>
      element("tr", {}, element("td", {}, name), element("td", {}, value))))));
}

function onKey(event) {
  if (current < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowRight" && current < visible.length - 1) view(current + 1);
  else if (event.key === "ArrowLeft" && current > 0) view(current - 1);
  else if (event.key === "f" || event.key === "F") toggleFlag(visible[current]);
  else return;
  event.preventDefault();
}
