"""Rendering of results: tables on a terminal and in Markdown, charts, figures, leaderboard, paper tables, dataset pages.

`text_tables` and `tables` print, `figures`, `score_charts` and `paper_figures` draw, `leaderboard` lists studies and
trials, `paper_tables` holds Tables 1 to 3 of the paper, `results_folder` writes the files of an evaluation,
`dataset_inspection` and `contact_sheets` the pages of `raymix.prepare inspect=`. Computes no scores and runs no model.
"""
