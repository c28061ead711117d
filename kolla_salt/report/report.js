"use strict";
(function () {
  const root = document.documentElement;
  const all = (selector, from) => Array.from((from || document).querySelectorAll(selector));

  // Light and dark: as the system has it, until somebody chooses.
  const theme = document.getElementById("theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const show = (name) => {
    root.dataset.theme = name;
    theme.textContent = name === "dark" ? "Light" : "Dark";
  };
  show(dark.matches ? "dark" : "light");
  dark.addEventListener("change", (event) => show(event.matches ? "dark" : "light"));
  theme.addEventListener("click", () => show(root.dataset.theme === "dark" ? "light" : "dark"));

  // On paper everything is open and light.
  document.getElementById("print").addEventListener("click", () => window.print());
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = { theme: root.dataset.theme, folded: all("details:not([open])") };
    show("light");
    before.folded.forEach((item) => { item.open = true; });
  });
  window.addEventListener("afterprint", () => {
    if (!before) return;
    show(before.theme);
    before.folded.forEach((item) => { item.open = false; });
    before = null;
  });

  // The timeline.
  const told = JSON.parse(document.getElementById("bars").textContent);
  const plot = document.getElementById("plot");
  const tip = document.getElementById("tip");
  const words = { failed: "failed", unknown: "no answer", same: "nothing to change" };
  const line = (tag, text, parent) => {
    const made = document.createElement(tag);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const tell = (bar, x, y) => {
    const said = told[bar.dataset.bar];
    tip.replaceChildren();
    const changed = said.changed + (said.changed === 1 ? " change" : " changes");
    line("b", said.host + ": " + said.took + ", " + (said.kind === "failed" || said.kind === "unknown" || !said.changed ? words[said.kind] || changed : changed), tip);
    line("p", said.step, tip);
    line("p", said.at, tip);
    if (said.states.length) {
      const table = document.createElement("table");
      said.states.forEach(([seconds, id, kind]) => {
        const row = table.insertRow();
        row.className = kind;
        row.insertCell().textContent = seconds + " s";
        row.insertCell().textContent = id + (kind === "failed" ? " failed" : "");
      });
      tip.append(table);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    let left = x + 16;
    if (left + box.width > window.innerWidth - 8) left = Math.max(8, x - box.width - 16);
    let top = y + 18;
    if (top + box.height > window.innerHeight - 8) top = Math.max(8, y - box.height - 14);
    tip.style.left = left + "px";
    tip.style.top = top + "px";
  };
  const hide = () => { tip.hidden = true; };
  if (plot) {
    const bars = all("[data-bar]", plot);
    const lanes = [];
    bars.forEach((bar) => {
      const y = bar.getAttribute("y");
      const last = lanes[lanes.length - 1];
      if (last && last.y === y) last.bars.push(bar);
      else lanes.push({ y, bars: [bar] });
    });
    const middle = (bar) => parseFloat(bar.getAttribute("x")) + parseFloat(bar.getAttribute("width")) / 2;
    let current = bars[0];
    const go = (bar) => {
      if (!bar) return;
      current.setAttribute("tabindex", "-1");
      bar.setAttribute("tabindex", "0");
      current = bar;
      bar.focus();
    };
    const open = (bar) => {
      const said = told[bar.dataset.bar];
      const host = all("details.host").find((item) => item.dataset.host === said.host);
      if (!host) return;
      host.open = true;
      const step = all(".stepbox", host).find((item) => item.dataset.step === said.step) || host;
      hide();
      step.scrollIntoView({ block: "start" });
      host.querySelector("summary").focus({ preventScroll: true });
    };
    plot.addEventListener("pointermove", (event) => {
      const bar = event.target.closest("[data-bar]");
      if (bar) tell(bar, event.clientX, event.clientY);
      else hide();
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("focusin", (event) => {
      const bar = event.target.closest("[data-bar]");
      if (!bar) return;
      // The box of the whole would reach as far as its text, which is cut off.
      const box = bar.querySelector(".body").getBoundingClientRect();
      tell(bar, box.left + Math.min(box.width / 2, 60), box.bottom - 12);
    });
    plot.addEventListener("focusout", hide);
    plot.addEventListener("click", (event) => {
      const bar = event.target.closest("[data-bar]");
      if (bar) open(bar);
    });
    plot.addEventListener("keydown", (event) => {
      const bar = event.target.closest("[data-bar]");
      if (!bar) return;
      const row = lanes.findIndex((lane) => lane.bars.includes(bar));
      const place = lanes[row].bars.indexOf(bar);
      const nearest = (lane) => lane && lane.bars.reduce((best, other) =>
        Math.abs(middle(other) - middle(bar)) < Math.abs(middle(best) - middle(bar)) ? other : best);
      const moves = {
        ArrowRight: () => go(lanes[row].bars[place + 1]),
        ArrowLeft: () => go(lanes[row].bars[place - 1]),
        ArrowDown: () => go(nearest(lanes[row + 1])),
        ArrowUp: () => go(nearest(lanes[row - 1])),
        Home: () => go(lanes[row].bars[0]),
        End: () => go(lanes[row].bars[lanes[row].bars.length - 1]),
        Enter: () => open(bar),
        Escape: hide,
      };
      if (moves[event.key]) {
        event.preventDefault();
        moves[event.key]();
      }
    });
    window.addEventListener("scroll", hide, { passive: true });

    const sizes = [1, 2, 4, 8, 16, 32];
    let size = 0;
    const scroll = plot.parentElement;
    all("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
      const centre = (scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth;
      size = Math.min(sizes.length - 1, Math.max(0, size + Number(button.dataset.zoom)));
      plot.setAttribute("width", sizes[size] * 100 + "%");
      document.getElementById("zoom").textContent = sizes[size] + "\u00d7";
      scroll.scrollLeft = centre * scroll.scrollWidth - scroll.clientWidth / 2;
    }));
  }

  // Changes: fold and filter.
  all("[data-fold]").forEach((button) => button.addEventListener("click", () => {
    const open = button.dataset.fold === "open";
    all("#changes details").forEach((item) => { if (!item.hidden) item.open = open; });
  }));
  const filter = document.getElementById("filter");
  if (filter) {
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      let some = false;
      all("#changes details.host").forEach((host) => {
        const whole = host.dataset.host.toLowerCase().includes(wanted);
        let found = 0;
        all(".change", host).forEach((change) => {
          const hit = !wanted || whole || change.textContent.toLowerCase().includes(wanted);
          change.hidden = !hit;
          found += hit ? 1 : 0;
        });
        all(".stepbox", host).forEach((step) => { step.hidden = !step.querySelector(".change:not([hidden])"); });
        host.hidden = !found;
        host.open = Boolean(wanted) && found > 0;
        some = some || found > 0;
      });
      document.getElementById("nomatch").hidden = some;
    });
  }
}());
