"use strict";
(() => {
  const root = document.documentElement;
  let errors = 0;
  const note = (what) => { errors += 1; root.dataset.errors = String(errors); console.error(what); };
  root.dataset.errors = "0";
  addEventListener("error", (event) => note(event.message));
  addEventListener("unhandledrejection", (event) => note(String(event.reason)));

  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const palette = () => {
    const style = getComputedStyle(root);
    const names = ["ink", "muted", "faint", "accent", "good", "bad", "warn", "band", "rule", "ground"];
    return Object.fromEntries(names.map((name) => ["@" + name, style.getPropertyValue("--" + name).trim()]));
  };
  const coloured = (value, colours) => {
    if (typeof value === "string") return Object.hasOwn(colours, value) ? colours[value] : value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, colours));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, colours)]));
  };
  const axis = (own, extra, colours) => ({
    gridcolor: colours["@rule"], linecolor: colours["@muted"], zeroline: false, automargin: true, ticks: "outside",
    tickcolor: colours["@muted"], tickfont: { color: colours["@muted"] }, ...extra, ...own,
    title: { standoff: 8, ...(own || {}).title },
  });
  const draw = async ([id, figure]) => {
    const colours = palette();
    const own = coloured(figure.layout, colours);
    const layout = {
      ...own,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colours["@ink"] },
      margin: { l: 56, r: 12, t: 8, b: 44 }, hovermode: "closest", dragmode: narrow.matches ? false : "zoom",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours["@muted"], activecolor: colours["@ink"] },
      showlegend: figure.data.length > 1,
      hoverlabel: { bgcolor: colours["@ground"], bordercolor: colours["@muted"], font: { color: colours["@ink"] }, align: "left" },
      xaxis: axis(own.xaxis, { showgrid: false }, colours), yaxis: axis(own.yaxis, {}, colours),
    };
    const config = { displaylogo: false, responsive: true, displayModeBar: narrow.matches ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "autoScale2d", "resetScale2d"]] };
    await Plotly.react(document.getElementById("plot-" + id), coloured(figure.data, colours), layout, config);
  };
  const filled = (id) => document.querySelectorAll(`#plot-${id} .scatterlayer .trace path`).length > 0;
  const drawAll = async () => {
    for (const entry of Object.entries(figures)) {
      try { await draw(entry); } catch (fault) { note(fault); }
    }
    root.dataset.plots = String(Object.keys(figures).filter(filled).length);
  };

  const number = (cell) => (cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort));
  const compare = (a, b, column, sign) => {
    const [left, right] = [a.cells[column], b.cells[column]];
    if (left.dataset.sort === undefined) return sign * left.textContent.localeCompare(right.textContent, undefined, { numeric: true });
    const [x, y] = [number(left), number(right)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  };
  const sortBy = (header) => {
    const table = header.closest("table");
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const rows = Array.from(table.tBodies[0].rows);
    rows.sort((a, b) => compare(a, b, header.cellIndex, order === "ascending" ? 1 : -1));
    table.tBodies[0].append(...rows);
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }

  const copy = async (text) => {
    if (navigator.clipboard) {
      try { await navigator.clipboard.writeText(text); return true; } catch { /* a browser may refuse it for a local file */ }
    }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const done = await copy(document.getElementById(button.dataset.copy).textContent);
      button.textContent = done ? "Copied" : "Select the text and copy it";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  drawAll();
})();
