// Small things that need no server. app.py defines MAX_IMAGE_MB and MAX_ZIP_MB.

// What Gradio would say in English, or, of a camera or clipboard that the browser refuses, not at all.
const TOLD = [
  [/busy|queue/i, "The page is busy. Try again in a moment.", "服务器繁忙，请稍后再试。"],
  [/^too large/, `{files}: larger than ${MAX_IMAGE_MB} MB (a zip: ${MAX_ZIP_MB} MB), so left out.`,
    `{files}：超过 ${MAX_IMAGE_MB} MB（zip 为 ${MAX_ZIP_MB} MB），未处理。`],
  [/^address/, "Give the image itself, not its address.", "请提供图片本身，而不是它的网址。"],
  [/connection|fetch/i, "The page does not answer. Is app.py still running?", "页面没有响应。app.py 还在运行吗？"],
  [/clipboard|'read'/i, "The browser does not let this page read the clipboard. Choose the image instead.",
    "浏览器不允许本页面读取剪贴板。请改为选择图片。"],
  [/permission|mediaDevices|getUserMedia/i,
    "The browser does not let this page use the camera. Allow it beside the address, or choose an image.",
    "浏览器不允许本页面使用摄像头。请在地址栏旁允许，或选择图片。"],
  [/device|video source/i, "There is no camera, or another program uses it. Choose an image instead.",
    "没有摄像头，或别的程序正在使用它。请改为选择图片。"],
];

const told = () => document.querySelector("#told")
  ?? document.body.appendChild(Object.assign(document.createElement("p"), { id: "told", role: "alert" }));
const tell = (text, files = "") => {
  const [, english, chinese] = TOLD.find(([pattern]) => pattern.test(text)) ?? [null, text, text];
  const sentence = document.documentElement.lang.startsWith("zh") ? chinese : english;
  told().textContent = sentence.replace("{files}", () => files);
};
for (const event of ["pointerdown", "keydown", "drop"]) {
  document.addEventListener(event, () => { told().textContent = ""; }, true);
}
new MutationObserver(() => {
  dress();
  for (const toast of document.querySelectorAll('[data-testid="toast-text"]:not([data-told])')) {
    toast.dataset.told = "";
    tell(toast.textContent);
  }
}).observe(document.documentElement, { childList: true, subtree: true });
window.addEventListener("unhandledrejection", (event) => {
  if (!TOLD.some(([pattern]) => pattern.test(event.reason?.message))) return;
  event.preventDefault();
  tell(event.reason.message);
});

// Choosers offer endings that the system does not know as images; the camera's and the clipboard's button have names.
const ENDINGS = ["heic", "heif", "avif", "jfif", "jpe", "mpo", "tif", "tiff"]
  .flatMap((ending) => [`.${ending}`, `.${ending.toUpperCase()}`]).join();
const SOURCES = { en: ["Upload file", "Capture from camera", "Paste from clipboard"],
  zh: ["上传文件", "用摄像头拍照", "从剪贴板粘贴"] };
const INPUTS = ":is(#image, #second, #files) input[type=file]";
const dress = () => {
  for (const input of document.querySelectorAll(INPUTS)) {
    if (!input.accept.includes(ENDINGS)) input.accept += `,${ENDINGS}`;
  }
  const names = SOURCES[document.documentElement.lang] ?? SOURCES.en;
  for (const buttons of document.querySelectorAll(".source-selection")) {
    [...buttons.children].forEach((button, i) => { button.ariaLabel = names[i]; });
  }
};

// Images that are chosen, dropped or pasted, wherever on the page, all come here: what is too large costs only itself,
// several go to their own tab, and the server finds out which are images, since their names and types may be wrong.
const isZip = (file) => /\.zip$/i.test(file.name);
const isLarge = (file) => file.size > (isZip(file) ? MAX_ZIP_MB : MAX_IMAGE_MB) * 2 ** 20;
const isShown = (id) => document.getElementById(id)?.getClientRects().length > 0;
const ours = new WeakSet();  // events

const give = async (files, place = ["image", "files", "second"].find(isShown) ?? "image") => {
  told().textContent = "";
  const large = files.filter(isLarge);
  if (large.length) tell("too large", large.map((file) => file.name).join(", "));
  const fitting = files.filter((file) => !large.includes(file));
  if (!fitting.length) return;
  if (fitting.length > 1 || isZip(fitting[0])) place = "files";
  if (place === "image") fadeAnswer();
  if (!isShown(place)) document.querySelector(`[role="tab"][id*="tab-${place}"]`).click();
  document.querySelector(`#${place} .source-selection button:first-child:not(.selected)`)?.click();
  let input;
  while (!(input = document.querySelector(`#${place} input[type=file]`))) {  // as long as another upload takes
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const transfer = new DataTransfer();
  for (const file of fitting) transfer.items.add(isZip(file) ? file : new File([file], file.name, { type: "image/*" }));
  input.files = transfer.files;
  const event = new Event("change");
  ours.add(event);
  input.dispatchEvent(event);
};
document.addEventListener("change", (event) => {
  if (!event.target.matches(INPUTS) || ours.has(event)) return;
  event.stopImmediatePropagation();
  give([...event.target.files], event.target.closest("#image, #second, #files").id);
}, true);
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer.types.some((type) => ["Files", "text/uri-list"].includes(type))) return;
    event.preventDefault();  // the browser would leave the page and show the file
    if (name === "dragover") return;
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));  // Gradio's box waits for one
    const files = [...event.dataTransfer.files];
    if (files.length) give(files);
    else tell("address");
  }, true);
}
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) give(files);
  else if (/^\s*(https?|file|data):/.test(event.clipboardData.getData("text"))) tell("address");
});

// Copies a button's text; browsers let pages from another machine's plain http only do it the old way.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    const text = document.body.appendChild(document.createElement("textarea"));
    text.value = button.dataset.copy;
    text.select();
    document.execCommand("copy");
    text.remove();
  }
  button.textContent = button.dataset.copied;
});

// The next three are called by listeners in page.py and tabs.py.

// Of the document, and of the next visit to this address; the title is that of the model.
const setLanguage = (language) => {
  const url = new URL(location);
  if (document.documentElement.lang !== language) url.searchParams.set("lang", language);
  document.documentElement.lang = language;
  dress();
  history.replaceState(null, "", url);
  document.title = document.querySelector("h1").textContent;
};

// Until the next image is answered, the earlier answer is faint, and its heat map is not laid over the new image.
const fadeAnswer = (...inputs) => {
  for (const part of document.querySelectorAll("#answer:has(input) .prose > *")) {
    part.classList.add("old");
    if (part.matches("style")) part.textContent = "";
  }
  return inputs;
};

// Which of the buttons in an element was clicked.
const reportClicks = (element, trigger) => element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("click", { index: button.dataset.index });
});

// The slider fades the heat maps.
document.addEventListener("input", (event) => {
  if (event.target.matches(".strength input")) {
    document.documentElement.style.setProperty("--heat", event.target.value / 100);
  }
});

// A heading of the table sorts by its column; pressed again, the other way round.
document.addEventListener("click", (event) => {
  const heading = event.target.closest(".answers th");
  if (!heading) return;
  const order = heading.ariaSort === "ascending" ? "descending" : "ascending";
  for (const other of heading.parentElement.cells) if (other.ariaSort) other.ariaSort = "none";
  heading.ariaSort = order;
  const body = heading.closest("table").tBodies[0];
  const value = (row) => row.cells[Math.min(heading.cellIndex, row.cells.length - 1)].dataset.value;
  const rows = [...body.rows].sort((a, b) => value(a).localeCompare(value(b), undefined, { numeric: true }));
  body.append(...(order === "ascending" ? rows : rows.reverse()));
});
