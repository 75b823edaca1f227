"""The style of the page, on light and on dark ground."""

from collections.abc import Mapping

from ringtable._bench import charts

COLOURS = {
    "shared": ("#c2410c", "#ff9460"),
    "sharded": ("#c98a00", "#f2c14e"),
    "lanes": ("#0b5fa5", "#5aa9e6"),
    "lanes+direct": ("#3f9be0", "#a5d8ff"),
    "unix": ("#00795f", "#3ccfa8"),
    "tcp": ("#9c4a8f", "#e3a4d8"),
    "udp": ("#66701a", "#c3cf5c"),
    "manager": ("#6b5b4b", "#c9b8a6"),
    "valkey": ("#7a2e3a", "#e58a98"),
    "lmdb": ("#4d5560", "#b4bdc9"),
    "memcpy": ("#9aa1aa", "#7d858f"),
}
"""Of each way on light and on dark ground; told apart also by those who do not see all colours."""

STYLE = """
:root { --ground: #ffffff; --panel: #f7f7f5; --ink: #1c1f23; --soft: #5b626b; --faint: #e3e4e1; --crowd: #00000009;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --panel: #1d2126; --ink: #e9ebee; --soft: #a3abb5;
  --faint: #343a42; --crowd: #ffffff0b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 40px 28px 80px; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 32px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 24px; margin: 56px 0 8px; letter-spacing: -0.01em; }
h3 { font-size: 16px; margin: 0 0 2px; }
p { margin: 0 0 12px; max-width: 78ch; }
.lead { font-size: 18px; color: var(--soft); }
.soft, .note-text { color: var(--soft); font-size: 14px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 18px 36px; margin: 26px 0;
  padding: 0; list-style: none; }
.numbers b { display: block; font-size: 40px; line-height: 1.15; letter-spacing: -0.02em; }
.numbers span { display: block; } .numbers small { display: block; color: var(--soft); font-size: 13px; }
body > figure { max-width: 760px; margin: 26px 0; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 18px 0 10px; padding: 0;
  list-style: none; font-size: 14px; }
.facts b { font-weight: 600; margin-right: 6px; }
.ways { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; margin: 18px 0 0; font-size: 14px; }
.ways dt { font-weight: 600; } .ways dd { margin: 0; color: var(--soft); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px; }
.verdict { background: var(--panel); border-radius: 10px; padding: 22px 26px; margin-top: 28px; }
.verdict h3 { margin-top: 14px; } .verdict h2 { margin: 0; }
.verdict ul { margin: 4px 0 0; padding-left: 20px; } .verdict li { margin: 3px 0; max-width: 100ch; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 22px 36px; margin: 22px 0; }
@media (max-width: 560px) { .grid { grid-template-columns: 1fr; } body { padding: 24px 14px; } }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 13px; }
svg text { fill: var(--ink); }
svg .tick, svg .note, svg .axis-name { fill: var(--soft); font-size: 12px; }
svg .small { font-size: 11px; } svg .small:not(.value) { fill: var(--soft); }
svg .grid { stroke: var(--faint); } svg .axis { stroke: var(--soft); }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; }
svg .reference { fill: var(--ink); stroke: var(--ground); }
svg .crowd { fill: var(--crowd); } svg .ink { fill: var(--ink); }
svg .fill { fill: var(--series); } svg .stroke { stroke: var(--series); stroke-width: 2.2; }
svg .leader { stroke: var(--series); stroke-width: 1; opacity: 0.7; } .key { background: var(--series); }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
.scroll { overflow-x: auto; }
.tables { display: flex; flex-wrap: wrap; gap: 4px 24px; }
table { border-collapse: collapse; font-size: 12.5px; margin: 4px 0 16px; }
table, svg text { font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 8px 0 4px; white-space: nowrap; }
th, td { padding: 4px 8px 4px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th { font-weight: 500; color: var(--soft); } th:first-child, td:first-child { text-align: left; }
.ratios { columns: 2 420px; column-gap: 36px; font-size: 14px; }
.ratios div { break-inside: avoid; margin-bottom: 14px; }
.ratios ul { margin: 2px 0 0; padding-left: 18px; }
@media print { body { max-width: none; } details > * { display: block; } }
"""


def series_style(colours: Mapping[str, tuple[str, str]]) -> str:
    """The colours of all series, for light and for dark ground."""
    light, dark = (
        " ".join(f".{charts.series([name], name)} {{ --series: {pair[of]}; }}" for name, pair in colours.items())
        for of in (0, 1)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"
