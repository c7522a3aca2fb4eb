"use strict";
// Sorting, enlarging, dark or light. The page is whole without it, so every control is made here.
(() => {
  const THEME = "raybench-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = document.querySelector("style.dark");
  const asSystem = dark.media;

  // Storage is refused to some pages that are opened from a disk, and touching it then throws.
  const recalled = () => {
    try {
      return localStorage.getItem(THEME);
    } catch {
      return null;
    }
  };
  const remember = (theme) => {
    try {
      if (theme) localStorage.setItem(THEME, theme);
      else localStorage.removeItem(THEME);
    } catch {
      // It then holds until the page is closed.
    }
  };

  let chosen = recalled();
  const isDark = () => (chosen ? chosen === "dark" : system.matches);
  const paint = () => {
    dark.media = !chosen ? asSystem : chosen === "dark" ? "screen" : "not all";
  };
  // Before anything is drawn.
  paint();

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  const addTheme = () => {
    const button = element("button", { type: "button", className: "theme" });
    const say = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", isDark() ? "Change to a light page" : "Change to a dark page");
    };
    button.addEventListener("click", () => {
      const wanted = isDark() ? "light" : "dark";
      // What the system asks for anyway is not remembered, so that the page goes on following it.
      chosen = (wanted === "dark") === system.matches ? null : wanted;
      remember(chosen);
      paint();
      say();
    });
    system.addEventListener("change", say);
    say();
    document.querySelector("header").prepend(button);
  };

  // Words by the numbers inside them, so that resnet8 comes before resnet20.
  const words = new Intl.Collator("en", { numeric: true });
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    const number = cell.dataset.number === undefined ? null : Number(cell.dataset.number);
    return { row, text, number, blank: text === "" || text === "–" };
  };
  const compare = (a, b) => {
    if (a.number !== null && b.number !== null && a.number !== b.number) return a.number - b.number;
    if ((a.number === null) !== (b.number === null)) return a.number === null ? 1 : -1;
    return words.compare(a.text, b.text);
  };

  const makeSortable = (table) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const sort = (column, order) => {
      const sign = order === "descending" ? -1 : 1;
      const keys = original.map((row) => key(row, column));
      // Blanks come last in both directions; equals keep their order.
      const sorted = keys.sort((a, b) => a.blank - b.blank || sign * compare(a, b)).map((each) => each.row);
      body.append(...(order === "none" ? original : sorted));
      table.classList.toggle("sorted", order !== "none");
    };
    heads.forEach((head, column) => {
      const button = element("button", { type: "button", title: "Sort" }, ...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" };
        const order = next[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", order);
        sort(column, order);
      });
    });
  };

  // A dialog with a drawing that is dragged and zoomed. `x`, `y`: its corner in pixels of the stage; `scale`: 1 is its
  // natural size.
  const makeViewer = () => {
    const MOST = 16;
    const STEP = 1.25;
    const MARGIN = 12;
    const stage = element("div", { className: "stage" });
    const close = element("button", { type: "button", className: "close", textContent: "×" });
    const dialog = element("dialog", {}, stage, close);
    close.setAttribute("aria-label", "Close");
    let card, drawing, width, height, x, y, scale;

    const fit = () => Math.min((stage.clientWidth - 2 * MARGIN) / width, (stage.clientHeight - 2 * MARGIN) / height);
    // In the middle where there is room, else never away from the edge of the stage.
    const kept = (corner, size, room) =>
      size + 2 * MARGIN <= room ? (room - size) / 2 : Math.min(MARGIN, Math.max(room - size - MARGIN, corner));
    const place = () => {
      x = kept(x, width * scale, stage.clientWidth);
      y = kept(y, height * scale, stage.clientHeight);
      drawing.style.width = `${width * scale}px`;
      drawing.style.transform = `translate(${x}px, ${y}px)`;
    };
    const zoomAt = (factor, at) => {
      const before = scale;
      scale = Math.min(MOST, Math.max(Math.min(1, fit()), scale * factor));
      x = at.x - ((at.x - x) * scale) / before;
      y = at.y - ((at.y - y) * scale) / before;
      place();
    };
    const zoom = (factor) => zoomAt(factor, { x: stage.clientWidth / 2, y: stage.clientHeight / 2 });
    // All of it where that is large enough to be read, as on a desk; on a phone its natural size, from its corner.
    const reset = () => {
      scale = Math.max(1, fit());
      x = y = MARGIN;
      place();
    };

    const open = (figure) => {
      card = figure;
      drawing = card.querySelector("svg");
      const box = drawing.getBoundingClientRect();
      width = Number(card.dataset.width);
      height = (width * box.height) / box.width;
      // The page must not jump while the drawing is away. It is moved, not copied: its names stay unique.
      card.style.height = `${card.offsetHeight}px`;
      dialog.setAttribute("aria-label", drawing.getAttribute("aria-label"));
      stage.append(drawing);
      dialog.showModal();
      reset();
    };
    dialog.addEventListener("close", () => {
      drawing.removeAttribute("style");
      card.prepend(drawing);
      card.style.height = "";
    });
    close.addEventListener("click", () => dialog.close());

    const pointers = new Map();
    let moved = 0;
    const inStage = (event) => {
      const box = stage.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    const spread = () => {
      const [a, b = a] = [...pointers.values()];
      return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, distance: Math.hypot(a.x - b.x, a.y - b.y) };
    };
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      if (pointers.size === 0) moved = 0;
      pointers.set(event.pointerId, inStage(event));
    });
    stage.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return;
      const before = spread();
      pointers.set(event.pointerId, inStage(event));
      const after = spread();
      x += after.x - before.x;
      y += after.y - before.y;
      moved += Math.hypot(after.x - before.x, after.y - before.y);
      zoomAt(before.distance ? after.distance / before.distance : 1, after);
    });
    const lift = (event) => pointers.delete(event.pointerId);
    stage.addEventListener("pointerup", lift);
    stage.addEventListener("pointercancel", lift);
    // Beside the drawing, and no drag that ended there.
    stage.addEventListener("click", (event) => {
      const box = drawing.getBoundingClientRect();
      const inside = event.clientX >= box.left && event.clientX <= box.right;
      if (moved < 5 && !(inside && event.clientY >= box.top && event.clientY <= box.bottom)) dialog.close();
    });
    stage.addEventListener("dblclick", (event) => {
      if (scale > Math.max(1, fit()) * 1.01) reset();
      else zoomAt(STEP ** 4, inStage(event));
    });
    stage.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        // A notch of a wheel is a step; a trackpad sends many small parts of one.
        zoomAt(STEP ** Math.max(-1, Math.min(1, -event.deltaY / 100)), inStage(event));
      },
      { passive: false },
    );
    dialog.addEventListener("keydown", (event) => {
      const far = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
      if (far) {
        x += far[0];
        y += far[1];
        place();
      } else if (event.key === "+" || event.key === "=") zoom(STEP);
      else if (event.key === "-") zoom(1 / STEP);
      else if (event.key === "0") reset();
      else return;
      event.preventDefault();
    });
    addEventListener("resize", () => dialog.open && zoom(1));
    document.body.append(dialog);
    return open;
  };

  document.addEventListener("DOMContentLoaded", () => {
    addTheme();
    const tables = document.querySelectorAll("main table");
    const cards = document.querySelectorAll("figure .card");
    tables.forEach(makeSortable);
    if (cards.length) {
      const open = makeViewer();
      for (const card of cards) {
        const button = element("button", { type: "button", className: "enlarge" });
        button.setAttribute("aria-label", `Enlarge the figure: ${card.querySelector("svg").getAttribute("aria-label")}`);
        button.addEventListener("click", () => open(card));
        card.append(button);
      }
    }
    const hints = [tables.length ? "A column's title sorts its table." : "", cards.length ? "A figure opens larger." : ""];
    const hint = hints.filter(Boolean).join(" ");
    if (hint) document.querySelector("header").append(element("p", { className: "hint", textContent: hint }));
  });
})();
