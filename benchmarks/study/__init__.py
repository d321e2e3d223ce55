"""The study of docs/study.md: does sense distillation help, on English that nobody generated?

python -m benchmarks.study teachers      the two teachers of the books (about 25 CPU minutes each)
python -m benchmarks.study run [NAME…]   its comparisons, resumable; results into docs/study/
python -m benchmarks.study tables        the tables of docs/study.md out of docs/study/
"""
