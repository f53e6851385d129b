"""The page's style sheet: light and dark by the reader's setting, no font or file from elsewhere.

The colours are Okabe and Ito's, which people with any kind of colour blindness tell apart, darkened or lightened to
stand out from the background. In small print the lines' dashes and the tables say the same without colour.
"""

from __future__ import annotations

_LIGHT = {
    "back": "#fbfbfa", "card": "#ffffff", "text": "#1d2126",
    "soft": "#5b6570", "rule": "#dfe3e8", "grid": "#e9ecef",
    "c0": "#0072b2", "c1": "#d55e00", "c2": "#008f68", "c3": "#b8578f",
    "c4": "#b07a00", "c5": "#3a9bd6",
}  # fmt: skip
_DARK = {
    "back": "#14171b", "card": "#1b1f24", "text": "#e8eaed",
    "soft": "#a3adb8", "rule": "#333a43", "grid": "#2a3038",
    "c0": "#4ba3e3", "c1": "#ff8a4a", "c2": "#2fc79c", "c3": "#e39cc4",
    "c4": "#f0b640", "c5": "#a5dcff",
}  # fmt: skip


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_SERIES = "".join(f".c{n}{{--c:var(--c{n})}}" for n in range(6))

CSS = (
    f":root{{color-scheme:light dark;{_variables(_LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(_DARK)}}}}}"
    + _SERIES
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 64px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:44px 0 6px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:22px 0 6px}
p{margin:0 0 10px}
.lead{color:var(--soft);overflow-wrap:anywhere}
.note-text{color:var(--soft);font-size:.9rem;max-width:75ch}
.run+.run{margin-top:72px;padding-top:24px;border-top:3px solid var(--rule)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:10px 24px;margin:18px 0}
.facts div{min-width:0}
dt{color:var(--soft);font-size:.82rem}
dd{margin:0;overflow-wrap:anywhere}
.facts.big{grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.facts.big div{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 14px}
.facts.big dd{font-size:1.2rem;white-space:nowrap;font-weight:600;font-variant-numeric:tabular-nums}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:16px;margin:12px 0;
 align-items:start}
.grid.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr))}
figure,.box{margin:0;min-width:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;
 padding:12px 14px 8px}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:4px;overflow-wrap:anywhere}
figure>svg{display:block;width:100%;height:auto}
svg text{font-size:11.5px;fill:var(--soft)}
.small svg text{font-size:13px}
svg .label{fill:var(--text)}
svg .note{fill:var(--text)}
path.rung{stroke:var(--grid)}
path.axis,path.tick{stroke:var(--soft)}
path.mark{stroke:var(--soft);stroke-dasharray:4 3;fill:none}
.line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.neutral{--c:var(--text)}
.chips{list-style:none;display:flex;flex-wrap:wrap;gap:6px;margin:0 0 12px;padding:0}
.chips li{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:1px 8px;font-size:.9rem;
 overflow-wrap:anywhere}
.box h3{margin:0 0 8px;font-size:.95rem}
.box p{color:var(--soft);font-size:.85rem}
.strong{stroke-width:3}
.faint{fill:none;stroke:var(--c);stroke-width:1;opacity:.22}
.small .faint{opacity:.13}
.dot{fill:var(--c);stroke:var(--card);stroke-width:.8}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0;padding:0;font-size:.9rem}
.legend li{overflow-wrap:anywhere}
.sample{width:24px;height:8px;margin-right:7px;vertical-align:middle}
.sample .line{stroke-width:3}
.wide{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:4px 16px 4px 0;text-align:left;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{color:var(--soft);font-weight:500;border-bottom-color:var(--soft)}
tbody th{font-weight:400}
.sums tbody tr:last-child>*{font-weight:600}
.n{text-align:right;white-space:nowrap}
thead th{vertical-align:bottom}
thead .n{white-space:normal;overflow-wrap:anywhere;min-width:5em}
details{font-size:.9rem;margin:6px 0}
summary{cursor:pointer;color:var(--soft);font-size:.85rem}
footer{margin-top:56px;color:var(--soft);font-size:.85rem}
@media (max-width:560px){main{padding:20px 12px 48px}svg text,.small svg text{font-size:13px}
 figure{padding:10px 8px 6px}}
@media print{figure{break-inside:avoid}}
"""
)
