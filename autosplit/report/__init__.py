"""Results for people: terminal tables, figures, the report page, progress bars, HTML in notebooks.

May import everything up to `runtime`; `pipeline`, `experiments` and `cli` import it. Begin with `figures` (what each
figure shows) and `tables`; `draw_plotly` and `draw_matplotlib` draw the figures, `page` makes the report.
"""
