// Steps through stitched trajectories. Draws what #walk-data holds; fetches nothing.
(() => {
  "use strict";
  const element = (id) => document.getElementById(id);
  const host = element("walk-viewer");
  const data = JSON.parse(element("walk-data").textContent);
  const [lines, plane] = [element("walk-lines"), element("walk-plane")];
  const [slider, choice, where] = [element("walk-step"), element("walk-choice"), element("walk-where")];
  const SVG = "http://www.w3.org/2000/svg";
  const [WIDTH, LEFT, RIGHT] = [360, 44, 352]; // of the drawing; a phone's width
  const TRACKS = [["values", "V of the state", 46, 122], ["claimed", "claimed return until there", 154, 230]];
  const BAND = [8, 22];
  let walk, index, scale, marks;

  function draw(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }
  const number = (value) =>
    value === null ? "not a number" : value.toLocaleString("en", { maximumSignificantDigits: 4 });
  const color = (origin) => `var(--${data.origins[origin]})`;
  const last = () => walk.steps[walk.steps.length - 1];
  const x = (step) => LEFT + ((RIGHT - LEFT) * step) / Math.max(last(), 1);

  // The lowest and highest of what is finite, never the same.
  function range(values) {
    const finite = values.filter((value) => value !== null);
    const [low, high] = finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
    return high > low ? [low, high] : [low - 0.5, low + 0.5];
  }
  function path(values, place) {
    let pen = "M";
    return values.map((value, i) => {
      if (value === null) { pen = "M"; return ""; }
      const [px, py] = place(value, i);
      const piece = `${pen}${px.toFixed(1)} ${py.toFixed(1)}`;
      pen = "L";
      return piece;
    }).join("");
  }

  function drawLines() {
    lines.replaceChildren();
    walk.parts.forEach(([first, steps, , origin], i) => {
      const box = { x: x(first), width: Math.max(x(first + steps) - x(first), 0.5), fill: color(origin) };
      draw(lines, "rect", { ...box, y: BAND[0], height: BAND[1] - BAND[0], opacity: i % 2 ? 0.55 : 0.9 });
      draw(lines, "rect", { ...box, y: BAND[1], height: 208, opacity: i % 2 ? 0.14 : 0.05 });
    });
    for (const hop of walk.hops) {
      const at = { x1: x(hop + 1), x2: x(hop + 1), y1: BAND[0], y2: 230 };
      draw(lines, "line", { ...at, stroke: "var(--stitched)", "stroke-dasharray": "2 2" });
    }
    marks = TRACKS.map(([name, title, top, bottom]) => {
      const [low, high] = range(walk[name]);
      const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
      draw(lines, "text", { x: LEFT, y: top - 6, class: "walk-title" }, title);
      for (const value of [low, high]) {
        const label = { x: LEFT - 5, y: y(value) + 3.5, "text-anchor": "end" };
        draw(lines, "text", label, number(value));
        draw(lines, "line", { x1: LEFT, x2: RIGHT, y1: y(value), y2: y(value), stroke: "var(--line)" });
      }
      const d = path(walk[name], (value, i) => [x(walk.steps[i]), y(value)]);
      draw(lines, "path", { d, fill: "none", stroke: "currentColor", "stroke-width": 1.3 });
      const dot = draw(lines, "circle", { r: 3.5, fill: "var(--selected)" });
      return { dot, y, name };
    });
    marks.cursor = draw(lines, "line", { y1: BAND[0], y2: 230, stroke: "var(--selected)" });
    for (const [step, anchor] of [[0, "start"], [last(), "end"]])
      draw(lines, "text", { x: x(step), y: 246, "text-anchor": anchor }, step);
    draw(lines, "text", { x: (LEFT + RIGHT) / 2, y: 246, "text-anchor": "middle" }, "step");
  }

  function drawPlane() {
    plane.replaceChildren();
    plane.toggleAttribute("hidden", !walk.places.length);
    if (!walk.places.length) return;
    const all = [...walk.places, ...data.points];
    const [left, right] = range(all.map((place) => place[0]));
    const [low, high] = range(all.map((place) => place[1]));
    scale = ([px, py]) => [
      8 + ((WIDTH - 16) * (px - left)) / (right - left),
      232 - (216 * (py - low)) / (high - low),
    ];
    for (const place of data.points) {
      const [cx, cy] = scale(place);
      draw(plane, "circle", { cx: cx.toFixed(1), cy: cy.toFixed(1), r: 1, fill: "var(--faint)", opacity: 0.5 });
    }
    walk.parts.forEach(([first, steps, , origin]) => {
      const own = walk.places.filter((_, i) => walk.steps[i] >= first && walk.steps[i] < first + steps);
      draw(plane, "path", { d: path(own, scale), fill: "none", stroke: color(origin), opacity: 0.75 });
    });
    for (const hop of walk.hops) {
      const at = walk.steps.indexOf(hop);
      const ends = walk.places.slice(at, at + 2);
      draw(plane, "path", { d: path(ends, scale), fill: "none", stroke: "var(--stitched)", "stroke-width": 2 });
    }
    draw(plane, "text", { x: 8, y: 246 }, "states on the axes of “States and hops”");
    marks.here = draw(plane, "circle", { r: 5, fill: "var(--selected)" });
  }

  function tell() {
    const step = walk.steps[index];
    const at = walk.parts.findLastIndex((part) => part[0] <= step);
    const [first, , episode, origin, sourceStep] = walk.parts[at];
    const hops = walk.hops.includes(step);
    const next = walk.parts[at + 1];
    let text = `Step ${step} of ${last()}: `;
    text += step === last() ? "the final state. " :
      `step ${sourceStep + step - first} of ${data.origins[origin]} episode ${episode}. `;
    text += `V ${number(walk.values[index])}, claimed so far ${number(walk.claimed[index])}.`;
    if (hops && next) text += ` Hops here to ${data.origins[next[3]]} episode ${next[2]}, step ${next[4]}.`;
    else if (hops) text += " Hops here to the final state of another episode.";
    return text;
  }

  function go(to) {
    index = Math.min(Math.max(to, 0), walk.steps.length - 1);
    slider.value = index;
    const step = walk.steps[index];
    marks.cursor.setAttribute("x1", x(step));
    marks.cursor.setAttribute("x2", x(step));
    for (const { dot, y, name } of marks) {
      const value = walk[name][index];
      dot.toggleAttribute("hidden", value === null);
      dot.setAttribute("cx", x(step));
      dot.setAttribute("cy", value === null ? 0 : y(value));
    }
    if (walk.places.length) {
      const [cx, cy] = scale(walk.places[index]);
      marks.here.setAttribute("cx", cx);
      marks.here.setAttribute("cy", cy);
    }
    where.textContent = tell();
    slider.setAttribute("aria-valuetext", where.textContent);
  }
  const stepTo = (step) => go(walk.steps.findLastIndex((own) => own <= step));
  function hop(direction) {
    const step = walk.steps[index];
    const found = direction > 0 ? walk.hops.find((own) => own > step) : walk.hops.findLast((own) => own < step);
    stepTo(found === undefined ? (direction > 0 ? last() : 0) : found);
  }
  function open(which) {
    walk = data.walks[which];
    slider.max = walk.steps.length - 1;
    drawLines();
    drawPlane();
    go(0);
  }

  data.walks.forEach((one, i) => {
    const option = document.createElement("option");
    const hops = one.hops.length === 1 ? "1 hop" : `${one.hops.length} hops`;
    const before = one.before === null ? "" : ` instead of ${number(one.before)}`;
    const claimed = number(one.claimed[one.claimed.length - 1]);
    option.textContent = `no. ${one.rank} of ${one.of}: claims ${claimed}${before}, ${hops}`;
    option.value = i;
    choice.append(option);
  });
  choice.addEventListener("change", () => open(Number(choice.value)));
  slider.addEventListener("input", () => go(Number(slider.value)));
  element("walk-back").addEventListener("click", () => hop(-1));
  element("walk-on").addEventListener("click", () => hop(1));
  const KEYS = {
    ArrowLeft: (far) => go(index - far), ArrowRight: (far) => go(index + far),
    PageUp: () => hop(-1), PageDown: () => hop(1),
    Home: () => go(0), End: () => go(walk.steps.length - 1),
  };
  host.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (!act || event.target === choice || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    act(event.shiftKey ? 10 : 1);
  });
  const follow = (event) => {
    const box = lines.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * WIDTH;
    stepTo(Math.max(0, Math.round(((across - LEFT) / (RIGHT - LEFT)) * last())));
  };
  lines.addEventListener("pointerdown", (event) => { lines.setPointerCapture(event.pointerId); follow(event); });
  lines.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });

  open(0);
  element("walk-still").hidden = true;
  host.hidden = false;
})();
