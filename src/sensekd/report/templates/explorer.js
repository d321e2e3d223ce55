// The sense explorer: looks words up in the data on the page and draws them. All text goes in as text, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = 10;
  const WIDTH = 640, HEIGHT = 420, MARGIN = 46;

  function put(parent, tag, text, attributes) {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    if (parent) parent.append(element);
    return element;
  }

  function draw(parent, tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  const colour = (sense) => `var(--s${sense % COLOURS})`;
  const fixed = (value, digits) => value.toFixed(digits);
  const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;

  // The token behind its left context: apart from it only where it begins with a space.
  function context(parent, text, token) {
    put(parent, "bdi", text);
    if (token.spaced) parent.append(" ");
    put(parent, "mark", token.text.trim() || JSON.stringify(token.text));
  }

  // Coordinates of the data to those of the picture, with one scale for both directions: distances stay distances.
  function frame(groups) {
    const all = groups.flat();
    const span = (at) => [Math.min(...all.map((p) => p[at])), Math.max(...all.map((p) => p[at]))];
    const [left, right] = span(0), [bottom, top] = span(1);
    const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (top - bottom || 1));
    const x0 = (WIDTH - scale * (right - left)) / 2, y0 = (HEIGHT - scale * (top - bottom)) / 2;
    return (p) => [x0 + scale * (p[0] - left), HEIGHT - y0 - scale * (p[1] - bottom)];
  }

  // Labels of relatives, moved down until none covers another.
  function spread(labels) {
    const placed = [];
    for (const label of labels.sort((a, b) => a.y - b.y)) {
      const clash = (other) => Math.abs(other.y - label.y) < 15 && label.x < other.x + other.w && other.x < label.x + label.w;
      for (let tries = 0; tries < 40 && placed.some(clash); tries++) label.y += 5;
      placed.push(label);
    }
    return placed;
  }

  function relatives(svg, token, to) {
    const labels = [];
    for (const each of token.relatives) {
      const [x, y] = to(each.at);
      const up = each.kind === "synonym";
      const shape = up ? `M${x} ${y - 7}l7 12h-14z` : `M${x - 6} ${y - 6}h12v12h-12z`;
      const mark = draw(svg, "path", { d: shape, class: each.kind });
      draw(mark, "title", {}, `${each.kind} ${each.text}: ${fixed(each.d, 2)} from the nearest sense`);
      const w = 8 * each.text.length;
      const right = x + 11 + w < WIDTH;
      labels.push({ x: right ? x + 11 : Math.max(2, x - 11 - w), y: y + 4, w, each });
    }
    for (const { x, y, each } of spread(labels)) draw(svg, "text", { x, y: Math.min(y, HEIGHT - 6), class: each.kind }, each.text);
  }

  function senses(svg, token, to) {
    token.senses.forEach((sense, at) => {
      const [x, y] = to(sense.at);
      const spot = draw(svg, "circle", { cx: x, cy: y, r: 10, stroke: "var(--raised)", "stroke-width": 1.5 });
      spot.style.fill = colour(at);
      draw(spot, "title", {}, `sense ${at + 1}: ${sense.n} samples`);
      draw(svg, "text", { x, y, class: "sense-label" }, String(at + 1));
    });
  }

  // One map; `view` is "sample", or the name of a model. Returns the points in the order of the arrow keys.
  function fill(svg, token, view, to) {
    svg.replaceChildren();
    const placed = token.placed || [];
    const model = placed.find((each) => each.name === view);
    const points = model ? model.points : token.points;
    if (model && model !== placed[0]) {
      points.forEach((p, at) => {
        const [x1, y1] = to(placed[0].points[at]), [x2, y2] = to(p);
        draw(svg, "line", { x1, y1, x2, y2, class: "pull" });
        draw(svg, "circle", { cx: x1, cy: y1, r: 2, fill: "var(--soft)", "fill-opacity": 0.6 });
      });
    }
    const spots = points.map((p) => {
      const [cx, cy] = to(p);
      const spot = draw(svg, "circle", { cx, cy, r: 4.5, "fill-opacity": 0.75, "data-sense": p[2] });
      spot.style.fill = colour(p[2]);
      return spot;
    });
    senses(svg, token, to);
    relatives(svg, token, to);
    return spots;
  }

  function map(parent, token, word) {
    const placed = token.placed || [];
    const views = [...(token.points.length ? ["sample"] : []), ...placed.map((each) => each.name)];
    const to = frame([token.senses.map((s) => s.at), token.points, token.relatives.map((r) => r.at), ...placed.map((each) => each.points)]);
    const name = `${parent.id}-view`;
    const svg = draw(parent, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "map", tabindex: 0, role: "application",
      "aria-roledescription": "map", "aria-label": `Map of the states of ${word}. Arrow keys go from state to state.` });
    const detail = put(parent, "p", "", { class: "detail", role: "status" });
    let spots = [], chosen = -1, view = views[0];

    function idle() {
      detail.textContent = views.length
        ? "Point at a state, or go through them with the arrow keys, to read its context."
        : "";
    }
    function choose(at) {
      if (spots[chosen]) spots[chosen].classList.remove("chosen");
      chosen = at;
      const spot = spots[at];
      if (!spot) return idle();
      spot.classList.add("chosen");
      detail.replaceChildren();
      put(detail, "span", `Sense ${Number(spot.dataset.sense) + 1}: `);
      const text = token.points[at] ? token.points[at][3] : "";
      if (text) context(detail, text, token);
    }
    function show(which) {
      view = which;
      spots = fill(svg, token, view, to);
      spots.forEach((spot, at) => spot.addEventListener("pointerenter", () => choose(at)));
      chosen = -1;
      idle();
    }
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step || !spots.length) return;
      event.preventDefault();
      choose(chosen < 0 && step < 0 ? spots.length - 1 : (chosen + step + spots.length) % spots.length);
    });
    if (views.length > 1) {
      const group = put(null, "fieldset", null, { class: "choose" });
      put(group, "legend", "States of");
      views.forEach((each, at) => {
        const label = put(group, "label");
        const radio = put(label, "input", null, { type: "radio", name, value: each });
        radio.checked = at === 0;
        radio.addEventListener("change", () => show(each));
        label.append(each === "sample" ? "the sample (teacher)" : each);
      });
      svg.before(group);
    }
    show(view);
  }

  function sense(list, token, each, at) {
    const item = put(list, "li", null, { class: "sense" });
    const number = put(put(item, "div"), "span", String(at + 1), { class: "number" });
    number.style.background = colour(at);
    const body = put(item, "div");
    put(body, "p", `${each.n} sample${each.n === 1 ? "" : "s"}, ${percent(each.share)}, spread ${fixed(each.spread, 2)}`);
    for (const text of each.contexts) context(put(body, "q", null, { dir: "auto" }), text, token);
    for (const kind of ["synonym", "antonym"]) {
      const near = each.related.filter((r) => r[1] === kind).map((r) => `${r[0]} ${fixed(r[2], 2)}`);
      if (near.length) put(body, "p", `${kind}s: ${near.join(" · ")}`, { class: "near" });
    }
    for (const [flag, why] of Object.entries(each.flags)) put(body, "p", `${flag}: ${why}`, { class: "flag" });
  }

  function models(parent, token) {
    if (!token.placed || !token.placed.length) return;
    const box = put(parent, "div", null, { class: "scroll", tabindex: 0, role: "region", "aria-label": "Where the models put the contexts" });
    const table = put(box, "table", null, { class: "numbers models" });
    const head = put(put(table, "thead"), "tr");
    for (const text of ["model", "nearest sense is the teacher's", "to the teacher's sense", "to the teacher's state"]) put(head, "th", text, { scope: "col" });
    const body = put(table, "tbody");
    for (const each of token.placed) {
      const row = put(body, "tr");
      put(row, "th", each.name, { scope: "row" });
      put(row, "td", percent(each.agrees));
      put(row, "td", fixed(each.to_sense, 3));
      put(row, "td", fixed(each.to_teacher, 3));
    }
  }

  function show(found, entry, prefix) {
    found.replaceChildren();
    entry.tokens.forEach((token, at) => {
      const box = put(found, "section", null, { class: "token", id: `${prefix}-token-${at}` });
      put(put(box, "h3"), "bdi", token.text.trim() || JSON.stringify(token.text));
      const count = `${token.senses.length} sense${token.senses.length === 1 ? "" : "s"} of ${token.samples} samples`;
      const how = token.spaced ? "with a space before it" : "without a space before it";
      put(box, "p", `Token ${token.id}, ${how}: ${count}. The map shows ${percent(token.explained)} of the variance.`, { class: "note" });
      map(box, token, entry.word);
      const list = put(box, "ol", null, { class: "senses" });
      token.senses.forEach((each, number) => sense(list, token, each, number));
      models(box, token);
    });
  }

  function start(root) {
    const data = JSON.parse(document.getElementById(root.dataset.source).textContent);
    const input = root.querySelector("input"), list = root.querySelector("select");
    const said = root.querySelector(".said"), found = root.querySelector(".found");
    const words = data.words.map((entry, at) => ({ at, text: entry.word, key: entry.word.toLowerCase() }));
    let current = -1;

    function open(at) {
      if (at === current) return;
      current = at;
      show(found, data.words[at], root.dataset.source);
    }
    function offer(query) {
      const key = query.trim().toLowerCase();
      const begins = words.filter((word) => word.key.startsWith(key));
      const inside = key ? words.filter((word) => !word.key.startsWith(key) && word.key.includes(key)) : [];
      const offered = [...begins, ...inside];
      list.replaceChildren(...offered.map((word) => new Option(word.text, String(word.at))));
      said.textContent = offered.length || !key ? "" : `“${query.trim()}” is not on the page.`;
      return { offered, exact: offered.find((word) => word.text === query.trim()) || offered.find((word) => word.key === key) };
    }
    input.addEventListener("input", () => {
      const { exact } = offer(input.value);
      if (exact) { list.value = String(exact.at); open(exact.at); }
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && list.options.length) {
        event.preventDefault();
        if (list.selectedIndex < 0) list.selectedIndex = 0;
        open(Number(list.value));
      } else if (event.key === "ArrowDown" && list.options.length) {
        event.preventDefault();
        list.focus();
        if (list.selectedIndex < 0) { list.selectedIndex = 0; open(Number(list.value)); }
      }
    });
    list.addEventListener("change", () => open(Number(list.value)));
    offer("");
    if (words.length) { list.value = "0"; open(0); }
  }

  document.querySelectorAll(".explorer").forEach(start);
})();
