"""The study: does a class tree help a classifier, what does it cost, and what if it is wrong?

`python -m studies run` trains and measures, and `python -m studies report` makes the tables and
figures of docs/study.md from what was measured. README.md beside this file has the protocol, which
was fixed before the runs.
"""
