"""The study of docs/study.md: does sense distillation help, on English that nobody generated?

python -m benchmarks.study texts         the text of the books' teachers, split by document
python -m benchmarks.study teachers      these two teachers (about 16 CPU minutes each)
python -m benchmarks.study run [NAME…]   its comparisons, resumable; results into docs/study/
python -m benchmarks.study tables        the tables of docs/study.md out of docs/study/
"""
