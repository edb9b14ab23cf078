"""A graph as text for people and for other programs: Python, a tree, Graphviz. Knows no files and no styles."""
