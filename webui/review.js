let busy = 0;
const press = (button) => {
  if (button.dataset.action === "heat") {
    element.dataset.heat = element.dataset.heat ? "" : "off";
  } else if (Date.now() > busy) {
    busy = Date.now() + 3000;
    trigger('click', { ...button.dataset });
  }
};
watch("value", () => { busy = Date.now() + 250; });
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) press(button);
});
const keydown = (event) => {
  if (!element.isConnected) return document.removeEventListener("keydown", keydown);
  const { target, key, code } = event;
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (!element.getClientRects().length || target.isContentEditable) return;
  if (target.matches?.("textarea, select, input:not([type=radio], [type=checkbox], [type=range])")) return;
  const name = /^[a-z0-9]$/i.test(key) ? key.toUpperCase() : code.replace(/^(Key|Digit|Numpad)/, "");
  const button = [...element.querySelectorAll("button")].find((one) => one.getAttribute("aria-keyshortcuts") === name);
  if (button) { event.preventDefault(); press(button); }
};
document.addEventListener("keydown", keydown);
