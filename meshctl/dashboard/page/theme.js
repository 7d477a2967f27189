// Light, dark, or as the system says; the choice is kept in this browser.

const KEY = "meshctl-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const SHOWN = { system: "◐ Auto", light: "☀\ufe0e Light", dark: "☾ Dark" };

export function theme(button) {
  let chosen = "system";
  try {
    chosen = localStorage.getItem(KEY) ?? "system";
  } catch {
    // storage may be forbidden: then the choice lasts as long as the tab
  }
  const apply = () => {
    if (chosen === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.textContent = SHOWN[chosen] ?? SHOWN.system;
    button.setAttribute("aria-label", `Colours: ${chosen}. Change`);
  };
  const next = () => {
    chosen = NEXT[chosen] ?? "system";
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // as above
    }
    apply();
  };
  button.addEventListener("click", next);
  apply();
  return next;
}
