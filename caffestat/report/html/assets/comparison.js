// Two runs beside each other: what differs, the ratio in colours.

function startComparison() {
  const found = DATA.comparison;
  if (!found) return;
  const section = byId("comparison");
  section.append(make("h2", {}, `Differences: ${found.count.toLocaleString("en-US")}`));
  if (!found.count) return section.append(make("p", {}, "No number differs by more than the tolerances."));
  const rows = new Map(ROWS.map((layer, row) => [layer.name, row]));
  const scale = new Scale({ key: "", diverging: true }, [0.1, 10]);
  const columns = [
    { title: "pass", number: true, get: (d) => d.pass },
    { title: "iteration", number: true, get: (d) => d.iteration },
    { title: "layer", link: true, get: (d) => d.layer },
    { title: "number", get: (d) => [d.direction, d.role].filter(Boolean).join(" ") },
    { title: "blob", get: (d) => d.blob },
    { title: "A", number: true, get: (d) => d.a },
    { title: "B", number: true, get: (d) => d.b },
    { title: "B ÷ A", number: true, get: (d) => d.ratio, colour: (d) => scale.colour(numeric(d.ratio)) },
  ];
  const table = new Table("Differences", columns, found.differences, { row: (d) => rows.get(d.layer) ?? null });
  section.append(table.element);
  if (found.differences.length < found.count) section.append(make("p", { class: "hint" }, `The first ${found.differences.length.toLocaleString("en-US")} are listed.`));
}
