// Slices of a volume with their masks. Only the slice that is shown and its neighbors are decoded.
const viewer = document.querySelector(".viewer");
const canvas = viewer.querySelector("canvas");
const context = canvas.getContext("2d");
const scratch = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {willReadFrequently: true});
const [black, white] = JSON.parse(viewer.dataset.range);
const predictedWindow = JSON.parse(viewer.dataset.window);
const colors = JSON.parse(viewer.dataset.colors);
const overlapping = JSON.parse(viewer.dataset.overlapping);
const [slice, center, width, opacity, mask] =
  ["slice", "center", "width", "opacity", "mask"].map(id => document.getElementById(id));
const count = +slice.max;
const NEIGHBORS = 3;
const loaded = new Promise(resolve => document.addEventListener("DOMContentLoaded", resolve));
const decoded = new Map();

// First channel of an image, of as many pixels as the canvas, or 256 times the second one added to it.
async function pixels(address, both = false) {
  const image = new Image();
  image.src = address;
  await image.decode();
  scratch.drawImage(image, 0, 0, canvas.width, canvas.height);
  const rgba = scratch.getImageData(0, 0, canvas.width, canvas.height).data;
  const values = new Uint16Array(rgba.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = rgba[4 * i] + (both ? 256 * rgba[4 * i + 1] : 0);
  return values;
}

// Gray levels of a slice, from 1, and its class numbers or sets of overlapping classes, or null without any.
function decode(number) {
  if (!decoded.has(number)) decoded.set(number, read(number));
  return decoded.get(number);
}

async function read(number) {
  if (document.readyState === "loading" && number !== +slice.defaultValue) await loaded;
  const [image, numbers] = document.getElementById(`slice-${number}`).textContent.split(" ");
  return Promise.all([pixels(image), numbers ? pixels(numbers, overlapping) : null]);
}

// Color at a pixel of a mask, the mean of its classes, and whether it is the outline of one, whose color it then has.
function tint(numbers, i, columns) {
  if (!overlapping) {
    const number = numbers[i], isEdge = numbers[i - 1] !== number || numbers[i + 1] !== number ||
      numbers[i - columns] !== number || numbers[i + columns] !== number;
    return [colors[(number - 1) % colors.length], isEdge];
  }
  const sum = [0, 0, 0];
  const around = numbers[i - 1] & numbers[i + 1] & numbers[i - columns] & numbers[i + columns];
  let count = 0, edge = null;
  for (let k = 0; numbers[i] >> k; k++) {
    if (!(numbers[i] >> k & 1)) continue;
    const color = colors[k % colors.length];
    if (!(around >> k & 1)) edge = color;
    for (let channel = 0; channel < 3; channel++) sum[channel] += color[channel];
    count++;
  }
  return [edge || sum.map(value => value / count), edge !== null];
}

function draw([levels, numbers]) {
  const drawn = context.createImageData(canvas.width, canvas.height);
  const columns = canvas.width;
  const low = center.value - width.value / 2;
  const shades = Uint8ClampedArray.from({length: 256}, (_, level) =>
    ((black + level / 255 * (white - black) - low) / width.value) * 255);
  const masked = numbers && mask.getAttribute("aria-pressed") === "true";
  const inside = opacity.value / 100;
  for (let i = 0, at = 0; i < levels.length; i++, at += 4) {
    const shade = shades[levels[i]], number = masked ? numbers[i] : 0;
    if (number) {
      const [color, isEdge] = tint(numbers, i, columns);
      const share = isEdge && inside ? 1 : inside;
      for (let channel = 0; channel < 3; channel++)
        drawn.data[at + channel] = (1 - share) * shade + share * color[channel];
    } else drawn.data[at] = drawn.data[at + 1] = drawn.data[at + 2] = shade;
    drawn.data[at + 3] = 255;
  }
  context.putImageData(drawn, 0, 0);
}

function report(input, text) {
  input.setAttribute("aria-valuetext", text);
  input.parentNode.querySelector("output").textContent = text;
}

const rounded = value => center.step === "1" ? Math.round(value).toString() : (+value).toPrecision(3);

async function show() {
  const number = +slice.value;
  report(slice, `${number} of ${count}`);
  report(center, rounded(center.value));
  report(width, rounded(width.value));
  report(opacity, `${opacity.value} %`);
  const content = await decode(number);
  if (number !== +slice.value) return;  // another one is wanted by now
  draw(content);
  canvas.setAttribute("aria-label", `slice ${number} of ${count}`);
  canvas.dataset.drawn = number;
  if (!performance.getEntriesByName("drawn").length) performance.mark("drawn");
  for (const other of decoded.keys()) if (Math.abs(other - number) > NEIGHBORS) decoded.delete(other);
  const [first, last] = [Math.max(1, number - NEIGHBORS), Math.min(count, number + NEIGHBORS)];
  for (let other = first; other <= last; other++) decode(other);
}

function setWindow(low, high) {
  [center.value, width.value] = [(low + high) / 2, high - low];
  show();
}

function move(steps) {
  slice.value = +slice.value + steps;
  show();
}

for (const input of [slice, center, width, opacity]) input.addEventListener("input", show);
document.getElementById("predicted").addEventListener("click", () => setWindow(...predictedWindow));
document.getElementById("whole").addEventListener("click", () => setWindow(black, white));
mask.addEventListener("click", () => {
  mask.setAttribute("aria-pressed", mask.getAttribute("aria-pressed") !== "true");
  show();
});

const STEPS = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10,
  Home: -count, End: count};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key.toLowerCase() === "m") mask.click();
  const isOther = event.target.matches("input[type=range]") && event.target !== slice;  // has these keys itself
  if (!STEPS[event.key] || isOther) return;
  event.preventDefault();
  move(STEPS[event.key]);
});

let turned = 0;  // of the wheel, in pixels; touchpads report many small turns
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  turned += event.deltaMode ? 40 * event.deltaY : event.deltaY;
  if (Math.abs(turned) < 50) return;
  move(Math.sign(turned));
  turned = 0;
}, {passive: false});

show();
