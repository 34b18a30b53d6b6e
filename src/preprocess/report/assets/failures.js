// The failed items: search, classes, sorting, and the command that tries the selected ones again.

const FAILURE_COLUMNS = [
  ["name", "item"], ["split", "split"], ["reason_class", "class"], ["reason", "reason"], ["source", "file"], ["attempts", "attempts"],
];
const ROWS_AT_ONCE = 100;

function drawFailures() {
  const { rows, num_failed } = report.failures;
  if (!num_failed) {
    section("failures").append(element("p", { class: "soft" }, "Nothing failed."));
    return;
  }
  const state = { text: "", classes: new Set(), sort: null, descending: false, shown: ROWS_AT_ONCE };
  const body = element("tbody"), count = element("span", { class: "soft", role: "status" }), commands = element("div");
  const more = element("button", { type: "button", class: "more", onclick: () => { state.shown += 10 * ROWS_AT_ONCE; update(); } }, "Show more");
  const search = element("input", {
    type: "search", class: "grow", placeholder: "Search items, reasons and files", "aria-label": "Search failures",
    oninput: () => { state.text = search.value.toLowerCase(); state.shown = ROWS_AT_ONCE; update(); },
  });
  const classes = Object.entries(report.run.failure_classes).map(([name, total]) => element("button", {
    type: "button", "aria-pressed": "false",
    onclick: (event) => {
      if (!state.classes.delete(name)) state.classes.add(name);
      event.currentTarget.setAttribute("aria-pressed", state.classes.has(name));
      state.shown = ROWS_AT_ONCE;
      update();
    },
  }, `${name} ${number(total)}`));
  const heads = FAILURE_COLUMNS.map(([field, title]) => element("th", { "aria-sort": "none", class: field === "attempts" ? "number" : null },
    element("button", {
      type: "button",
      onclick: () => {
        state.descending = state.sort === field && !state.descending;
        state.sort = field;
        heads.forEach((head, index) => head.setAttribute("aria-sort",
          FAILURE_COLUMNS[index][0] !== field ? "none" : state.descending ? "descending" : "ascending"));
        update();
      },
    }, title)));

  function update() {
    const selected = sorted(rows.filter((row) => matches(row, state)), state);
    body.replaceChildren(...selected.slice(0, state.shown).map(failureRow));
    more.hidden = selected.length <= state.shown;
    count.textContent = `${number(selected.length)} of ${number(num_failed)}`;
    commands.replaceChildren(...retryCommands(selected, state));
  }

  section("failures").append(element("div", { class: "card stack" },
    element("div", { class: "row" }, search, ...classes, count),
    rows.length < num_failed ? element("p", { class: "soft" },
      `The first ${number(rows.length)} are here. preprocess failures ${quoted(report.location)} lists all.`) : null,
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body)),
    more, commands));
  update();
}

function matches(row, { text, classes }) {
  if (classes.size && !classes.has(row.reason_class)) return false;
  return !text || [row.name, row.reason, row.source].some((value) => value.toLowerCase().includes(text));
}

function sorted(rows, { sort, descending }) {
  if (!sort) return rows;
  const order = (a, b) => (typeof a[sort] === "number" ? a[sort] - b[sort] : a[sort].localeCompare(b[sort], "en", { numeric: true }));
  return [...rows].sort((a, b) => (descending ? order(b, a) : order(a, b)));
}

function failureRow(row) {
  return element("tr", {},
    element("td", { class: "mono" }, row.name), element("td", {}, row.split), element("td", {}, statusTag(row)),
    element("td", {}, row.reason), element("td", { class: "mono" }, row.source), element("td", { class: "number" }, number(row.attempts)));
}

/** A search selects items one by one, so their keys are saved to a file; classes alone have an option. */
function retryCommands(selected, { text, classes }) {
  const retry = `preprocess retry ${quoted(report.location)}`;
  if (!selected.length) return [];
  if (!text) return [command([retry, ...[...classes].map((name) => `--class ${quoted(name)}`)].join(" "))];
  return [
    element("button", { type: "button", onclick: () => download("failed.txt", selected.map((row) => row.key)) },
      `Save ${number(selected.length)} keys as failed.txt`),
    command(`${retry} --keys failed.txt`),
  ];
}
