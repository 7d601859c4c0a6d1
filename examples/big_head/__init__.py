"""A head over a million classes and more, in one process or over several."""
