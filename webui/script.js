// Small things that need no server.

// What Gradio would say in English, or, of a camera or clipboard that the browser refuses, not at all.
const TOLD = [
  [/busy|queue/i, "The page is busy. Try again in a moment.", "服务器繁忙，请稍后再试。"],
  [/maximum allowed size/i, "This file is larger than 20 MB.", "这个文件超过 20 MB。"],
  [/file type/i, "This file is not an image, by its name.", "从文件名看，这不是图片。"],
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
const tell = (text) => {
  const [, english, chinese] = TOLD.find(([pattern]) => pattern.test(text)) ?? [null, text, text];
  told().textContent = document.documentElement.lang.startsWith("zh") ? chinese : english;
};
for (const event of ["pointerdown", "keydown", "drop"]) {
  document.addEventListener(event, () => { told().textContent = ""; }, true);
}
new MutationObserver(() => {
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

// The next three are called by listeners in page.py and tabs.py.

// Of the document, and of the next visit to this address; the title is that of the model.
const setLanguage = (language) => {
  const url = new URL(location);
  if (document.documentElement.lang !== language) url.searchParams.set("lang", language);
  document.documentElement.lang = language;
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
