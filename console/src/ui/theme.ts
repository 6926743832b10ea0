/** Dark or light: the system's choice, unless the user has made one. */

const KEPT = "penstock.theme";

export function beginTheme(): void {
  const kept = localStorage.getItem(KEPT);
  if (kept) document.documentElement.dataset["theme"] = kept;
}

export function isDark(): boolean {
  const set = document.documentElement.dataset["theme"];
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function flipTheme(): void {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset["theme"] = next;
  localStorage.setItem(KEPT, next);
}
