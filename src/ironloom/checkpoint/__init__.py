"""What a checkpoint is, how it becomes complete, how it is found again.

Knows folders, files and trees of tensors; knows nothing of models, optimizers or the loop. ``discovery``,
``failures``, ``folder``, ``lock`` and ``manifest`` never import torch, so that commands which look at
checkpoints answer at once.
"""
