"use strict";
// Picks out a stage: by pointing at a curve or a row, or with the keyboard on a stage's button.
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const { plots, readouts } = JSON.parse(document.getElementById("data").textContent);
  const readout = document.getElementById("readout");
  const marked = [...document.querySelectorAll("[data-stage]")];
  const buttons = [...document.querySelectorAll("button.pick")];
  const NEAR = 28; // in units of a figure, of which it is 360 wide
  let pinned = null;

  function show(stage, point = "") {
    const picked = stage ?? pinned;
    root.classList.toggle("picking", picked !== null);
    for (const element of marked) {
      element.classList.toggle("picked", element.dataset.stage === picked);
    }
    readout.textContent = picked === null ? "" : [point, readouts[picked]].filter(Boolean).join(" — ");
  }

  function pin(stage) {
    pinned = pinned === stage ? null : stage;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.stage === pinned));
    }
    show(null);
  }

  for (const button of buttons) {
    const { stage } = button.dataset;
    button.addEventListener("click", () => pin(stage));
    button.addEventListener("focus", () => button.matches(":focus-visible") && show(stage));
    button.addEventListener("blur", () => show(null));
  }
  for (const place of document.querySelectorAll(".ladder tr[data-stage], .legend button.pick")) {
    place.addEventListener("pointerenter", () => show(place.dataset.stage));
    place.addEventListener("pointerleave", () => show(null));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (pinned !== null) pin(pinned);
    show(null);
  });

  function along([from, to, log], low, high, value) {
    const of = log ? Math.log10 : Number;
    return low + ((of(value) - of(from)) / (of(to) - of(from))) * (high - low);
  }

  function nearest(plot, x, y) {
    const [left, top, right, bottom] = plot.box;
    let best = null;
    for (const [stage, [xs, ys]] of Object.entries(plot.curves)) {
      for (let i = 0; i < xs.length; i++) {
        if (xs[i] === null || ys[i] === null) continue;
        const at = [along(plot.x, left, right, xs[i]), along(plot.y, bottom, top, ys[i])];
        const distance = Math.hypot(at[0] - x, at[1] - y);
        if (distance < NEAR && (best === null || distance < best.distance)) {
          best = { stage, distance, at, x: xs[i], y: ys[i] };
        }
      }
    }
    return best;
  }

  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
  for (const holder of document.querySelectorAll(".plot")) {
    const plot = plots[holder.dataset.plot];
    const picture = holder.querySelector("svg");
    if (!plot) continue;
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("class", "at");
    dot.setAttribute("r", "4");
    dot.setAttribute("visibility", "hidden");
    picture.append(dot);
    let under = null;
    holder.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const scale = picture.viewBox.baseVal.width / box.width;
      under = nearest(plot, (event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
      dot.setAttribute("visibility", under ? "visible" : "hidden");
      if (under) {
        dot.setAttribute("cx", under.at[0]);
        dot.setAttribute("cy", under.at[1]);
        show(under.stage, `${plot.words[0]} ${number.format(under.x)}, ${plot.words[1]} ${number.format(under.y)}`);
      } else {
        show(null);
      }
    });
    holder.addEventListener("pointerleave", () => {
      under = null;
      dot.setAttribute("visibility", "hidden");
      show(null);
    });
    holder.addEventListener("click", () => under && pin(under.stage));
  }
})();
