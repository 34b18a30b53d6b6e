// Draws the sections, and again where the theme or the width of the window changes.

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  redraw();
}

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", () => setTheme(prefersDark.matches));
document.getElementById("theme").addEventListener("click", () => setTheme(!document.documentElement.classList.contains("dark")));

drawSummary();
drawTimeline();
drawFailures();
drawDistributions();
drawGallery();
setTheme(prefersDark.matches);
new ResizeObserver(redraw).observe(document.querySelector("main"));
