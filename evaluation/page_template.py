"""The HTML of an evaluation's page: a jinja2 template with its style and script inside, so that one file holds everything."""

PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0b6e4f; --bad: #b3361b; }
@media (prefers-color-scheme: dark) { :root { --accent: #4fc39a; --bad: #ff8a6b; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem; max-width: 1500px; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0 .6rem; max-width: 60rem; } .quiet { opacity: .7; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.name { text-align: left; min-width: 9rem; max-width: 26rem; overflow-wrap: anywhere; white-space: normal; }
th.text, td.text { text-align: left; } td.problem { text-align: center; }
thead th { background: Canvas; position: sticky; top: 0; box-shadow: inset 0 -1px var(--line); }
th.group { text-align: center; border-left: 1px solid var(--line); position: static; }
tr.first > td { border-top: 2px solid var(--line); }
th button { all: unset; cursor: pointer; } th button:hover, th button:focus-visible { text-decoration: underline; }
th[aria-sort] button { color: var(--accent); }
small { opacity: .7; font-weight: 400; color: CanvasText; } .scroll { overflow: auto; width: fit-content; max-width: 100%; border: 1px solid var(--line); }
#everything { max-height: 75vh; }
.better { color: var(--accent); font-weight: 600; } .worse, .problem { color: var(--bad); font-weight: 600; }
.controls { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; align-items: center; margin: .6rem 0; padding: .6rem .8rem; background: var(--soft); }
.controls label { display: flex; gap: .4rem; align-items: center; } select, input, .more { font: inherit; padding: .15rem .4rem; }
.case { margin: 0 0 1.2rem; padding: .7rem .8rem; border: 1px solid var(--line); }
.case h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; } .case h3 b { color: var(--accent); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: .6rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; background: var(--soft); }
figcaption { font-size: .85rem; overflow-wrap: anywhere; margin-top: .2rem; }
details { margin: .3rem 0; } summary { cursor: pointer; } ul.names { columns: 18rem; margin: .3rem 0; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ settings }}</p>

<h2>Figures</h2>
<p class="quiet">Means over images.{% if level %} In brackets: {{ level }} bootstrap interval of the mean over all images.{% endif %}</p>
{% if different %}<p class="problem" id="different">{{ different }}</p>{% endif %}
<div class="scroll">
<table id="means">
<thead><tr><th>group</th><th class="text">method</th><th>images</th>{% for figure in figures %}<th>{{ figure }}</th>{% endfor %}</tr></thead>
<tbody>
{% for group in groups %}{% for row in group.rows %}
<tr{% if loop.first %} class="first"{% endif %}><td>{{ group.name if loop.first }}</td><td class="text">{{ row.label }}</td><td>{{ row.count }}</td>
{% for cell in row.cells %}<td{% if cell.best %} class="better"{% endif %}>{{ cell.text }}{% if cell.interval %} <small>[{{ cell.interval }}]</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}{% endfor %}
</tbody></table>
</div>

{% if comparisons %}
<h2>Paired differences</h2>
<p class="quiet">b − a on the images that both have, with {{ level }} bootstrap intervals. Coloured where the interval leaves out zero: <span class="better">b is
better</span>, <span class="worse">b is worse</span>. Below: the share of images where b is better.</p>
<div class="scroll">
<table id="differences">
<thead><tr><th>a → b</th><th class="text">group</th><th>images</th>{% for figure in figures %}<th>{{ figure }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in comparisons %}
<tr{% if row.pair %} class="first"{% endif %}><td>{{ row.pair }}</td><td class="text">{{ row.group }}</td><td>{{ row.count }}</td>
{% for cell in row.cells %}<td class="{{ cell.verdict }}">{{ cell.text }}{% if cell.interval %}<br><small>[{{ cell.interval }}] · {{ cell.share }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table>
</div>
{% endif %}

{% if problems %}
<h2>What no figure includes</h2>
{% for problem in problems %}
<details{% if problem.names|length <= 12 %} open{% endif %}><summary><span class="problem">{{ problem.names|length }} {{ problem.kind }}</span> in {{ problem.label }}{{ problem.effect }}</summary>
<ul class="names">{% for name in problem.names %}<li>{{ name }}</li>{% endfor %}</ul></details>
{% endfor %}
{% endif %}

<h2>Worst and best cases</h2>
<div class="controls">
<label>Figure <select id="figure"></select></label>
<label>of <select id="method"></select></label>
<label>order <select id="order"><option value="worst">worst first</option><option value="best">best first</option></select></label>
<span class="quiet">Pictures: the {{ cases }} worst and best of each. They are the files' own: the real background is not pasted in.</span>
</div>
<div id="cases"></div>

<h2>All images</h2>
<div class="controls">
<label>Find <input id="find" type="search" placeholder="part of a name"></label>
<label>subset <select id="subset"><option value="">all</option></select></label>
<label>foreground <select id="range"><option value="">all</option></select></label>
<span id="count" class="quiet"></span>
</div>
<div class="scroll" id="everything"><table id="images"><thead></thead><tbody></tbody></table></div>
<p><button class="more" id="more" type="button">Show more</button></p>

<script id="data" type="application/json">{{ data }}</script>
<script>
"use strict";
// rows: [name, subset, range, foreground, values per column or null, problem per method or ""]; columns: {figure, method, larger, difference}
const DATA = JSON.parse(document.getElementById("data").textContent), STEP = 200;
const at = id => document.getElementById(id);
const state = { column: DATA.start, worst: true, shown: STEP };
const make = (tag, text, properties) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text }, properties);
const number = (value, digits = 2) => value === null ? "–" : value.toFixed(digits);
const signed = (value, one) => (one.difference && value > 0 ? "+" : "") + number(value);
const column = () => DATA.columns[state.column];
const columnOf = (figure, method) => DATA.columns.findIndex(one => one.figure === figure && one.method === method);

function sorted(rows) {
  const key = state.column, sign = (column().larger ? 1 : -1) * (state.worst ? 1 : -1);
  const known = rows.filter(row => row[4][key] !== null), others = rows.filter(row => row[4][key] === null);
  return [known.sort((a, b) => sign * (a[4][key] - b[4][key])), others];
}

function drawCases() {
  const place = at("cases");
  place.replaceChildren();
  const [known] = sorted([...DATA.rows]);
  for (const row of known.slice(0, DATA.shown)) {
    const index = DATA.rows.indexOf(row), pictures = DATA.pictures[index];
    if (!pictures) continue;
    const card = make("section", undefined, { className: "case" }), title = make("h3");
    title.append(make("b", `${column().figure} ${signed(row[4][state.column], column())}`), ` of ${column().method} · ${row[0]} · ${row[1]}, foreground ${number(100 * row[3], 1)} %`);
    const grid = make("div", undefined, { className: "pictures" });
    pictures.forEach((picture, position) => {
      const figure = make("figure"), name = DATA.titles[position], problem = row[5][position - 2];
      figure.append(picture ? make("img", undefined, { src: picture, alt: name }) : make("p", problem || "unreadable", { className: "problem" }));
      const caption = picture && position > 1 && position < DATA.titles.length - 1
        ? `${name}: ` + DATA.figures.map(one => `${one} ${number(row[4][columnOf(one, name)], 1)}`).join(", ") : name;
      figure.append(make("figcaption", caption));
      grid.append(figure);
    });
    card.append(title, grid);
    place.append(card);
  }
  if (!place.children.length) place.append(make("p", "No image has this figure."));
}

function drawHead() {
  const head = at("images").tHead, groups = make("tr"), names = make("tr");
  groups.append(make("th"), make("th"), make("th"));
  names.append(make("th", "image"), make("th", "subset", { className: "text" }), make("th", "foreground"));
  for (const method of DATA.groups) {
    groups.append(make("th", method, { colSpan: DATA.figures.length, className: "group" }));
    for (const figure of DATA.figures) {
      const key = columnOf(figure, method), cell = make("th"), button = make("button", figure, { type: "button", title: `Sort by ${figure} of ${method}` });
      button.onclick = () => { if (state.column === key) state.worst = !state.worst; else [state.column, state.worst] = [key, true]; draw(); };
      if (state.column === key) { cell.setAttribute("aria-sort", "other"); button.textContent += state.worst ? " ▾" : " ▴"; }
      cell.append(button);
      names.append(cell);
    }
  }
  head.replaceChildren(groups, names);
}

function drawTable() {
  const find = at("find").value.normalize("NFC").toLowerCase(), subset = at("subset").value, range = at("range").value;
  const rows = DATA.rows.filter(row => (!subset || row[1] === subset) && (!range || row[2] === range) && row[0].normalize("NFC").toLowerCase().includes(find));
  const [known, others] = sorted(rows), body = at("images").tBodies[0];
  body.replaceChildren(...[...known, ...others].slice(0, state.shown).map(row => {
    const line = make("tr");
    line.append(make("td", row[0], { className: "name" }), make("td", row[1], { className: "text" }), make("td", row[3] === null ? "–" : `${number(100 * row[3], 1)} %`));
    DATA.columns.forEach((one, key) => {
      const problem = row[5][DATA.methods.indexOf(one.method)];
      if (!problem) line.append(make("td", signed(row[4][key], one)));
      else if (one.figure === DATA.figures[0]) line.append(make("td", problem, { className: "problem", colSpan: DATA.figures.length }));
    });
    return line;
  }));
  at("count").textContent = `${rows.length} of ${DATA.rows.length} images`;
  at("more").hidden = rows.length <= state.shown;
}

function draw() {
  at("figure").value = column().figure; at("method").value = column().method; at("order").value = state.worst ? "worst" : "best";
  drawCases(); drawHead(); drawTable();
}

for (const figure of DATA.figures) at("figure").append(make("option", figure, { value: figure }));
for (const method of DATA.groups) at("method").append(make("option", method, { value: method }));
for (const [id, position] of [["subset", 1], ["range", 2]])
  for (const name of [...new Set(DATA.rows.map(row => row[position]))].filter(Boolean).sort((a, b) => parseInt(a) - parseInt(b) || (a < b ? -1 : 1)))
    at(id).append(make("option", id === "range" ? `${name} %` : name, { value: name }));
at("figure").onchange = at("method").onchange = () => { state.column = columnOf(at("figure").value, at("method").value); draw(); };
at("order").onchange = () => { state.worst = at("order").value === "worst"; draw(); };
at("find").oninput = at("subset").onchange = at("range").onchange = () => { state.shown = STEP; drawTable(); };
at("more").onclick = () => { state.shown += STEP; drawTable(); };
draw();
</script>
</body>
</html>
"""
