"""The report of a run, one HTML page: ``report.write_report``.

``page`` turns blocks of text, tables and figures into HTML. ``figures`` draw numbers, ``pictures`` data, draws and
codes. ``evidence`` says what there is to say of log p(x), ``diagnosis`` runs the diagnostics and words what they find.
"""
