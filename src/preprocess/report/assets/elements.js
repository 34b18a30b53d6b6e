// Elements and texts. Text of the run only ever becomes a text node, never HTML.

const report = JSON.parse(document.getElementById("document").textContent);

/** Return a new element. `attributes` are set as properties where they begin with ".", and as listeners with "on". */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith(".")) made[key.slice(1)] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function section(name) {
  return document.getElementById(name);
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** Return a number as text, with three significant digits below 1,000. */
function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return whole.format(value);
  return String(Number(value.toPrecision(3)));
}

function bytes(value) {
  const units = ["bytes", "KB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${number(value)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${number(seconds)} s`;
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}

function clock(seconds) {
  return new Date(1000 * seconds).toLocaleString("sv-SE");
}

function words(name) {
  return name.replaceAll("_", " ");
}

function valueText(plot, value) {
  if (plot.unit === "bytes") return bytes(value);
  return plot.unit ? `${number(value)} ${plot.unit}` : number(value);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Return a shell word: quoted where a shell would read it otherwise. */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

function statusTag(row) {
  if (row.reason_class) return element("span", { class: "tag failed" }, row.reason_class);
  return element("span", { class: `tag ${row.status === "ok" ? "ok" : "notable"}` }, row.status);
}

/** A command of the command line with a button that copies it. */
function command(text) {
  const copy = element("button", {
    type: "button",
    onclick: async () => {
      await copyText(text);
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    },
  }, "Copy");
  return element("div", { class: "command" }, element("code", {}, text), copy);
}

async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = element("textarea", { ".value": text }); // pages opened from a file have no clipboard
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Let the browser save the keys of samples, one per line, for `--keys`, `--exclude` and `exclude=`. */
function download(name, keys) {
  const url = URL.createObjectURL(new Blob([keys.map((key) => `${key}\n`).join("")], { type: "text/plain" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

const tip = document.getElementById("tip");

function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${Math.max(4, event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18)}px`;
}

function hideTip() {
  tip.hidden = true;
}

const MAX_CANVAS = 16000; // pixels in height: browsers draw nothing in canvases above their limits

/** Size a canvas for the screen's pixels, and return its context in CSS pixels. */
function sized(canvas, width, height) {
  const scale = Math.min(devicePixelRatio || 1, MAX_CANVAS / height);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

const redraws = []; // functions that draw with the theme's colours, for the present width

function redraw() {
  for (const draw of redraws) draw();
}
