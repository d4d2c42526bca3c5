// Runs before the first paint, so that the wrong theme never flashes.
(() => {
  const KEY = "edgepack.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // Without storage the choice lasts as long as the page.
  }

  const systemTheme = () => (system.matches ? "dark" : "light");
  const apply = () => {
    const valid = ["dark", "light"].includes(chosen);
    document.documentElement.dataset.theme = valid ? chosen : systemTheme();
  };

  const toggle = () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    // Choosing the system's theme means to follow it again.
    if (chosen === systemTheme()) chosen = null;
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
