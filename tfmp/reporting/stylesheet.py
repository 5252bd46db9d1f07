"""How the page looks: laptop, phone, paper, light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f5f7fa; --card: #ffffff; --text: #1f2933; --faint: #52606d;
  --line: #d9e2ec; --link: #1f5fbf;
  --good: #0b6e4f; --look: #8a5a00; --bad: #b3261e;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --card: #1b2128; --text: #e4e7eb; --faint: #a5b1bd;
    --line: #364150; --link: #8ab4f8;
    --good: #57d9a3; --look: #f2b84b; --bad: #ff8a80;
  }
  /* Light pictures become dark ones, and keep their colours. */
  img { filter: invert(0.9) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem;
  background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.7rem; margin: 0; line-height: 1.2; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.75rem; }
h3 { font-size: 1.05rem; margin: 0 0 0.5rem; }
p { margin: 0.25rem 0; }
a { color: var(--link); }
.faint, figcaption, caption, footer, dt { color: var(--faint); }
.card {
  background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 1rem 1.1rem; margin: 0 0 1rem;
}
h1, h2, .card { overflow-wrap: anywhere; }
.columns {
  display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr));
}
.columns .card { margin: 0; min-width: 0; }
.columns + .card, .card + .columns { margin-top: 1rem; }
dl { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; margin: 0.75rem 0; }
dt { font-size: 0.8rem; }
dd { margin: 0; font-weight: 600; }
ul { list-style: none; margin: 0; padding: 0; }
li { margin: 0.4rem 0; }
.level {
  display: inline-block; min-width: 7.2rem; margin-right: 0.6rem;
  padding: 0 0.5rem; border: 1px solid currentColor; border-radius: 99px;
  font-size: 0.8rem; font-weight: 600; text-align: center;
}
.good .level { color: var(--good); }
.look .level { color: var(--look); }
.bad .level { color: var(--bad); }
strong { color: var(--look); }
nav a { display: inline-block; margin: 0 1.25rem 0.75rem 0; }
header { margin-bottom: 1rem; }
code { font: 0.9em ui-monospace, Menlo, Consolas, monospace; }
figure { margin: 0; overflow-x: auto; }
img { display: block; width: 100%; min-width: 34rem; height: auto; }
figcaption { font-size: 0.85rem; margin-top: 0.5rem; }
.scroll { overflow-x: auto; }
table {
  border-collapse: collapse; width: 100%; font-size: 0.87rem;
  font-variant-numeric: tabular-nums;
}
caption { text-align: left; padding-bottom: 0.5rem; }
th, td {
  padding: 0.3rem 0.7rem 0.3rem 0; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; vertical-align: top;
}
th:first-child { text-align: left; overflow-wrap: anywhere; }
tbody th {
  font-weight: 500; white-space: normal; min-width: 12rem;
}
footer { margin-top: 3rem; font-size: 0.85rem; }
@media print {
  :root { font-size: 10px; }
  body { max-width: none; padding: 0; font-size: 1rem; background: none; }
  .columns { display: block; }
  .card { border: none; padding: 0.3rem 0; break-inside: avoid; }
  img { min-width: 0; }
  .scroll, figure { overflow: visible; }
  section + section { break-before: page; }
}
"""
