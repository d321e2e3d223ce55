// Draws the pictures into their boxes and gives them the colours of the page.
(() => {
  // Not `set_log_level`: that writes to the console of whoever opens the page.
  Bokeh.logger.set_level("warn");
  const items = JSON.parse(document.getElementById("pictures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--soft").trim();
    const grid = style.getPropertyValue("--rule").trim();
    for (const shown of Bokeh.documents) {
      for (const model of shown._all_models.values()) {
        if (model.type.endsWith("Axis")) model.setv({ major_label_text_color: text });
        else if (model.type === "Grid") model.setv({ grid_line_color: grid });
      }
    }
  }

  const drawn = Object.entries(items).map(([id, item]) => Bokeh.embed.embed_item(item, id));
  Promise.all(drawn).then(paint);
  dark.addEventListener("change", paint);
})();
