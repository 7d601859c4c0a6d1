"""What decisions and metrics have in common: where answers stand in a hierarchy.

`points`: every node, and every class at an inner node as a leaf of its own. `ancestry`: who is
above whom. `rows`: the input's rows and their probabilities. `specificity`: how much an answer
says. `levels`: the answers at each depth.
"""
