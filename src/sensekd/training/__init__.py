"""Training: data, teacher, student, the distillation itself and the folder that it leaves.

`sensekd.training.distill.distill` runs one from beginning to end; `sensekd.training.trainer` is for loops of your own.
Nothing is imported here, so that looking at this room costs nothing.
"""
