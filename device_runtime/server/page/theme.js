// Runs before the first paint, so that the wrong theme never flashes up.
(() => {
  const KEY = "edgepack.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // Without storage the choice lasts as long as the page.
  }

  const wanted = () => (system.matches ? "dark" : "light");
  const apply = () => {
    document.documentElement.dataset.theme = ["dark", "light"].includes(chosen) ? chosen : wanted();
  };

  const toggle = () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    // Whoever comes back to the system's theme follows it again.
    if (chosen === wanted()) chosen = null;
    apply();
    try {
      if (chosen) localStorage.setItem(KEY, chosen);
      else localStorage.removeItem(KEY);
    } catch {
      // As above.
    }
  };

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (event.target.closest("#theme")) toggle();
  });
})();
