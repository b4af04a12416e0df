// A click on the head of a column sorts its table; a second click turns the order.
for (const table of document.querySelectorAll("table.sorted")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // missing values stay at the end
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
      return ascending ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}

// A click on an image enlarges it; another one, Escape or the button closes it, and the focus returns to the image.
const dialog = document.querySelector("dialog");
for (const figure of document.querySelectorAll(".pictures figure"))
  figure.querySelector("button").addEventListener("click", () => {
    dialog.querySelector("img").src = figure.querySelector("img").src;
    dialog.querySelector("img").alt = figure.querySelector("img").alt;
    dialog.querySelector("figcaption").textContent = figure.querySelector("figcaption").textContent;
    dialog.showModal();
  });
dialog.addEventListener("click", () => dialog.close());

// What scrolls in itself can be reached by Tab, and so scrolled by keys, but only while it is wider than the screen.
const reachable = new ResizeObserver(entries => entries.forEach(({target}) => {
  if (target.scrollWidth > target.clientWidth) target.setAttribute("tabindex", "0");
  else target.removeAttribute("tabindex");
}));
document.querySelectorAll(".scroll").forEach(region => reachable.observe(region));

// A slider chooses the image above it, and remembers the choice when the page reloads itself.
for (const figure of document.querySelectorAll(".slider")) {
  const [images, input] = [[...figure.querySelectorAll("img")], figure.querySelector("input")];
  const text = figure.querySelector("label span");
  const show = () => {
    images.forEach((image, i) => { image.hidden = i !== +input.value; });
    text.textContent = images[input.value].alt.split(", ").pop();
  };
  input.addEventListener("input", () => {
    show();
    sessionStorage.setItem("slider", +input.value === images.length - 1 ? "" : images[input.value].alt);
  });
  const kept = images.findIndex(image => image.alt === sessionStorage.getItem("slider"));
  if (kept >= 0) { input.value = kept; show(); }
}
