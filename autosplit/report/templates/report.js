(async () => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const { figures, template, dark, sensitivity } = JSON.parse(byId("data").textContent);
  const darkPage = matchMedia("(prefers-color-scheme: dark)");
  const narrowPage = matchMedia("(max-width: 640px)");

  // plotly comes gzipped within the page
  const packed = Uint8Array.from(atob(byId("plotly").textContent.trim()), (c) => c.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);

  // figures hold the colours of a light page
  const coloured = (value) => {
    if (typeof value === "string") return (darkPage.matches && dark[value.toLowerCase()]) || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
  };

  const merged = (base, over) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const both = [base[key], value].every((v) => v && typeof v === "object" && !Array.isArray(v));
      result[key] = both ? merged(base[key], value) : value;
    }
    return result;
  };

  // a legend that stands beside a chart, in groups, goes below it where the page is narrow
  const isAside = (name) => figures[name].layout.legend?.orientation !== "h";
  const layoutOf = (name) => {
    const layout = merged(structuredClone(template), structuredClone(figures[name].layout));
    const { legend, xaxis } = layout;
    if (!isAside(name) || narrowPage.matches) {
      Object.assign(legend, { orientation: "h", xref: "container", x: 0, yref: "container", y: 0, yanchor: "bottom" });
    }
    if (!narrowPage.matches) return layout;
    layout.font = { ...layout.font, size: 11 };
    Object.assign(legend, { font: { size: 11 }, maxheight: 0.9 });
    if (xaxis.type === "log") {
      const decades = xaxis.tickvals.filter((value) => value.toExponential().startsWith("1")).length;
      const fits = xaxis.tickvals.map((value) => (decades < 3 ? "15" : "1").includes(value.toExponential()[0]));
      xaxis.ticktext = xaxis.ticktext.filter((_, i) => fits[i]);
      xaxis.tickvals = xaxis.tickvals.filter((_, i) => fits[i]);
    }
    return layout;
  };
  const dataOf = (name) => {
    if (!narrowPage.matches) return figures[name].data;
    const traces = figures[name].data.map(({ legendgroup, legendgrouptitle, ...trace }) => trace);
    for (const trace of traces) if (trace.z && trace.z[0].length > 9) trace.texttemplate = ""; // no room in the cells
    return traces;
  };

  const hovers = matchMedia("(hover: hover)").matches;
  const draw = (name) => {
    const place = byId(`figure-${name}`);
    if (isAside(name)) {
      const entries = figures[name].data.filter((trace) => trace.showlegend !== false).length;
      if (entries > 4) place.style.minHeight = `${(narrowPage.matches ? 340 : 190) + 20 * entries}px`;
    }
    return drawn(place, name);
  };
  const drawn = (place, name) => Plotly.react(place, coloured(dataOf(name)), coloured(layoutOf(name)), {
    responsive: true, displaylogo: false, displayModeBar: hovers ? "hover" : false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: `autosplit-${name}` },
  });
  const drawAll = () => Promise.all(Object.keys(figures).map(draw));

  const shown = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3)).toString());

  const move = () => {
    const r = Number(byId("rate").value);
    const b = Number(byId("budget").value);
    const best = sensitivity.best[r][b];
    const budget = sensitivity.budgets_ms[b];
    const inTime = sensitivity.feasible[r][b];
    byId("rate-value").textContent = sensitivity.rates[r];
    byId("budget-value").textContent = sensitivity.budgets[b];
    const row = byId("best");
    row.dataset.plan = best;
    const texts = [`${sensitivity.accuracy[best].toFixed(1)} %`, `${shown(sensitivity.p95_ms[r][best])} ms`,
      `${(100 * sensitivity.in_time[r][b]).toFixed(1)} %`, `${shown(sensitivity.bytes[best])} B`,
      `${shown(sensitivity.p50_ms[r][best])} ms`, `${shown(sensitivity.energy_mj[r][best])} mJ`];
    texts.forEach((text, i) => { row.cells[i + 1].textContent = text; });
    row.cells[0].textContent = sensitivity.plans[best];
    if (!inTime) row.cells[0].insertAdjacentHTML("beforeend", "<small class=\"no\">nothing is in time; the least late</small>");

    const [dots, star] = figures["sensitivity-plans"].data;
    dots.x = sensitivity.p95_ms[r];
    star.x = [sensitivity.p95_ms[r][best]];
    star.y = [sensitivity.accuracy[best]];
    const { shapes, annotations } = figures["sensitivity-plans"].layout;
    shapes[0].x0 = shapes[1].x0 = shapes[1].x1 = budget;
    annotations[0].x = Math.log10(budget);
    annotations[0].text = `budget ${sensitivity.budgets[b]}`;
    Object.assign(figures.sensitivity.data[1], { x: [b], y: [r] });
    return Promise.all([draw("sensitivity-plans"), draw("sensitivity")]);
  };

  await drawAll();
  if (sensitivity) {
    const stand = (rate, budget) => { byId("rate").value = rate; byId("budget").value = budget; return move(); };
    byId("rate").addEventListener("input", move);
    byId("budget").addEventListener("input", move);
    byId("home").addEventListener("click", () => stand(...sensitivity.home));
    byId("figure-sensitivity").on("plotly_click", ({ points }) => stand(points[0].y, points[0].x));
    await move(); // a browser may keep the sliders where they were
  }
  darkPage.addEventListener("change", drawAll);
  narrowPage.addEventListener("change", drawAll);
  document.documentElement.dataset.ready = "yes";
})();
