// The file with line numbers and colours, findings in the margin, and findings as cards with their fixes.

const SYNTAX = /(#.*)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|([A-Za-z_][\w]*)(?=\s*[:{])|(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?\b)|([A-Za-z_]\w*)/g;

function coloured(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(SYNTAX)) {
    const kind = match[1] ? "c" : match[2] ? "s" : match[3] ? "k" : match[4] ? "d" : null;
    if (!kind) continue;
    parts.push(text.slice(at, match.index), make("span", { class: kind }, match[0]));
    at = match.index + match[0].length;
  }
  return [...parts, text.slice(at)];
}

const SIGNS = { error: "✖", warning: "▲", info: "●" };

// Lines first to last (from 1) of a file.
function sourceLines(source, first, last) {
  const issues = DATA.issues.filter((issue) => issue.file === source.name);
  const element = make("div", { class: "lines code", tabindex: "0", role: "region", "aria-label": `Lines ${first} to ${last} of ${source.name}` });
  for (let n = first; n <= last; n++) {
    const here = issues.filter((issue) => issue.line === n), sign = here[0];
    const mark = make("span", { class: `sign ${sign?.severity ?? ""}`, title: sign?.message ?? "" }, sign ? SIGNS[sign.severity] : "");
    const remarks = here.map((issue) => make("span", { class: `remark ${issue.severity}` }, `${issue.code} ${issue.message}`));
    element.append(make("div", { class: "line", "data-line": n }, make("span", { class: "n" }, String(n)), mark, make("span", {}, ...coloured(source.lines[n - 1] ?? "")), ...remarks));
  }
  return element;
}

const FIRST_LINES = 2000;

function startSource() {
  const section = byId("source");
  DATA.sources.forEach((source, index) => {
    let view = sourceLines(source, 1, Math.min(source.lines.length, FIRST_LINES));
    const heading = index ? make("h3", {}, source.name) : make("h2", {}, source.name);
    section.append(heading, view);
    if (source.lines.length > FIRST_LINES) section.append(make("button", { type: "button", class: "more", onclick: (event) => (view.replaceWith((view = sourceLines(source, 1, source.lines.length))), view.focus(), event.target.remove()) }, `Show all ${source.lines.length} lines`));
    if (!index) listen("choose", (row) => markLines(view, source, ROWS[row]));
  });
}

function markLines(view, source, layer) {
  view.querySelectorAll(".marked").forEach((line) => line.classList.remove("marked"));
  if (layer.inserted) return;
  const end = source.ends[layer.line] ?? layer.line;
  for (let n = layer.line; n && n <= end; n++) view.querySelector(`[data-line="${n}"]`)?.classList.add("marked");
  const first = view.querySelector(".marked");
  if (first) view.scrollTop += first.getBoundingClientRect().top - view.getBoundingClientRect().top - 40;
}

function issueCard(issue) {
  const place = issue.line ? `${issue.file}:${issue.line}` : issue.file;
  const whose = issue.layer ? ` · layer ${issue.layer}` : "";
  const card = make("article", { class: `finding ${issue.severity}` }, make("div", { class: "head code" }, `${SIGNS[issue.severity]} ${[issue.severity, issue.code, issue.name].filter(Boolean).join(" ")} · ${place}${whose}`), make("div", {}, issue.message), issue.fix ? make("div", {}, `Fix: ${issue.fix}`) : null, issue.diff ? diffOf(issue.diff) : null);
  if (issue.row !== null) card.append(make("button", { type: "button", onclick: () => (tell("choose", issue.row), goTo("layer")) }, "Show the layer"));
  return card;
}

function diffOf(text) {
  const kinds = { "+": "added", "-": "removed" };
  const lines = text.split("\n").filter((line) => !/^(---|\+\+\+) ?/.test(line));
  if (lines[lines.length - 1] === "") lines.pop();
  return make("div", { class: "diff code", tabindex: "0", role: "region", "aria-label": "Fix as a diff" }, ...lines.map((line) => make("div", { class: kinds[line[0]] ?? "" }, line || " ")));
}

function startFindings() {
  if (!DATA.issues.length) return DATA.checked ? byId("findings").append(make("h2", {}, "Findings"), make("p", {}, "Nothing was found.")) : undefined;
  const count = (severity) => DATA.issues.filter((issue) => issue.severity === severity).length;
  const counts = ["error", "warning", "info"].filter(count).map((severity) => `${count(severity)} ${severity}${count(severity) > 1 && severity !== "info" ? "s" : ""}`);
  byId("findings").append(make("h2", {}, `Findings: ${counts.join(", ")}`), ...DATA.issues.map(issueCard));
}
