"""`make gpu-check`: a GPU owner's first ten minutes. What is seen, right, resumed and fast, and the hours that follow.

Each framework runs in a process of its own (torch_side.py, tf_side.py), since they may lie in two environments.
"""
